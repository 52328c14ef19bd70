"""The routes of Chat Completions. Each completion is a session of one turn, with its budget, its
journal and its errors; what is stored of it beside that is a document.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from starlette.responses import JSONResponse, Response

from perdure.core.errors import PerdureError
from perdure.doors import sse
from perdure.doors.documents import Documents
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import lists
from perdure.doors.openai.chat.asking import as_response
from perdure.doors.openai.chat.rendering import Chunks, completion
from perdure.doors.openai.conversations.keeping import described
from perdure.doors.openai.problems import Wording, body_of
from perdure.doors.openai.responses.making import Maker
from perdure.doors.openai.responses.reading import Reader
from perdure.doors.openai.turns.records import ResponseRecord

Json = dict[str, Any]
KIND: Final = "openai.chat"


class ChatRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stored completion, and the messages it answered."""

    id: str
    completion: Json
    messages: list[Json]


async def create(call: Call) -> Response:
    """POST /chat/completions."""
    body = await call.json()
    described(body.get("metadata"))
    record = await Maker(call).make(as_response(body))
    reader = Reader(call.engine)
    if body.get("stream"):
        frames = _frames(call, record, body)
        return sse.stream(frames, call.services.settings.keepalive_s)
    done = completion(await reader.ended(record), body)
    await _keep(call, done, body)
    return JSONResponse(done)


async def list_all(call: Call) -> Response:
    """GET /chat/completions: those that were stored."""
    model, wanted = call.query.get("model"), call.metadata()
    found, more = await lists.documents(
        _stored(call),
        call,
        lambda record: record.id,
        lambda record: _fits(record, model, wanted),
        order="asc",
    )
    return lists.page([record.completion for record in found], has_more=more)


async def retrieve(call: Call) -> Response:
    """GET /chat/completions/{id}."""
    return JSONResponse((await _record(call)).completion)


async def update(call: Call) -> Response:
    """POST /chat/completions/{id}: other metadata."""
    record, body = await _record(call), await call.json()
    changed = record.completion | {"metadata": described(body.get("metadata"))}
    await _stored(call).put(record.id, replace(record, completion=changed))
    return JSONResponse(changed)


async def delete(call: Call) -> Response:
    """DELETE /chat/completions/{id}."""
    record = await _record(call)
    await _stored(call).delete(record.id)
    return JSONResponse({"id": record.id, "object": "chat.completion.deleted", "deleted": True})


async def messages(call: Call) -> Response:
    """GET /chat/completions/{id}/messages."""
    return lists.paged((await _record(call)).messages, call, "asc")


async def _frames(call: Call, record: ResponseRecord, body: Json) -> AsyncIterator[bytes]:
    """Yield the chunks; the end is marked only when nothing went wrong."""
    options = body.get("stream_options")
    with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    chunks = Chunks(with_usage=with_usage)
    try:
        async for event in Reader(call.engine).stream(record):
            for chunk in chunks.feed(event):
                yield sse.frame(chunk)
            if event["type"] in ("response.completed", "response.incomplete"):
                await _keep(call, completion(event["response"], body), body)
    except PerdureError as error:
        yield sse.frame(body_of(error))
        return
    yield sse.DONE


async def _keep(call: Call, done: Json, body: Json) -> None:
    if body.get("store"):
        sent = [
            {"content": None, **message, "id": f"{done['id']}-{number}"}
            for number, message in enumerate(body["messages"])
        ]
        record = ChatRecord(done["id"], done, [_listed(each) for each in sent])
        await _stored(call).put(done["id"], record)


def _listed(message: Json) -> Json:
    """Return a message as it is listed: its parts beside its text."""
    if isinstance(message["content"], list):
        return {**message, "content_parts": message["content"], "content": None}
    return message


def _fits(record: ChatRecord, model: str | None, metadata: dict[str, str]) -> bool:
    kept = record.completion.get("metadata") or {}
    same = all(kept.get(key) == value for key, value in metadata.items())
    return same and (not model or record.completion["model"] == model)


def _stored(call: Call) -> Documents[ChatRecord]:
    return Documents(call.engine.kit.store, KIND, ChatRecord)


async def _record(call: Call) -> ChatRecord:
    name = call.path["completion_id"]
    record = await _stored(call).find(name)
    if record is None:
        raise Wording(404, f"Chat completion '{name}' not found.", param="completion_id")
    return record


_ALL, _ONE = "/chat/completions", "/chat/completions/{completion_id}"
ENDPOINTS = (
    Endpoint("POST", _ALL, create, "operator", "chat.completions.create"),
    Endpoint("GET", _ALL, list_all, "viewer", "chat.completions.list"),
    Endpoint("GET", _ONE, retrieve, "viewer", "chat.completions.retrieve"),
    Endpoint("POST", _ONE, update, "operator", "chat.completions.update"),
    Endpoint("DELETE", _ONE, delete, "operator", "chat.completions.delete"),
    Endpoint("GET", f"{_ONE}/messages", messages, "viewer", "chat.completions.messages"),
)
