"""Environments made ahead of sessions, their files, and templates to make them from."""

from typing import Any, Final

from msgspec.structs import replace
from starlette.responses import JSONResponse, Response

from perdure.core.errors import InvalidRequest
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import lists
from perdure.doors.openai.agents.environments import (
    EnvironmentRecord,
    Host,
    TemplateRecord,
    environments,
    files_json,
    templates,
)
from perdure.doors.openai.agents.hosting import GivenFile, absolute, read_file, relative
from perdure.doors.openai.problems import Wording
from perdure.doors.repeats import Repeat
from perdure.engine.session import Session

Json = dict[str, Any]


async def create(call: Call) -> Response:
    """POST /agents/environments: prepare one. The same Idempotency-Key makes it once."""
    body = await call.json()
    given = body.get("environment")
    if not isinstance(given, dict) or given.get("type") != "openai_hosted":
        said = "Environments of type openai_hosted can be made here."
        raise Wording(400, said, param="environment.type")
    repeat = Repeat(call, "environments", body)
    async with repeat.alone():  # the same key at once makes one, too
        before = await repeat.before()
        made = await environments(call.engine.kit.store).find(before) if before else None
        if made is None:
            made = await _created(call, body, given, repeat)
    return JSONResponse(environment_json(made))


async def _created(call: Call, body: Json, given: Json, repeat: Repeat) -> EnvironmentRecord:
    host = Host(call.engine, call.services)
    hosting = await host.hosting(given)
    # What a try that was cut short has left in its sandbox is not this one's.
    name = call.services.new_id("env_").lower()
    vaults = tuple(str(each) for each in body.get("vault_ids") or ())
    await repeat.makes(name)
    try:
        return await host.prepare(hosting, name, vaults, name=name)
    except (Wording, InvalidRequest):
        await repeat.forget()  # nothing was made: another body may have the key
        raise


async def retrieve(call: Call) -> Response:
    """GET /agents/environments/{id}."""
    return JSONResponse(environment_json(await _environment(call)))


async def listed(call: Call) -> Response:
    """GET /agents/environments."""
    docs = environments(call.engine.kit.store)
    found, more = await lists.documents(docs, call, lambda record: record.id)
    return lists.page([environment_json(record) for record in found], has_more=more)


async def add_file(call: Call) -> Response:
    """POST /agents/environments/{id}/files, while no session works there."""
    record = await _environment(call)
    file, content = read_file(await call.json(), "file")
    if record.session:
        said = f"Environment {record.id} belongs to session {record.session} now."
        raise Wording(400, said, code="environment_in_use")
    if record.failed is not None:
        raise Wording(400, f"Environment {record.id} has failed: {record.failed.message}")
    host = Host(call.engine, call.services)
    content = await host.content(file) if content is None else content
    blob = await call.engine.kit.store.blobs.put(content)
    kept = GivenFile(file.path, file.file_id, blob, len(content))
    await host.write(record, kept, content)
    return JSONResponse(_file_json(record.id, kept.path, kept.size_bytes))


async def files(call: Call) -> Response:
    """GET /agents/environments/{id}/files: what is there now, page by page."""
    record = await _environment(call)
    below = relative(call.query.get("path") or ".")
    order, limit = call.query.get("order") or "desc", call.number("limit", 20, least=1, most=100)
    if order not in ("asc", "desc"):
        raise Wording(400, "order is asc or desc.", param="order")
    kind = record.hosting.spec(call.services.settings.environment).kind
    where = call.engine.kit.environments.get(kind)
    found = []
    if where is not None:
        found = await where.stored(await _snapshot(call, record), "" if below == "." else below)
    found.sort(key=lambda file: file.path.split("/"), reverse=order == "desc")
    page = call.query.get("page", "")
    paths = [file.path for file in found]
    if page:
        found = found[paths.index(page) + 1 :] if page in paths else []
    shown = [_file_json(record.id, file.path, file.size_bytes) for file in found[:limit]]
    more = len(found) > limit
    next_page = found[limit - 1].path if more else None
    return JSONResponse({"object": "list", "data": shown, "has_more": more, "next": next_page})


async def create_template(call: Call) -> Response:
    """POST /agents/environments/templates."""
    body = await call.json()
    now = call.services.seconds()
    record = TemplateRecord(
        id=call.services.new_id("envtmpl_").lower(),
        created_at=now,
        updated_at=now,
        hosting=await Host(call.engine, call.services).read(body),
        name=_name(body.get("name")),
    )
    await templates(call.engine.kit.store).put(record.id, record, expect=0)
    return JSONResponse(template_json(record))


async def retrieve_template(call: Call) -> Response:
    """GET /agents/environments/templates/{id}."""
    return JSONResponse(template_json((await _template(call))[0]))


