"""From a vendor's stream to our reply, and its raw items back to the vendor."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from perdure.core.content import ModelItem, Reasoning, ReplyItem, ResultItem, Text, ToolCall
from perdure.ports.model import ModelFailed, ModelReply, ReasoningDelta, TextDelta
from perdure.testing.traffic import frame
from perdure.wire.sse import Sse, SseReader, TooLong, encode
from tests.core.wire_values import (
    DIALECTS,
    Dialect,
    a_request,
    numbered,
    read,
    replies,
    value_of,
)

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=str)
cuts = st.lists(st.integers(0, 10_000), max_size=6)


@each_dialect
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_was_written_is_what_is_read(dialect: Dialect, data: st.DataObject) -> None:
    items = numbered(data.draw(replies(dialect)))
    stream = b"".join(dialect.traffic.reply(items))
    deltas, reply = read(dialect, stream, data.draw(cuts))
    assert reply is not None
    assert reply.items == items
    for kind, delta in ((Text, TextDelta), (Reasoning, ReasoningDelta)):
        whole = "".join(i.text for i in items if isinstance(i, kind))
        assert "".join(d.text for d in deltas if isinstance(d, delta)) == whole
    assert reply.finish == ("tool_calls" if calls_of(reply) else "stop")


@each_dialect
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_raw_items_go_back_as_they_came(dialect: Dialect, data: st.DataObject) -> None:
    items = numbered(data.draw(replies(dialect)))
    _, reply = read(dialect, b"".join(dialect.traffic.reply(items)), [])
    assert reply is not None
    results = [ResultItem(c.id, c.tool, "done") for c in calls_of(reply)]
    item = ModelItem(reply.items, reply.raw, reply.dialect, reply.provider)
    built = dialect.request(a_request(item, *results), dialect.provider)
    assert not built.dropped
    assert b",".join(bytes(raw) for raw in reply.raw) in built.encoded()
    answered = dialect.traffic.results(msgspec.json.decode(built.encoded()))
    assert answered == [(call.vendor_id, "done") for call in calls_of(reply)]


@each_dialect
@given(data=st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_no_event_whatever_breaks_the_reader(dialect: Dialect, data: st.DataObject) -> None:
    """A stranger's JSON may hold anything; the only exception is a failure of the model."""
    events = [
        value_of(f.split(b"data: ", 1)[1].strip())
        for f in dialect.traffic.reply(numbered([Text("hello"), ToolCall("", "read", "{}")]))
    ]
    reader = dialect.reader(a_request())
    for event in events:
        fed = event
        if data.draw(st.booleans()):
            broken = data.draw(json_values)
            fed = spoiled(event, data.draw(st.sampled_from(sorted(event))), broken)
        try:
            reader.feed(fed)
            reader.reply()
        except ModelFailed as failure:
            assert failure.info.code.startswith("E-")  # noqa: PT017 - allowed, not expected
            return


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def spoiled(value: dict[str, Any], key: str, broken: object) -> dict[str, Any]:
    """Put a wrong value at a key, or one level deeper where there is one."""
    inner = value[key]
    if isinstance(inner, dict) and inner:
        return value | {key: inner | dict.fromkeys(inner, broken)}
    return value if key == "type" else value | {key: broken}


def calls_of(reply: ModelReply) -> list[ToolCall]:
    return [item for item in reply.items if isinstance(item, ToolCall)]


@given(st.lists(st.tuples(st.sampled_from(["", "a", "ü"]), st.text()), max_size=5), cuts)
def test_events_survive_any_cut(events: list[tuple[str, str]], at: list[int]) -> None:
    sent = [Sse(name, msgspec.json.encode(text)) for name, text in events]
    data = b"".join(encode(e.data, e.event) for e in sent)
    for line_end in (b"\n", b"\r\n", b"\r"):
        whole = data.replace(b"\n", line_end)
        places = [0, *sorted(cut % (len(whole) + 1) for cut in at), len(whole)]
        reader, found = SseReader(), []
        for start, end in pairwise(places):
            found += reader.feed(whole[start:end])
        assert found + reader.end() == sent


def test_a_line_and_a_stream_have_bounds() -> None:
    with pytest.raises(TooLong, match="line"):
        SseReader(line_bytes=10).feed(b"data: 12345678")
    reader = SseReader(stream_bytes=30)
    reader.feed(b"data: 1\n\n" * 3)
    with pytest.raises(TooLong, match="stream"):
        reader.feed(b"data: 1\n\n")


