"""What every dialect needs of a session's past: rounds, ids a vendor accepts, what was dropped.

Vendors disagree on spelling and agree on order: a reply, then the results of all its calls, then
what people said. A transcript that breaks this is refused, and a refused transcript bricks a
session; so it is put right here, and what was changed is reported. No dialect is known here.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from perdure.core.codec import arguments_of
from perdure.core.content import (
    Content,
    ContextItem,
    Image,
    ModelItem,
    Part,
    Reasoning,
    ResultItem,
    Text,
    ToolCall,
    Usage,
    UserItem,
    text_of,
)
from perdure.core.errors import InvalidRequest
from perdure.ports.model import ModelRequest
from perdure.wire.lenient import clean, clean_all

NO_TEXT: Final = "(no text)"
NO_RESULT: Final = "No result of this call was recorded."

_NOT_IN_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")
_NAME_CHARS: Final = 64
# Our ids as they are made: `t3.5`. Only these may swap the dot for an underscore without a digest.
_OUR_ID: Final = re.compile(r"[A-Za-z0-9]+\.[A-Za-z0-9]+")
_CALL_ID_CHARS: Final = 40


class Built(msgspec.Struct, frozen=True):
    """A request body, and in words what of the history could not be sent as it was."""

    body: dict[str, Any]
    dropped: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        """Return the body as JSON. Raw items go out byte for byte as they came in."""
        return msgspec.json.encode(self.body)


class Round(msgspec.Struct, frozen=True):
    """A reply (None before the first), the results of its calls, and what was said after it."""

    reply: ModelItem | None
    results: tuple[ResultItem, ...]
    said: tuple[Part, ...]


class _Open:
    """A round that is still being filled."""

    def __init__(self, reply: ModelItem | None) -> None:
        self.reply = reply
        calls = [i for i in reply.items if isinstance(i, ToolCall)] if reply else []
        self.unanswered = {call.id: call for call in calls}
        self.results: list[ResultItem] = []
        self.said: list[Part] = []

    def join(self, item: ModelItem) -> bool:
        """Take `item` for more of the same reply, unless a provider wrote one of them as it is: a
        conversation that was brought along has a reply's parts one by one.
        """
        if self.reply is None or self.reply.raw or item.raw or self.results or self.said:
            return False
        self.reply = ModelItem((*self.reply.items, *item.items))
        self.unanswered |= {i.id: i for i in item.items if isinstance(i, ToolCall)}
        return True

    def answer(self, item: ResultItem) -> bool:
        if self.unanswered.pop(item.call_id, None) is None:
            return False
        self.results.append(item)
        return True

    def closed(self, dropped: list[str]) -> Round:
        for call in self.unanswered.values():
            self.results.append(ResultItem(call.id, call.tool, NO_RESULT, is_error=True))
            dropped.append(f"call {call.id} had no result: one was made up to say so")
        return Round(self.reply, tuple(self.results), tuple(self.said))


def rounds(items: Iterable[ContextItem]) -> tuple[list[Round], list[str]]:
    """Bring the history into the order that vendors accept; return it and what was changed."""
    dropped: list[str] = []
    done: list[Round] = []
    current = _Open(None)
    for item in items:
        match item:
            case ModelItem():
                if not current.join(item):
                    done.append(current.closed(dropped))
                    current = _Open(item)
            case UserItem(content=content):
                current.said.extend(content)
            case ResultItem():
                if not current.answer(item):
                    # Without the call before it, a vendor would refuse the whole transcript.
                    current.said.append(Text(f"[A result of {item.tool}]\n{item.text}"))
                    dropped.append(f"result {item.call_id} has no call before it: sent as text")
    done.append(current.closed(dropped))
    return done, dropped


def is_own(reply: ModelItem, provider: str, dialect: str) -> bool:
    """Say whether the provider's own items can be sent back as they came."""
    return bool(reply.raw) and reply.provider == provider and reply.dialect == dialect


