"""The routes of the Conversations API."""

from typing import Any

from starlette.responses import JSONResponse, Response

from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import inputs, lists
from perdure.doors.openai.conversations.keeping import Conversations
from perdure.doors.openai.conversations.records import ConversationRecord

Json = dict[str, Any]


async def create(call: Call) -> Response:
    """POST /conversations."""
    body = await call.json()
    items = inputs.as_list(body.get("items") or [], "items")
    record = await Conversations(call).make(body.get("metadata"), items)
    return JSONResponse(conversation_json(record))


async def retrieve(call: Call) -> Response:
    """GET /conversations/{id}."""
    return JSONResponse(conversation_json(await Conversations(call).get(_name(call))))


async def update(call: Call) -> Response:
    """POST /conversations/{id}: other metadata."""
    body = await call.json()
    record = await Conversations(call).describe(_name(call), body.get("metadata"))
    return JSONResponse(conversation_json(record))


async def delete(call: Call) -> Response:
    """DELETE /conversations/{id}."""
    await Conversations(call).delete(_name(call))
    return JSONResponse({"id": _name(call), "object": "conversation.deleted", "deleted": True})


async def add_items(call: Call) -> Response:
    """POST /conversations/{id}/items."""
    body = await call.json()
    items = inputs.as_list(body.get("items"), "items")
    added = await Conversations(call).add(_name(call), items)
    return lists.page(added, has_more=False)


async def list_items(call: Call) -> Response:
    """GET /conversations/{id}/items."""
    told = await Conversations(call).told(_name(call))
    return lists.paged([entry.item for entry in told.story.entries], call)


async def retrieve_item(call: Call) -> Response:
    """GET /conversations/{id}/items/{item_id}."""
    _, entry = await Conversations(call).entry(_name(call), call.path["item_id"])
    return JSONResponse(entry.item)


async def delete_item(call: Call) -> Response:
    """DELETE /conversations/{id}/items/{item_id}."""
    conversations = Conversations(call)
    await conversations.drop(_name(call), call.path["item_id"])
    return JSONResponse(conversation_json(await conversations.get(_name(call))))


def conversation_json(record: ConversationRecord) -> Json:
    """Return a conversation."""
    return {
        "id": record.id,
        "object": "conversation",
        "created_at": record.created_at,
        "metadata": record.metadata,
    }


def _name(call: Call) -> str:
    return call.path["conversation_id"]


_ONE = "/conversations/{conversation_id}"
ENDPOINTS = (
    Endpoint("POST", "/conversations", create, "operator", "conversations.create"),
    Endpoint("GET", _ONE, retrieve, "viewer", "conversations.retrieve"),
    Endpoint("POST", _ONE, update, "operator", "conversations.update"),
    Endpoint("DELETE", _ONE, delete, "operator", "conversations.delete"),
    Endpoint("POST", f"{_ONE}/items", add_items, "operator", "conversations.items.create"),
    Endpoint("GET", f"{_ONE}/items", list_items, "viewer", "conversations.items.list"),
    Endpoint("GET", f"{_ONE}/items/{{item_id}}", retrieve_item, "viewer", "items.retrieve"),
    Endpoint("DELETE", f"{_ONE}/items/{{item_id}}", delete_item, "operator", "items.delete"),
)