ODD_CHAT: tuple[tuple[str, list[dict[str, Any]], tuple[ReplyItem, ...]], ...] = (
    (
        "no ids, no index, arguments as objects, finish stop",
        [
            {"tool_calls": [{"function": {"name": "read", "arguments": {"a": 1}}}]},
            {"tool_calls": [{"function": {"name": "bash", "arguments": {}}}]},
        ],
        (
            ToolCall("t9.3", "read", '{"a":1}', "call_t9_3"),
            ToolCall("t9.4", "bash", "{}", "call_t9_4"),
        ),
    ),
    (
        "all calls have index 0",
        [
            {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "a", "arguments": "{}"}}]},
            {"tool_calls": [{"index": 0, "id": "y", "function": {"name": "b", "arguments": "{}"}}]},
        ],
        (ToolCall("t9.3", "a", "{}", "x"), ToolCall("t9.4", "b", "{}", "y")),
    ),
    (
        "pieces without index go on with the last call; the name comes again",
        [
            {"tool_calls": [{"id": "x", "function": {"name": "a", "arguments": '{"k"'}}]},
            {"tool_calls": [{"function": {"arguments": ":1}"}}]},
            {"tool_calls": [{"id": "x", "function": {"name": "a", "arguments": ""}}]},
        ],
        (ToolCall("t9.3", "a", '{"k":1}', "x"),),
    ),
    (
        "content as parts, then null",
        [{"content": [{"type": "text", "text": "hi"}]}, {"content": None}],
        (Text("hi"),),
    ),
    (
        "another name for thoughts",
        [{"reasoning": "hm"}, {"content": "hi"}],
        (Reasoning("hm"), Text("hi")),
    ),
)


@pytest.mark.parametrize(("case", "deltas", "items"), ODD_CHAT, ids=[c[0] for c in ODD_CHAT])
def test_local_servers_are_read(
    case: str, deltas: list[dict[str, Any]], items: tuple[ReplyItem, ...]
) -> None:
    frames = [frame({"choices": [{"delta": delta}]}) for delta in deltas]
    frames.append(frame({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
    _, reply = read(DIALECTS[1], b"".join(frames), [])
    assert reply is not None
    assert reply.items == items
    assert reply.finish == ("tool_calls" if calls_of(reply) else "stop")
    assert reply.usage.estimated, "no usage was sent, so it is a guess and says so"
    message = msgspec.json.decode(reply.raw[0])
    for sent, call in zip(message.get("tool_calls", []), calls_of(reply), strict=True):
        assert sent["id"] == call.vendor_id
        assert sent["function"]["arguments"] == call.arguments


@each_dialect
def test_a_lone_surrogate_is_not_repeated_to_the_vendor(dialect: Dialect) -> None:
    items = numbered(
        [Text("a\ud800b"), ToolCall("", "read", '{"a": "\\udc00", "b": "\\ud83d\\ude42"}')]
    )
    _, reply = read(dialect, b"".join(dialect.traffic.reply(items)), [])
    assert reply is not None
    assert reply.items == items, "we keep what was really written"
    item = ModelItem(reply.items, reply.raw, reply.dialect, reply.provider)
    for provider in (dialect.provider, "another"):
        body = dialect.request(a_request(item), provider).encoded()
        msgspec.json.decode(body)  # strict: raises for a lone surrogate, escaped or not
        assert "a\ufffdb" in body.decode()


def test_a_letter_that_was_cut_in_two_is_whole_again() -> None:
    """Some servers count in UTF-16 and cut between the halves of an emoji."""
    frames = [frame({"choices": [{"delta": {"content": half}}]}) for half in "\ud83d\ude42"]
    _, reply = read(DIALECTS[1], b"".join(frames) + b"data: [DONE]\n\n", [])
    assert reply is not None
    assert reply.items == (Text("🙂"),)
    assert "🙂".encode() in bytes(reply.raw[0])


def test_fields_of_a_call_that_nobody_knows_go_back() -> None:
    signed = {"id": "x", "extra_content": {"google": {"thought_signature": "c2ln"}}}
    call = signed | {"function": {"name": "read", "arguments": "{}"}}
    frames = [frame({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "stop"}]})]
    _, reply = read(DIALECTS[1], b"".join(frames), [])
    assert reply is not None
    assert b'"thought_signature":"c2ln"' in bytes(reply.raw[0])


def test_a_half_written_call_does_not_brick_the_session() -> None:
    """The length limit cut the arguments: they are kept as written, and sent back as an object."""
    for dialect in DIALECTS:
        cut_short = numbered([ToolCall("", "read", '{"path": "a')])
        _, reply = read(dialect, b"".join(dialect.traffic.reply(cut_short, "length")), [])
        assert reply is not None
        assert reply.items == cut_short
        assert reply.finish == "length"
        if dialect.traffic.name == "anthropic-messages":
            assert msgspec.json.decode(reply.raw[0])["input"] == {"INVALID_JSON": '{"path": "a'}


def test_blocks_the_vendor_would_not_take_back_are_not_sent_back() -> None:
    messages = DIALECTS[2]
    frames: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "thinking"}},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "thinking_delta", "thinking": "hm"},
        },
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
        {"type": "message_stop"},
    ]
    _, reply = read(messages, b"".join(frame(f) for f in frames), [])
    assert reply is not None
    assert reply.items == (Reasoning("hm"),)
    assert reply.raw == ()
