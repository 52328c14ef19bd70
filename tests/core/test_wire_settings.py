"""What steers a model reaches each vendor in its own words, and nothing is sent unasked."""

from typing import Any

import msgspec
import pytest

from perdure.core.agent import AgentSpec, ToolSpec
from perdure.core.content import Text, UserItem
from perdure.core.settings import Format, ModelSettings
from tests.core.wire_values import DIALECTS, Dialect, a_request

RESPONSES, CHAT, MESSAGES = DIALECTS
ADD = ToolSpec("add", "Adds.", msgspec.Raw(b'{"type":"object"}'))
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer"}}}'
ALL = ModelSettings(
    "high", "auto", "=add", False, 0.5, 0.9, Format("n", SCHEMA, strict=True), "low"
)


def sent(dialect: Dialect, settings: ModelSettings, *tools: ToolSpec) -> dict[str, Any]:
    request = msgspec.structs.replace(
        a_request(UserItem((Text("Hi"),)), tools=tools), settings=settings
    )
    body: dict[str, Any] = msgspec.json.decode(dialect.request(request, dialect.provider).encoded())
    plain = msgspec.structs.replace(request, settings=ModelSettings())
    before = msgspec.json.decode(dialect.request(plain, dialect.provider).encoded())
    assert before.items() <= body.items(), "settings only add"
    return {key: value for key, value in body.items() if key not in before}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_without_settings_nothing_is_added(dialect: Dialect) -> None:
    assert sent(dialect, ModelSettings(), ADD) == {}


def test_the_responses_dialect_says_all_of_it() -> None:
    form = {
        "type": "json_schema",
        "name": "n",
        "strict": True,
        "schema": msgspec.json.decode(SCHEMA),
    }
    assert sent(RESPONSES, ALL, ADD) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning": {"effort": "high", "summary": "auto"},
        "text": {"verbosity": "low", "format": form},
        "tool_choice": {"type": "function", "name": "add"},
        "parallel_tool_calls": False,
    }


def test_the_chat_dialect_leaves_out_the_summary() -> None:
    form = {"name": "n", "strict": True, "schema": msgspec.json.decode(SCHEMA)}
    assert sent(CHAT, ALL, ADD) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "high",
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": form},
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
    }


def test_the_messages_dialect_leaves_out_verbosity_and_summary() -> None:
    form = {"type": "json_schema", "schema": msgspec.json.decode(SCHEMA)}
    assert sent(MESSAGES, ALL, ADD) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "output_config": {"effort": "high", "format": form},
        "tool_choice": {"type": "tool", "name": "add", "disable_parallel_tool_use": True},
    }


@pytest.mark.parametrize(
    ("choice", "responses", "messages"),
    [("none", "none", {"type": "none"}), ("required", "required", {"type": "any"}),
     ("auto", "auto", {"type": "auto"})],
)  # fmt: skip
def test_a_choice_of_tools(choice: str, responses: str, messages: dict[str, str]) -> None:
    settings = ModelSettings(tool_choice=choice)
    assert sent(RESPONSES, settings, ADD) == {"tool_choice": responses}
    assert sent(CHAT, settings, ADD) == {"tool_choice": responses}
    assert sent(MESSAGES, settings, ADD) == {"tool_choice": messages}
    assert all(sent(dialect, settings) == {} for dialect in DIALECTS), "no tools, no choice"


@pytest.mark.parametrize("dialect", [RESPONSES, CHAT], ids=str)
def test_any_json(dialect: Dialect) -> None:
    added = sent(dialect, ModelSettings(format=Format()))
    form = added["text"]["format"] if dialect is RESPONSES else added["response_format"]
    assert form == {"type": "json_object"}


def test_effort_at_both_ends_for_anthropic() -> None:
    assert sent(MESSAGES, ModelSettings(effort="none")) == {"thinking": {"type": "disabled"}}
    assert sent(MESSAGES, ModelSettings("minimal")) == {"output_config": {"effort": "low"}}


def test_a_definition_without_settings_has_the_version_it_always_had() -> None:
    plain = AgentSpec("a", "m:x", "Be brief.")
    assert plain.version == "e02c2a9d9bac"
    assert msgspec.structs.replace(plain, settings=ALL).version != plain.version
