"""The routes of the Responses API."""

from collections.abc import AsyncIterator
from typing import Any

from msgspec.structs import replace
from starlette.responses import JSONResponse, Response

from perdure.core.errors import PerdureError
from perdure.doors import sse
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai.problems import Wording, body_of
from perdure.doors.openai.responses.counting import compact, input_tokens
from perdure.doors.openai.responses.making import Maker
from perdure.doors.openai.responses.reading import Reader
from perdure.doors.openai.turns.records import ResponseRecord
from perdure.engine.session import Session

Json = dict[str, Any]


async def create(call: Call) -> Response:
    """POST /responses."""
    body = await call.json()
    record = await Maker(call).make(body)
    reader = Reader(call.engine)
    if body.get("stream"):
        return _stream(call, reader.stream(record))
    if record.background:
        call.engine.wake(record.session)
        return JSONResponse(await reader.now(record))
    return JSONResponse(await reader.ended(record))


async def retrieve(call: Call) -> Response:
    """GET /responses/{id}, now or as a stream behind `starting_after`."""
    record = await _record(call)
    reader = Reader(call.engine)
    if call.query.get("stream", "").lower() == "true":
        after = call.number("starting_after", -1, least=-1)
        return _stream(call, reader.stream(record, after))
    return JSONResponse(await reader.now(record))


async def cancel(call: Call) -> Response:
    """POST /responses/{id}/cancel. One that has ended stays as it is."""
    record = await _record(call)
    reader = Reader(call.engine)
    now = await reader.now(record)
    if now["status"] in ("queued", "in_progress"):
        if not record.background:
            raise Wording(400, "Cannot cancel a synchronous response.", code="not_background")
        await Session(call.engine, record.session).interrupt(by=call.principal.id)
        now = await reader.ended(record)
    return JSONResponse(now)


async def delete(call: Call) -> Response:
    """DELETE /responses/{id}."""
    record = await _record(call)
    now = await Reader(call.engine).now(record)
    if now["status"] in ("queued", "in_progress") and not record.conversation:
        await Session(call.engine, record.session).interrupt(by=call.principal.id)
    records = Maker(call).records
    if record.conversation:  # its items stay there, and look as they did
        await records.put(record.id, replace(record, stored=False, inputs=[], final=None))
    else:
        await records.delete(record.id)
    return JSONResponse({"id": record.id, "object": "response", "deleted": True})


async def input_items(call: Call) -> Response:
    """GET /responses/{id}/input_items."""
    record = await _record(call)
    items = list(record.inputs)
    if call.query.get("order", "desc") == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    after = call.query.get("after")
    if after:
        items = items[ids.index(after) + 1 :] if after in ids else []
    limit = call.number("limit", 20, most=100)
    page = items[:limit]
    return JSONResponse(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > len(page),
        }
    )


async def _record(call: Call) -> ResponseRecord:
    name = call.path["response_id"]
    record = await Maker(call).records.find(name)
    if record is None or not record.stored:
        raise Wording(404, f"Response with id '{name}' not found.", param="response_id")
    return record


def _stream(call: Call, events: AsyncIterator[Json]) -> Response:
    async def frames() -> AsyncIterator[bytes]:
        number = 0
        try:
            async for event in events:
                number = event["sequence_number"]
                yield sse.frame(event, event=event["type"])
        except PerdureError as error:
            said = body_of(error)["error"]
            wrong = {"type": "error", "sequence_number": number + 1} | said
            yield sse.frame(wrong, event="error")

    return sse.stream(frames(), call.services.settings.keepalive_s)


ENDPOINTS = (
    Endpoint("POST", "/responses", create, "operator", "responses.create"),
    Endpoint("POST", "/responses/compact", compact, "operator", "responses.compact"),
    # To count what MCP servers list is to connect to them, and to keep what opens them.
    Endpoint("POST", "/responses/input_tokens", input_tokens, "operator", "input_tokens"),
    Endpoint("GET", "/responses/{response_id}", retrieve, "viewer", "responses.retrieve"),
    Endpoint("DELETE", "/responses/{response_id}", delete, "operator", "responses.delete"),
    Endpoint("POST", "/responses/{response_id}/cancel", cancel, "operator", "responses.cancel"),
    Endpoint("GET", "/responses/{response_id}/input_items", input_items, "viewer", "input_items"),
)
