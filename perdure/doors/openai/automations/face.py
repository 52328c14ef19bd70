"""The routes of automations."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace
from starlette.responses import JSONResponse, Response

from perdure.core import schedules as plan
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import lists
from perdure.doors.openai.agents import definitions
from perdure.doors.openai.agents.agents import find
from perdure.doors.openai.agents.hosting import read_hosting
from perdure.doors.openai.automations.duty import Deliveries
from perdure.doors.openai.automations.records import (
    AutomationRecord,
    automation_json,
    automations,
    begun,
    invocation_json,
    invocations,
    moment_us,
    scheduled,
)
from perdure.doors.openai.problems import Wording
from perdure.engine.calendar import following_of

Json = dict[str, Any]

_OF_PERIODIC: Final = ("expression", "timezone")


async def create(call: Call) -> Response:
    """POST /agents/automations."""
    body = await call.json()
    name = call.services.new_id("auto_").lower()
    record = AutomationRecord(
        id=name,
        created_at=call.services.seconds(),
        name=_name(body.get("name")),
        schedule=scheduled(body, name, call.services.clock.now_us()),
        target=await _target(call, body.get("target")),
        metadata=definitions.metadata(body.get("metadata")),
    )
    await automations(call.engine.kit.store).put(name, record, expect=0)
    return JSONResponse(automation_json(record))


async def retrieve(call: Call) -> Response:
    """GET /agents/automations/{id}."""
    return JSONResponse(automation_json((await _automation(call))[0]))


async def update(call: Call) -> Response:
    """POST /agents/automations/{id}: what is left out stays as it is."""
    body = await call.json()
    record, version = await _automation(call)
    changed = replace(record, schedule=_rescheduled(call, record, body))
    if "name" in body:
        changed = replace(changed, name=_name(body["name"]))
    if "metadata" in body:
        changed = replace(changed, metadata=definitions.metadata(body["metadata"]))
    if "target" in body:
        target = await _target(call, body["target"])
        if target["type"] != record.target["type"]:
            raise Wording(400, "A target keeps its type.", param="target.type")
        changed = replace(changed, target=target)
    await automations(call.engine.kit.store).put(record.id, changed, expect=version)
    return JSONResponse(automation_json(changed))


async def listed(call: Call) -> Response:
    """GET /agents/automations, those that write to a session."""
    wanted = call.query.get("session_id")
    docs = automations(call.engine.kit.store)
    found, more = await lists.documents(
        docs, call, lambda r: r.id, lambda r: not wanted or r.target.get("session_id") == wanted
    )
    return lists.page([automation_json(record) for record in found], has_more=more)


async def delete(call: Call) -> Response:
    """DELETE /agents/automations/{id}. The sessions that it made stay."""
    record, _ = await _automation(call)
    store = call.engine.kit.store
    await automations(store).delete(record.id)
    docs = invocations(store)
    async for name, _ in docs.each(prefix=f"{record.id}/"):
        await docs.delete(name)
    kind = "agent.automation.deleted"
    return JSONResponse({"id": record.id, "object": kind, "deleted": True})


async def pause(call: Call) -> Response:
    """POST /agents/automations/{id}/pause."""
    record, _ = await _automation(call)
    changed = await _deliveries(call).change(
        record.id, lambda r: replace(r, schedule=plan.paused(r.schedule))
    )
    return JSONResponse(automation_json(changed))


async def resume(call: Call) -> Response:
    """POST /agents/automations/{id}/resume: go on with the next fire time after now."""
    record, _ = await _automation(call)
    now_us = call.services.clock.now_us()

    def resumed(r: AutomationRecord) -> AutomationRecord:
        schedule = plan.resumed(r.schedule, now_us, following_of(r.schedule))
        return replace(r, schedule=schedule, pause_reason="")

    return JSONResponse(automation_json(await _deliveries(call).change(record.id, resumed)))


async def invoke(call: Call) -> Response:
    """POST /agents/automations/{id}/invocations: deliver once, now."""
    record, _ = await _automation(call)
    return JSONResponse(invocation_json(await _deliveries(call).invoke(record.id)))


async def listed_invocations(call: Call) -> Response:
    """GET /agents/automations/{id}/invocations."""
    record, _ = await _automation(call)
    docs = invocations(call.engine.kit.store)
    found = [invocation_json(each) async for _, each in docs.each(prefix=f"{record.id}/")]
    return lists.paged(found, call)


async def invocation(call: Call) -> Response:
    """GET /agents/automations/{id}/invocations/{iid}."""
    record, _ = await _automation(call)
    name = call.path["invocation_id"]
    found = await invocations(call.engine.kit.store).find(f"{record.id}/{name}")
    if found is None:
        raise Wording(404, f"No invocation found with id '{name}'.", param="invocation_id")
    return JSONResponse(invocation_json(found))


def _rescheduled(call: Call, record: AutomationRecord, body: Json) -> plan.Schedule:
    schedule = record.schedule
    periodic = schedule.at_us is None
    for name in ("expression", "timezone", "run_at"):
        if name in body and (name in _OF_PERIODIC) is not periodic:
            raise Wording(400, f"{name} is not for an automation of this type.", param=name)
    if "run_at" in body:
        if schedule.next_us is None:
            raise Wording(400, "It has run; make another automation.", param="run_at")
        at_us = moment_us(body)
        return replace(schedule, at_us=at_us, next_us=at_us)
    if not periodic or not any(name in body for name in _OF_PERIODIC):
        return schedule
    shown = {"type": "periodic", "expression": schedule.cron, "timezone": schedule.tz}
    now_us = call.services.clock.now_us()
    asked = scheduled(
        {**shown, **{n: body[n] for n in _OF_PERIODIC if n in body}}, record.id, now_us
    )
    return begun(replace(schedule, cron=asked.cron, tz=asked.tz), now_us)


async def _target(call: Call, given: object) -> Json:
    """Return a target as it is kept, with what is shown of it. Raises `Wording` (400, 404)."""
    if not isinstance(given, Mapping):
        raise Wording(400, "An automation needs a target.", param="target")
    match given.get("type"):
        case "existing_session":
            name, words = given.get("session_id"), given.get("instructions")
            if not isinstance(words, str) or not words.strip():
                raise Wording(400, "instructions is a text.", param="target.instructions")
            if not isinstance(name, str) or await call.engine.kit.store.session(name) is None:
                said = f"No session found with id '{name}'."
                raise Wording(404, said, param="target.session_id")
            kept: Json = {"type": "existing_session", "session_id": name, "instructions": words}
            return {**kept, "shown": dict(kept)}
        case "new_session":
            return await _new_session(call, given)
        case kind:
            raise Wording(400, f"There is no target of type {kind!r}.", param="target.type")


async def _new_session(call: Call, given: Mapping[str, Any]) -> Json:
    """Return a target that makes sessions: what is wrong with it is said now, not at night."""
    own, agent_id = given.get("agent"), given.get("agent_id")
    if own and agent_id:
        raise Wording(400, "Give either agent or agent_id.", param="target.agent")
    if agent_id:
        await find(call.engine, str(agent_id))
    settings = definitions.settings(own if isinstance(own, Mapping) else {})
    if not settings["model"]:
        settings["model"] = call.services.settings.default_model
    if not agent_id:
        call.services.model(settings["model"])
    said = given.get("input")
    definitions.words(said, "target.input")
    vaults = [str(each) for each in given.get("vault_ids") or ()]
    metadata = definitions.metadata(given.get("metadata"))
    request = {k: given[k] for k in ("agent", "agent_id", "environment") if given.get(k)}
    return {
        "type": "new_session",
        "request": {**request, "input": said, "vault_ids": vaults, "metadata": metadata},
        "shown": {
            "type": "new_session",
            "agent": None if agent_id else _agent_shown(settings),
            "agent_id": agent_id or None,
            "environment": _environment_shown(given.get("environment")),
            "input": _input_shown(said),
            "metadata": metadata,
            "vault_ids": vaults,
        },
    }


def _agent_shown(settings: Json) -> Json:
    shown = definitions.snapshot("", settings)
    return {k: v for k, v in shown.items() if k not in ("id", "name")}


def _environment_shown(given: object) -> Json:
    """Return an environment without values, commands and contents."""
    if not isinstance(given, Mapping):
        raise Wording(400, "A new session needs an environment.", param="target.environment")
    if given.get("type") == "none":
        return {"type": "none"}
    if given.get("type") != "openai_hosted":
        said = f"Environments of type {given.get('type')!r} are not available on this server."
        raise Wording(400, said, param="target.environment.type")
    hosting, _ = read_hosting({k: v for k, v in given.items() if v is not None})
    shown = hosting.shown()
    found: Json = {name: shown[name] if given.get(name) else None for name in shown}
    for name in ("container_size", "environment_id", "environment_template_id"):
        found[name] = given.get(name)
    files = [
        {"type": "file_id", "file_id": file.file_id, "path": file.path}
        if file.file_id
        else {"type": "inline", "path": file.path, "size_bytes": file.size_bytes}
        for file in hosting.files
    ]
    return {"type": "openai_hosted", **found, "files": files if given.get("files") else None}


def _input_shown(given: object) -> list[Json]:
    messages = given if isinstance(given, list) else [{"role": "user", "content": given}]
    found: list[Json] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            content = [{"type": "input_text", "text": content}]
        found.append({"type": "message", "role": "user", "content": content})
    return found


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Wording(400, "An automation needs a name.", param="name")
    return value


async def _automation(call: Call) -> tuple[AutomationRecord, int]:
    name, docs = call.path["automation_id"], automations(call.engine.kit.store)
    if await docs.find(name) is None:
        raise Wording(404, f"No automation found with id '{name}'.", param="automation_id")
    return await docs.versioned(name)


def _deliveries(call: Call) -> Deliveries:
    return Deliveries(call.engine, call.services, call.principal.project)


_ALL: Final = "/agents/automations"
_EACH: Final = f"{_ALL}/{{automation_id}}"
_RUNS: Final = f"{_EACH}/invocations"

ENDPOINTS: Final = (
    Endpoint("POST", _ALL, create, "operator", "automations.create"),
    Endpoint("GET", _ALL, listed, "viewer", "automations.list"),
    Endpoint("GET", _EACH, retrieve, "viewer", "automations.retrieve"),
    Endpoint("POST", _EACH, update, "operator", "automations.update"),
    Endpoint("DELETE", _EACH, delete, "operator", "automations.delete"),
    Endpoint("POST", f"{_EACH}/pause", pause, "operator", "automations.pause"),
    Endpoint("POST", f"{_EACH}/resume", resume, "operator", "automations.resume"),
    Endpoint("POST", _RUNS, invoke, "operator", "invocations.create"),
    Endpoint("GET", _RUNS, listed_invocations, "viewer", "invocations.list"),
    Endpoint("GET", f"{_RUNS}/{{invocation_id}}", invocation, "viewer", "invocations.retrieve"),
)