def call_ids(reply: ModelItem, own: bool) -> dict[str, str]:
    """Map our call ids of one reply to what the vendor knows them by.

    A foreign or missing id is replaced by one that is made from ours, always the same.
    """
    calls = [item for item in reply.items if isinstance(item, ToolCall)]
    return {c.id: c.vendor_id if own and c.vendor_id else made_id(c.id) for c in calls}


def made_id(call_id: str) -> str:
    """Return an id of the form every vendor accepts, different for different `call_id`."""
    plain = _NOT_IN_NAME.sub("_", call_id)
    if _OUR_ID.fullmatch(call_id) and len(plain) <= _CALL_ID_CHARS - 5:
        return f"call_{plain}"
    return f"call_{plain[:10]}_{hashlib.sha256(clean(call_id).encode()).hexdigest()[:20]}"


def wire_name(tool: str) -> str:
    """Return a tool's name in the letters all vendors accept, different for different tools."""
    if tool and len(tool) <= _NAME_CHARS and not _NOT_IN_NAME.search(tool):
        return tool
    mark = hashlib.sha256(clean(tool).encode()).hexdigest()[:8]
    return f"{_NOT_IN_NAME.sub('_', tool)[: _NAME_CHARS - 9]}_{mark}"


def our_names(request: ModelRequest) -> Mapping[str, str]:
    """Map the names on the wire back to ours."""
    return {wire_name(tool.name): tool.name for tool in request.tools}


def is_object(arguments: str) -> bool:
    """Say whether the arguments of a call are a JSON object."""
    try:
        arguments_of(arguments)
    except InvalidRequest:
        return False
    return True


def as_object(arguments: str) -> str:
    """Return the arguments as the text of a JSON object: broken ones are wrapped, not lost.

    Servers that parse the history answer a half-written call with an error, for ever.
    """
    if is_object(arguments):
        text = clean(arguments) or "{}"
        try:
            msgspec.json.decode(text)
        except msgspec.DecodeError:  # a lone surrogate, written as an escape
            text = msgspec.json.encode(clean_all(arguments_of(text))).decode()
        return text
    return msgspec.json.encode({"INVALID_JSON": clean(arguments)}).decode()


def foreign(reply: ModelItem) -> list[str]:
    """Say what is lost when a reply is told to another provider by its plain items."""
    thoughts = sum(isinstance(item, Reasoning) for item in reply.items)
    others = len(reply.items) - thoughts
    others -= sum(isinstance(item, Text | ToolCall) for item in reply.items)
    origin = reply.provider or "an unknown provider"
    lost = [f"{thoughts} reasoning items of {origin}"] if thoughts else []
    return lost + ([f"{others} items of a kind only {origin} knows"] if others else [])


def plain_text(reply: ModelItem) -> str:
    """Return what a reply said, without calls and reasoning."""
    return clean("".join(item.text for item in reply.items if isinstance(item, Text)))


def data_url(image: Image) -> str:
    """Return the address of an image: its own, or one that holds its bytes."""
    return clean(image.url) or f"data:{clean(image.media_type)};base64,{clean(image.data)}"


def result_text(item: ResultItem) -> str:
    """Return a result for a dialect that has no field to say it is an error."""
    said = clean(item.text)
    return f"Error: {said}" if item.is_error and not said.lower().startswith("error") else said


def estimate(request: ModelRequest, written_chars: int) -> Usage:
    """Guess the usage where nobody said it: four characters a token, marked as a guess."""
    read = len(request.instructions) + sum(_length(item) for item in request.items)
    read += sum(len(t.description) + len(bytes(t.input_schema)) for t in request.tools)
    return Usage(input_tokens=read // 4 + 1, output_tokens=(written_chars + 3) // 4, estimated=True)


def _length(item: ContextItem) -> int:
    if isinstance(item, UserItem):
        return len(text_of(item.content))
    if isinstance(item, ResultItem):
        return len(item.text)
    return sum(len(getattr(i, "text", "")) + len(getattr(i, "arguments", "")) for i in item.items)


def text_only(parts: Content) -> str | None:
    """Return the text of content that is nothing else, or None."""
    texts = [part.text for part in parts if isinstance(part, Text)]
    return clean("\n\n".join(texts)) if len(texts) == len(parts) else None
