"""Values for the wire tests: replies, histories and streams as hypothesis makes them up."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import strategies as st

from perdure.core.agent import ToolSpec
from perdure.core.codec import decode
from perdure.core.content import (
    ContextItem,
    Image,
    ModelItem,
    Opaque,
    Reasoning,
    ReplyItem,
    ResultItem,
    Text,
    ToolCall,
    UserItem,
)
from perdure.ports.model import Delta, ModelReply, ModelRequest
from perdure.testing.traffic import Chat, Messages, Responses, Traffic
from perdure.wire import anthropic_messages, openai_chat, openai_responses
from perdure.wire.history import Built
from perdure.wire.sse import SseReader
from perdure.wire.stream import Reader


class Dialect(msgspec.Struct, frozen=True):
    """One dialect from both sides: our converter, and the traffic a vendor would send."""

    traffic: Traffic
    request: Callable[[ModelRequest, str], Built]
    reader: Callable[[ModelRequest], Reader]
    provider: str

    def __str__(self) -> str:
        return self.traffic.name


DIALECTS = (
    Dialect(Responses(), openai_responses.request, openai_responses.ResponsesReader, "openai"),
    Dialect(Chat(), openai_chat.request, openai_chat.ChatReader, "openai"),
    Dialect(Messages(), anthropic_messages.request, anthropic_messages.MessagesReader, "anthropic"),
)
VALID_ID = re.compile(r"[a-zA-Z0-9_-]{1,40}")

# Everything a tool may print: NUL, lone surrogates, line separators, astral letters.
words = st.text(
    st.one_of(st.characters(), st.sampled_from('\0\ud800\udfff\u2028\r\n\\"🙂é')), max_size=30
)
some_words = words.filter(lambda text: text.strip() != "")
tool_names = st.sampled_from(["read", "bash", "a.b/c", "naïve tool"]) | st.text(max_size=80)
arguments = st.one_of(
    st.dictionaries(words, st.one_of(words, st.integers(), st.none()), max_size=3).map(json.dumps),
    st.sampled_from(["", "{", "[1]", '{"a": 1.0}', '"text"', '{"a":"\\ud800"}']),
)
object_arguments = st.dictionaries(st.text(max_size=5), st.integers(), max_size=3).map(json.dumps)


def a_request(*items: ContextItem, tools: tuple[ToolSpec, ...] = ()) -> ModelRequest:
    return ModelRequest("m-1", "Be brief.", items, tools, 100, "t9.", 3)


def numbered(items: list[ReplyItem]) -> tuple[ReplyItem, ...]:
    """Give the calls of a made-up reply the ids that the request above asks for."""
    found: list[ReplyItem] = []
    number = 3
    for item in items:
        if isinstance(item, ToolCall):
            found.append(ToolCall(f"t9.{number}", item.tool, item.arguments, f"v{number}"))
            number += 1
        else:
            found.append(item)
    return tuple(found)


@st.composite
def histories(draw: st.DrawFn) -> list[ContextItem]:
    """Any history, also those that no engine should make: orphans, open calls, wild order."""
    found: list[ContextItem] = []
    calls: list[ToolCall] = []
    for turn in range(draw(st.integers(0, 7))):
        match draw(st.sampled_from(["user", "reply", "result", "orphan"])):
            case "user":
                found.append(UserItem(draw(contents)))
            case "reply":
                items = [*draw(st.lists(plain_items, max_size=2))]
                new = [
                    ToolCall(f"t{turn}.{n}", draw(tool_names), draw(arguments), draw(words))
                    for n in range(draw(st.integers(0, 3)))
                ]
                calls = [*calls, *new]
                found.append(ModelItem((*items, *new), provider=draw(st.sampled_from(["", "x"]))))
            case "result" if calls:
                call = calls.pop(draw(st.integers(0, len(calls) - 1)))
                failed = draw(st.booleans())
                found.append(ResultItem(call.id, call.tool, draw(words), failed, call.vendor_id))
            case _:
                found.append(ResultItem(draw(words), draw(tool_names), draw(words)))
    return found


contents = st.lists(
    st.one_of(
        words.map(Text),
        st.just(Image("image/png", data="aGk=")),
        st.just(Image("image/png", url="https://127.0.0.1/x.png")),
    ),
    max_size=3,
).map(tuple)
plain_items: st.SearchStrategy[ReplyItem] = st.one_of(
    words.map(Text),
    words.map(Reasoning),
    st.sampled_from([Text(" \n"), Opaque("novel"), Opaque("odd")]),
)
written_items: st.SearchStrategy[ReplyItem] = st.one_of(
    some_words.map(Text),
    some_words.map(Reasoning),
    st.sampled_from(["novel_a", "novel_b"]).map(Opaque),
    st.builds(ToolCall, st.just(""), st.sampled_from(["read", "bash"]), object_arguments),
)


def replies(dialect: Dialect) -> st.SearchStrategy[list[ReplyItem]]:
    """Replies in the order a dialect can tell: Chat knows one thought, one text, then calls."""
    if dialect.traffic.name != "openai-chat":
        return st.lists(written_items, min_size=1, max_size=5)
    calls = st.builds(ToolCall, st.just(""), st.just("read"), object_arguments)
    thought = st.lists(some_words.map(Reasoning), max_size=1)
    text = st.lists(some_words.map(Text), max_size=1)
    every = st.tuples(thought, text, st.lists(calls, max_size=3))
    return every.map(lambda parts: [*parts[0], *parts[1], *parts[2]])


def read(dialect: Dialect, data: bytes, cuts: list[int]) -> tuple[list[Delta], ModelReply | None]:
    """Read a whole stream that arrives in pieces cut at `cuts`."""
    sse, reader = SseReader(), dialect.reader(a_request())
    deltas: list[Delta] = []
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(at):
        for event in sse.feed(data[start:end]):
            deltas += reader.feed(value_of(event.data))
    for event in sse.end():
        deltas += reader.feed(value_of(event.data))
    return deltas, reader.reply("req_1")


def value_of(data: bytes) -> dict[str, Any]:
    return {"type": "[DONE]"} if data == b"[DONE]" else decode(data, dict[str, Any])
