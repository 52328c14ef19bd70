"""Sessions, and what is read of them: turns, items, subagents."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from perdure.core.errors import InvalidRequest, NotFound, PerdureError
from perdure.doors import replies, sse
from perdure.doors.http import Call
from perdure.doors.openai import lists
from perdure.doors.openai.agents import records
from perdure.doors.openai.agents.making import Sessions
from perdure.doors.openai.agents.reading import START, Reader, Told
from perdure.doors.openai.agents.records import SessionRecord
from perdure.doors.openai.agents.story import TurnView
from perdure.doors.openai.problems import Wording, body_of
from perdure.doors.repeats import Repeat

Json = dict[str, Any]


async def create(call: Call) -> Response:
    """POST /agents/sessions, with `stream` as the stream of its first turn."""
    body = await call.json()
    repeat = Repeat(call, "sessions", body)
    async with repeat.alone():
        name = await repeat.before() or f"sess_{call.services.new_id().lower()}"
        await repeat.makes(name)
        try:
            record = await maker(call).make(body, name)
        except (Wording, InvalidRequest, NotFound):
            await repeat.forget()  # nothing was made: another body may have the key
            raise
    reader = Reader(call.engine)
    if not body.get("stream"):
        return replies.Json(await reader.now(record))
    if not body.get("input"):
        return streamed(call, _first(reader, record))
    return streamed(call, reader.stream(record, START, until_rest=True))


async def retrieve(call: Call) -> Response:
    """GET /agents/sessions/{id}."""
    reader = Reader(call.engine)
    return replies.Json(await reader.now(await session_of(call)))


async def update(call: Call) -> Response:
    """POST /agents/sessions/{id}: what is left out stays as it is."""
    body = await call.json()
    record = await session_of(call)
    changed = await maker(call).change(record.id, body)
    return replies.Json(await Reader(call.engine).now(changed))


async def delete(call: Call) -> Response:
    """DELETE /agents/sessions/{id}. An open turn is cancelled; the journal stays with us."""
    record = await session_of(call)
    await maker(call).delete(record.id)
    gone = {"id": record.id, "object": "agent.session.deleted", "deleted": True}
    return replies.Json(gone)


async def listed(call: Call) -> Response:
    """GET /agents/sessions, those of an agent or with all the metadata named."""
    agent, wanted = call.query.get("agent_id"), call.metadata()

    def fits(record: SessionRecord) -> bool:
        return (not agent or record.agent_id == agent) and wanted.items() <= record.metadata.items()

    docs = records.sessions(call.engine.kit.store)
    found, more = await lists.documents(docs, call, lambda record: record.id, fits)
    reader, shown = Reader(call.engine), []
    for record in found:
        with contextlib.suppress(NotFound):  # deleted at this very moment
            shown.append(await reader.now(record))
    return lists.page(shown, has_more=more)


async def items(call: Call) -> Response:
    """GET …/items, of the session or of a subagent."""
    return lists.paged((await _told(call)).story.items, call)


async def turns(call: Call) -> Response:
    """GET …/turns, of the session or of a subagent."""
    told = await _told(call)
    return lists.paged([told.turn_json(turn) for turn in told.story.turns], call)


async def turn(call: Call) -> Response:
    """GET …/turns/{id}."""
    told = await _told(call)
    return replies.Json(told.turn_json(_turn(call, told)))


async def turn_items(call: Call) -> Response:
    """GET …/turns/{id}/items."""
    told = await _told(call)
    return lists.paged(told.story.items_of(_turn(call, told)), call)


async def subagents(call: Call) -> Response:
    """GET …/subagents, those of subagents too."""
    return lists.paged(await _subagents(call), call)


async def subagent(call: Call) -> Response:
    """GET …/subagents/{id}."""
    name = call.path["subagent_id"]
    found = next((each for each in await _subagents(call) if each["id"] == name), None)
    if found is None:
        raise Wording(404, f"No subagent found with id '{name}'.", param="subagent_id")
    return replies.Json(found)


def maker(call: Call) -> Sessions:
    """Return what makes and changes sessions in the caller's name."""
    return Sessions(call.engine, call.services, call.principal.project, call.principal.id)


async def session_of(call: Call) -> SessionRecord:
    """Return the session that a path names. Raises `Wording` (404)."""
    return await Reader(call.engine).record(call.path["session_id"])


def streamed(call: Call, events: AsyncIterator[Json]) -> Response:
    """Return a response that sends events as they come, each with its id."""

    async def frames() -> AsyncIterator[bytes]:
        try:
            async for event in events:
                yield sse.frame(event, event=event["type"], id=event["event_id"])
            yield sse.DONE
        except PerdureError as error:
            said = body_of(error)["error"]
            about = {"session_id": call.path.get("session_id", ""), "error": said}
            wrong = {"type": "error", "event_id": f"error.{call.request_id}", **about}
            yield sse.frame(wrong, event="error")

    return sse.stream(frames(), call.services.settings.keepalive_s)


async def _first(reader: Reader, record: SessionRecord) -> AsyncIterator[Json]:
    """Yield that a session was created: it has nothing to do yet."""
    async for event in reader.stream(record, START):
        yield event
        return


async def _told(call: Call) -> Told:
    record = await session_of(call)
    return await Reader(call.engine).told(record, call.path.get("subagent_id", ""))


def _turn(call: Call, told: Told) -> TurnView:
    name = call.path["turn_id"]
    for each in told.story.turns:
        if each.id == name:
            return each
    raise Wording(404, f"No turn found with id '{name}'.", param="turn_id")


async def _subagents(call: Call) -> list[Json]:
    """Return all subagents below a session, in the order they were opened."""
    record, reader = await session_of(call), Reader(call.engine)
    found: list[Json] = []
    names = [""]
    while names:
        told = await reader.told(record, names.pop())
        for view in told.story.subagents.values():
            found.append(told.story.subagent_json(view))
            if await call.engine.kit.store.session(view.id) is not None:
                names.append(view.id)
    return sorted(found, key=lambda each: (each["opened_at"], each["id"]))