async def update_template(call: Call) -> Response:
    """POST /agents/environments/templates/{id}: what is left out stays as it is."""
    body = await call.json()
    record, version = await _template(call)
    now = record.hosting
    network = {
        "access": now.access,
        "allowed_domains": list(now.allowed_domains),
        "blocked_domains": list(now.blocked_domains),
    }
    fresh = await Host(call.engine, call.services).read({"network": network, **body})
    fields = {
        "env": ("env",),
        "files": ("files",),
        "network": ("access", "allowed_domains", "blocked_domains"),
        "packages": ("python", "npm", "system"),
        "setup_commands": ("setup_commands",),
        "capability_directories": ("capability_directories",),
    }
    changed: Json = {
        field: getattr(fresh, field) for name in fields if name in body for field in fields[name]
    }
    kept = [each for each in now.capabilities if f"{each.kind}s" not in body]
    changed["capabilities"] = (*kept, *fresh.capabilities)
    record = replace(
        record,
        hosting=replace(record.hosting, **changed),
        name=_name(body["name"]) if "name" in body else record.name,
        updated_at=call.services.seconds(),
    )
    await templates(call.engine.kit.store).put(record.id, record, expect=version)
    return JSONResponse(template_json(record))


async def listed_templates(call: Call) -> Response:
    """GET /agents/environments/templates."""
    docs = templates(call.engine.kit.store)
    found, more = await lists.documents(docs, call, lambda record: record.id)
    return lists.page([template_json(record) for record in found], has_more=more)


async def delete_template(call: Call) -> Response:
    """DELETE /agents/environments/templates/{id}. What was made from it stays."""
    record, _ = await _template(call)
    await templates(call.engine.kit.store).delete(record.id)
    kind = "agent.environment.template.deleted"
    return JSONResponse({"id": record.id, "object": kind, "deleted": True})


def environment_json(record: EnvironmentRecord) -> Json:
    """Return an environment as it is read."""
    return {
        "id": record.id,
        "object": "agent.environment",
        "type": "openai_hosted",
        "status": _status(record),
        "files": files_json(record),
        **record.hosting.shown_capabilities(),
    }


def _status(record: EnvironmentRecord) -> str:
    if record.failed is not None:
        return "failed"
    return "connected" if record.session else "ready"


def template_json(record: TemplateRecord) -> Json:
    """Return a template as it is read: without values, commands and contents."""
    files: list[Json] = []
    for file in record.hosting.files:
        if file.file_id:
            shown: Json = {"type": "file_id", "file_id": file.file_id}
        else:
            shown = {"type": "inline", "size_bytes": file.size_bytes}
        files.append({**shown, "path": absolute(file.path)})
    return {
        "id": record.id,
        "object": "agent.environment.template",
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "name": record.name,
        "files": files,
        **record.hosting.shown(),
    }


def _file_json(environment: str, path: str, size: int) -> Json:
    return {
        "object": "agent.environment.file",
        "environment_id": environment,
        "path": absolute(path),
        "size_bytes": size,
    }


def _name(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Wording(400, "name is a text.", param="name")
    return value


async def _snapshot(call: Call, record: EnvironmentRecord) -> str:
    """Return the workspace as it is now: of the session, where one works in it."""
    if record.session and await call.engine.kit.store.session(record.session) is not None:
        return (await Session(call.engine, record.session).state()).snapshot or record.snapshot
    return record.snapshot


async def _environment(call: Call) -> EnvironmentRecord:
    name = call.path["environment_id"]
    record = await environments(call.engine.kit.store).find(name)
    if record is None:
        raise Wording(404, f"No environment found with id '{name}'.", param="environment_id")
    return record


async def _template(call: Call) -> tuple[TemplateRecord, int]:
    name, docs = call.path["template_id"], templates(call.engine.kit.store)
    if await docs.find(name) is None:
        raise Wording(404, f"No environment template found with id '{name}'.")
    return await docs.versioned(name)


_BASE: Final = "/agents/environments"
_MADE: Final = f"{_BASE}/templates"
_TEMPLATE: Final = f"{_MADE}/{{template_id}}"
_EACH: Final = f"{_BASE}/{{environment_id}}"

ENDPOINTS: Final = (
    Endpoint("POST", _MADE, create_template, "operator", "templates.create"),
    Endpoint("GET", _MADE, listed_templates, "viewer", "templates.list"),
    Endpoint("GET", _TEMPLATE, retrieve_template, "viewer", "templates.retrieve"),
    Endpoint("POST", _TEMPLATE, update_template, "operator", "templates.update"),
    Endpoint("DELETE", _TEMPLATE, delete_template, "operator", "templates.delete"),
    Endpoint("POST", _BASE, create, "operator", "environments.create"),
    Endpoint("GET", _BASE, listed, "viewer", "environments.list"),
    Endpoint("GET", _EACH, retrieve, "viewer", "environments.retrieve"),
    Endpoint("POST", f"{_EACH}/files", add_file, "operator", "environments.add_file"),
    Endpoint("GET", f"{_EACH}/files", files, "viewer", "environments.files"),
)
