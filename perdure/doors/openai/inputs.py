"""Input items of OpenAI's form, and what they mean for a session.

An item list may be a whole conversation kept by the client: messages, the model's own replies,
its calls and their outputs. What belongs to the past enters the transcript as it is; outputs of
calls that the session itself waits for are answers; user messages at the end begin a turn.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from perdure.core.content import (
    Content,
    ContextItem,
    Image,
    ModelItem,
    Part,
    Reasoning,
    ReplyItem,
    ResultItem,
    Text,
    ToolCall,
    UserItem,
    text_of as in_words,
)
from perdure.doors.openai import outputs
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]


@dataclass
class Input:
    """What a client's items come to."""

    items: list[ContextItem] = field(default_factory=list)
    outputs: dict[str, tuple[str, bool]] = field(default_factory=dict)  # by call id; failed?
    approvals: dict[str, tuple[bool, str]] = field(default_factory=dict)  # by request id; reason


def as_list(value: object, param: str = "input") -> list[Json]:
    """Return an input as a list of items: a plain text is one message of the user's."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return [dict(each) for each in value]
    raise Wording(400, "Expected a string or a list of items.", param=param)


def named(items: Sequence[Json], new_id: str) -> list[Json]:
    """Return the items, each with an id and a type."""
    found: list[Json] = []
    for number, item in enumerate(items):
        kind = item.get("type") or ("message" if "role" in item else "")
        if not isinstance(kind, str) or not kind:
            raise Wording(400, f"Item {number} has no type.", param=f"input[{number}]")
        made = f"{_PREFIXES.get(kind, 'item')}_{new_id.lower()}{number:02d}"
        whole = {**item, "type": kind, "id": item.get("id") or made}
        found.append(_listed(whole) if kind == "message" else whole)
    return found


def read(items: Sequence[Mapping[str, Any]], pending: Mapping[str, str]) -> Input:
    """Return what the items mean. `pending` maps the client's ids of calls that the session waits
    for to ours: their outputs are answers, all others belong to the past.

    Raises `Wording` (400) for an item that cannot be read, or an output without its call.
    """
    found = Input()
    reply: list[ReplyItem] = []
    calls: dict[str, ToolCall] = {}
    for number, item in enumerate(items):
        where = f"input[{number}]"
        if item.get("type") == "mcp_call":
            reply.append(Text(outputs.told(item)))
            continue
        part = _reply_part(item, where, len(calls))
        if part is not None:
            reply.append(part)
            if isinstance(part, ToolCall):
                calls[part.vendor_id] = part
            continue
        _close(found, reply)
        match item.get("type"):
            case "message":
                found.items.append(UserItem(_content(item, where)))
            case kind if kind in outputs.KINDS:
                _output(found, item, where, calls, pending)
            case "mcp_approval_response":
                given = (bool(item.get("approve")), str(item.get("reason") or ""))
                found.approvals[str(item.get("approval_request_id"))] = given
            case "compaction":
                found.items += outputs.compacted(item, where)
            case "item_reference" | "mcp_list_tools" | "mcp_approval_request":
                pass
            case kind:
                raise Wording(400, f"Items of type {kind!r} are not supported here.", param=where)
    _close(found, reply)
    answered = {i.vendor_id for i in found.items if isinstance(i, ResultItem)}
    for call_id in calls:
        if call_id not in answered:
            raise Wording(400, f"No tool output found for function call {call_id}.", param="input")
    return found


def with_instructions(items: Sequence[Json], instructions: str) -> tuple[str, list[Json]]:
    """Return the instructions with what system and developer messages at the start add, and the
    items without them.
    """
    left = list(items)
    said = [instructions] if instructions else []
    while left and left[0].get("role") in ("system", "developer"):
        said.append(text_of(left.pop(0).get("content"), "input"))
    return "\n\n".join(said), left


def split(items: Sequence[ContextItem]) -> tuple[list[ContextItem], Content]:
    """Return the items up to the last words of a user's, and those words: they begin a turn."""
    past = list(items)
    words: list[Part] = []
    if past and isinstance(past[-1], UserItem):
        last = past.pop()
        assert isinstance(last, UserItem)
        words.extend(last.content)
    return past, tuple(words)


def _reply_part(item: Mapping[str, Any], where: str, number: int) -> ReplyItem | None:
    match item.get("type"):
        case "message" if item.get("role") == "assistant":
            return Text(text_of(item.get("content"), where))
        case "reasoning":
            summary = item.get("summary") or []
            return Reasoning(_said(summary))
        case kind if kind in outputs.CALLS:
            call_id, name, arguments = outputs.call_of(item)
            if not call_id or not name:
                raise Wording(400, "A function call needs call_id and name.", param=where)
            return ToolCall(f"x{number + 1}.{call_id}", name, arguments, call_id)
        case _:
            return None


