"""From our request to a vendor's body: whatever the history, the vendor gets what it accepts."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from perdure.core.agent import ToolSpec
from perdure.core.content import ContextItem, ModelItem, ResultItem, Text, ToolCall, UserItem
from perdure.wire.history import made_id, wire_name
from tests.core.wire_values import DIALECTS, VALID_ID, Dialect, a_request, histories, words

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=str)
RESPONSES, CHAT, MESSAGES = DIALECTS


def sent(dialect: Dialect, *items: ContextItem, tools: tuple[ToolSpec, ...] = ()) -> Any:
    built = dialect.request(a_request(*items, tools=tools), dialect.provider)
    return msgspec.json.decode(built.encoded())


def calls_and_results(dialect: Dialect, body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the calls and results of a body in order, as (`call` or `result`, id)."""
    found: list[tuple[str, str]] = []
    if dialect is RESPONSES:
        names = {"function_call": "call", "function_call_output": "result"}
        return [(names[i["type"]], i["call_id"]) for i in body["input"] if i.get("type") in names]
    for message in body["messages"]:
        if dialect is CHAT:
            found += [("call", call["id"]) for call in message.get("tool_calls", [])]
            found += [("result", message["tool_call_id"])] if message["role"] == "tool" else []
        else:
            blocks = message["content"]
            found += [("call", b["id"]) for b in blocks if b["type"] == "tool_use"]
            found += [("result", b["tool_use_id"]) for b in blocks if b["type"] == "tool_result"]
    return found


@each_dialect
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(items=histories())
def test_every_history_can_be_sent(dialect: Dialect, items: list[ContextItem]) -> None:
    body = sent(dialect, *items)
    joined = calls_and_results(dialect, body)
    open_calls: list[str] = []
    for kind, call_id in joined:
        assert VALID_ID.fullmatch(call_id)
        if kind == "call":
            assert call_id not in open_calls
            open_calls.append(call_id)
        else:
            open_calls.remove(call_id)
    assert not open_calls, "every call is answered"


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(items=histories())
def test_anthropic_s_rules_hold(items: list[ContextItem]) -> None:
    messages = sent(MESSAGES, *items)["messages"]
    assert messages[0]["role"] == "user"
    for before, after in pairwise(messages):
        uses = [b["id"] for b in before["content"] if b["type"] == "tool_use"]
        results = [b["tool_use_id"] for b in after["content"] if b["type"] == "tool_result"]
        assert sorted(uses) == sorted(results), "all results in the one message that follows"
        assert not (before["role"] == after["role"] == "user"), "people's messages are merged"
    for message in messages:
        assert message["content"], "no empty message"
        kinds = [block["type"] == "tool_result" for block in message["content"]]
        assert kinds == sorted(kinds, reverse=True), "results come first"
        texts = [b["text"] for b in message["content"] if b["type"] == "text"]
        assert all(text.strip() for text in texts), "no blank text"
    if messages[-1]["role"] == "user":
        assert messages[-1]["content"][-1]["cache_control"] == {"type": "ephemeral"}


@given(st.lists(words, min_size=2, max_size=2, unique=True))
def test_made_ids_are_valid_stable_and_different(ids: list[str]) -> None:
    first, second = (made_id(call_id) for call_id in ids)
    assert first == made_id(ids[0])
    assert VALID_ID.fullmatch(first)
    if [i.replace("\udfff", "\ud800") for i in ids].count(ids[0]) < 2 and not lossy(ids):
        assert first != second


def lossy(ids: list[str]) -> bool:
    """Two ids that differ in lone surrogates only are one to UTF-8; ours have none."""
    return any("\ud800" <= letter <= "\udfff" for name in ids for letter in name)


@given(words)
def test_tool_names_are_in_letters_vendors_take(name: str) -> None:
    assert VALID_ID.fullmatch(wire_name(name)[:40])
    assert len(wire_name(name)) <= 64


def test_our_own_ids_stay_readable() -> None:
    assert made_id("t3.5") == "call_t3_5"
    assert wire_name("read") == "read"


@each_dialect
def test_an_open_call_is_answered_and_said_so(dialect: Dialect) -> None:
    history = (ModelItem((ToolCall("t1.1", "read", "{}"),)), UserItem((Text("Well?"),)))
    built = dialect.request(a_request(*history), dialect.provider)
    assert any("t1.1" in line for line in built.dropped)
    (_, text), *_ = dialect.traffic.results(msgspec.json.decode(built.encoded()))
    assert "No result" in text


@each_dialect
def test_a_result_without_its_call_becomes_text(dialect: Dialect) -> None:
    built = dialect.request(a_request(ResultItem("t1.1", "read", "late news")), dialect.provider)
    body = msgspec.json.decode(built.encoded())
    assert "late news" in "".join(dialect.traffic.texts(body))
    assert not dialect.traffic.results(body)
    assert built.dropped


@each_dialect
def test_what_was_said_between_results_comes_after_them(dialect: Dialect) -> None:
    calls = (ToolCall("t1.1", "read", "{}"), ToolCall("t1.2", "read", "{}"))
    body = sent(
        dialect,
        ModelItem(calls),
        ResultItem("t1.2", "read", "two"),
        UserItem((Text("Hurry!"),)),
        ResultItem("t1.1", "read", "one"),
    )
    assert [text for _, text in dialect.traffic.results(body)] == ["two", "one"]
    assert dialect.traffic.texts(body)[-1] == "Hurry!"


def test_an_error_result_says_that_it_is_one() -> None:
    history = (ModelItem((ToolCall("t1.1", "read", "{}"),)), ResultItem("t1.1", "read", "no", True))
    assert RESPONSES.traffic.results(sent(RESPONSES, *history))[0][1] == "Error: no"
    assert CHAT.traffic.results(sent(CHAT, *history))[0][1] == "Error: no"
    block = sent(MESSAGES, *history)["messages"][-1]["content"][0]
    assert (block["content"], block["is_error"]) == ("no", True)


def test_nothing_is_kept_by_openai_and_reasoning_comes_back_encrypted() -> None:
    body = sent(RESPONSES, UserItem((Text("hi"),)))
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]


def test_the_limit_has_the_name_the_server_knows() -> None:
    request = a_request(UserItem((Text("hi"),)))
    assert CHAT.request(request, "openai").body["max_completion_tokens"] == 100
    assert CHAT.request(request, "ollama").body["max_tokens"] == 100


def test_the_system_prompt_and_the_tools_are_cached() -> None:
    tool = ToolSpec("read", "Reads.", msgspec.Raw(b'{"type":  "object"}'))
    built = MESSAGES.request(a_request(UserItem((Text("hi"),)), tools=(tool, tool)), "anthropic")
    assert b'"input_schema":{"type":  "object"}' in built.encoded(), "schemas are not rewritten"
    body = msgspec.json.decode(built.encoded())
    assert "cache_control" in body["system"][-1]
    assert ["cache_control" in t for t in body["tools"]] == [False, True]
