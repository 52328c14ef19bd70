"""How items of a client's enter a conversation, and how a response goes on in one."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.core.content import ContextItem, ModelItem, ToolCall
from perdure.core.inbox import AddItems, Brought
from perdure.doors.openai import inputs
from perdure.doors.openai.conversations import shapes
from perdure.doors.openai.conversations.reading import Told
from perdure.doors.openai.conversations.story import unanswered
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]


def prepared(items: Sequence[Json], ids: str, taken: set[str]) -> list[Json]:
    """Return the items complete and named. One whose id is `taken` already gets another.

    Raises `Wording` (400) for what is no item.
    """
    free: list[Json] = []
    seen = set(taken)
    for item in items:
        name = item.get("id")
        known = isinstance(name, str) and name not in seen
        free.append(item if known else {k: v for k, v in item.items() if k != "id"})
        seen.add(str(name))
    named = inputs.named(free, ids)
    return [shapes.complete(item, number) for number, item in enumerate(named)]


def brought(items: Sequence[Json], told: Told | None, *, read: bool = True) -> tuple[Brought, ...]:
    """Return the items as they enter: each as it was sent, with what of it the model reads.
    Without `read` that is nothing: what they say reaches the model another way.
    """
    calls = dict(told.story.calls) if told is not None else {}
    found: list[Brought] = []
    for item in items:
        raw = msgspec.Raw(json.dumps(item, separators=(",", ":")).encode())
        shown = inputs.entry(item, calls) if read else None
        calls |= {call.vendor_id: call for call in _calls(shown)}
        found.append(Brought(raw, shown))
    return tuple(found)


def instructions_in(told: Told, listed: Sequence[Json], instructions: str) -> str:
    """Return the instructions with all that was said to the system in the conversation."""
    items = [*(entry.item for entry in told.story.entries), *listed]
    said = [
        inputs.text_of(item.get("content"), "input")
        for item in items
        if item.get("type") == "message" and item.get("role") in ("system", "developer")
    ]
    return "\n\n".join([instructions, *said] if instructions else said)


def opening(told: Told, listed: Sequence[Json], by: str) -> AddItems:
    """Return the letter that brings a response's input into a conversation at rest.

    Raises `Wording` (400) where a call would reach the model without its result.
    """
    news = brought(listed, told)
    shown = [each.item for each in news if each.item is not None]
    for call in unanswered([*told.transcript, *shown]):
        said = f"No tool output found for function call {call.vendor_id or call.id}."
        raise Wording(400, said, param="input")
    for item, each in zip(listed, news, strict=True):
        if each.item is None and str(item["type"]) in _ANSWERS:
            call_id = item.get("call_id")
            said = f"No tool call found for function call output with call_id {call_id}."
            raise Wording(400, said, param="input")
    return AddItems(by=by, brought=news)


def owed(told: Told, news: AddItems) -> bool:
    """Whether the model owes a reply to what the conversation ends with."""
    shown = [each.item for each in news.brought if each.item is not None]
    return not isinstance(shown[-1], ModelItem) if shown else told.state.owes_reply


def _calls(item: ContextItem | None) -> list[ToolCall]:
    parts = item.items if isinstance(item, ModelItem) else ()
    return [part for part in parts if isinstance(part, ToolCall)]


_ANSWERS = frozenset(shapes.CLIENTS.values())