def _said(summary: object) -> str:
    parts = summary if isinstance(summary, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _close(found: Input, reply: list[ReplyItem]) -> None:
    """End a reply: what follows is no part of it."""
    if reply:
        found.items.append(ModelItem(tuple(reply)))
        reply.clear()


def _output(
    found: Input,
    item: Mapping[str, Any],
    where: str,
    calls: Mapping[str, ToolCall],
    pending: Mapping[str, str],
) -> None:
    call_id = outputs.call_id_of(item)
    text, failed = outputs.result_of(item, lambda value: text_of(value, where))
    if call_id in pending:
        found.outputs[pending[call_id]] = (text, failed)
        return
    call = calls.get(call_id)
    if call is None:
        said = f"No tool call found for function call output with call_id {call_id}."
        raise Wording(400, said, param=where)
    found.items.append(ResultItem(call.id, call.tool, text, False, call_id))


def text_of(value: object, where: str) -> str:
    """Return the text of a content that is a string or a list of parts."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(_part_text(part, where) for part in value)
    raise Wording(400, "Expected a string or a list of parts.", param=where)


def text_of_message(item: Mapping[str, Any]) -> str:
    """Return what a message says; an image shows as its kind."""
    return in_words(_content(item, "input"))


def _part_text(part: object, where: str) -> str:
    if isinstance(part, dict):
        for name in ("text", "refusal"):
            if isinstance(part.get(name), str):
                return str(part[name])
    raise Wording(400, "Expected parts of text.", param=where)


def _content(item: Mapping[str, Any], where: str) -> Content:
    """Return what a user, system or developer message says."""
    value = item.get("content")
    if isinstance(value, str):
        return (Text(value),)
    if not isinstance(value, list):
        raise Wording(400, "A message needs content.", param=f"{where}.content")
    return tuple(_parts(value, where))


def _parts(parts: Sequence[object], where: str) -> Iterator[Part]:
    for number, part in enumerate(parts):
        if not isinstance(part, dict):
            raise Wording(400, "A part is an object.", param=f"{where}.content[{number}]")
        match part.get("type"):
            case "input_image":
                url = str(part.get("image_url") or "")
                yield _image(url, f"{where}.content[{number}]")
            case "input_file":
                yield Text(f"[file {part.get('filename') or part.get('file_id') or ''}]")
            case _:
                yield Text(_part_text(part, f"{where}.content[{number}]"))


def _image(url: str, where: str) -> Image:
    if url.startswith("data:") and ";base64," in url:
        head, _, data = url.partition(";base64,")
        return Image(head.removeprefix("data:"), data)
    if not url:
        raise Wording(400, "An image needs image_url.", param=where)
    return Image("image/*", url=url)


def _listed(item: Json) -> Json:
    """Return a message as it is listed: its content as parts."""
    content = item.get("content")
    role = item.get("role") or "user"
    kind = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        more: Json = {"annotations": [], "logprobs": []} if role == "assistant" else {}
        content = [{"type": kind, "text": content, **more}]
    return {**item, "role": role, "content": content, "status": item.get("status") or "completed"}


_PREFIXES: Final[Mapping[str, str]] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "mcp_call": "mcp",
    "mcp_approval_response": "mcprr",
}


def entry(item: Mapping[str, Any], calls: Mapping[str, ToolCall]) -> ContextItem | None:
    """Return what a model is shown of one item that is kept by itself; None where that is nothing:
    items of unknown kinds, outputs of calls that nobody made, what is said to the system.

    `calls` are those made before, by the client's ids for them.
    """
    where, kind = str(item.get("id") or "item"), str(item.get("type") or "")
    try:
        part = _reply_part(item, where, 0)
        if isinstance(part, Reasoning) and not part.text:
            return None
        if isinstance(part, ToolCall):
            return ModelItem((ToolCall(f"x.{where}", part.tool, part.arguments, part.vendor_id),))
        if part is not None:
            return ModelItem((part,))
        if kind == "message" and item.get("role") not in ("system", "developer"):
            return UserItem(_content(item, where))
    except Wording:
        return None
    call = calls.get(str(item.get("call_id") or ""))
    if call is None or not kind.endswith("_output"):
        return None
    return ResultItem(call.id, call.tool, _shown(item.get("output"), where), False, call.vendor_id)


def _shown(output: object, where: str) -> str:
    try:
        return text_of(output, where)
    except Wording:
        return json.dumps(output, ensure_ascii=False)
