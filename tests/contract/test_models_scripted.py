"""The scripted model: what is due follows from the context alone, and a script can react."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from perdure.core.content import (
    ContextItem,
    ModelItem,
    Reasoning,
    ResultItem,
    Text,
    ToolCall,
    Usage,
    UserItem,
)
from perdure.core.errors import InvalidRequest
from perdure.models.registry import connect
from perdure.models.scripted import Alternative, Call, Failure, Reply, Script, Scripted, load
from perdure.ports.model import ModelReply, ModelRequest
from perdure.testing.model_contract import as_item, call, fails, request

HELLO = UserItem((Text("Fix the tests, please"),))

FIXING = """
delay_s = 0.0

[[reply]]
reasoning = "First I look."
text = "Running the tests."
[[reply.call]]
tool = "bash"
arguments = { command = "pytest -q" }

[[reply]]
text = "Nothing to do: {{last_result}}"

[[reply.when]]
if_result_contains = "failed"
text = "I fix it."
call = [
    { tool = "edit", arguments = { path = "a.py", why = "{{last_result}}" } },
    { tool = "bash", arguments = "{\\"command\\": \\"pytest\\"}" },
]

[[reply]]
text = "Done, as you said: {{last_user}}"
usage = { input_tokens = 10, output_tokens = 2, cost_micro_usd = 5 }
"""


def a_file(folder: Path, text: str, name: str = "script.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


async def the_reply(script: Script, req: ModelRequest) -> ModelReply:
    return (await call(Scripted(script), req))[1]


async def test_a_new_process_goes_on_where_the_old_one_died(tmp_path: Path) -> None:
    path = a_file(tmp_path, FIXING)
    history: list[ContextItem] = [HELLO]
    replies = []
    for result in ("2 failed", "2 passed", ""):
        model, name = connect(f"scripted:{path}", {})  # nothing is kept from round to round
        _, reply = await call(model, request(*history, model=name))
        replies.append(reply)
        history.append(as_item(reply))
        calls = [i for i in reply.items if isinstance(i, ToolCall)]
        history += [ResultItem(c.id, c.tool, result) for c in calls]
    first, second, third = replies
    made = first.items[2]
    assert isinstance(made, ToolCall)
    assert re.fullmatch(r"scripted-[0-9a-f]{8}-t3\.5", made.vendor_id)
    assert first.items == (
        Reasoning("First I look."),
        Text("Running the tests."),
        ToolCall("t3.5", "bash", '{"command":"pytest -q"}', made.vendor_id),
    )
    assert first.finish == "tool_calls"
    assert second.items[0] == Text("I fix it.")
    assert [json.loads(c.arguments) for c in second.items[1:] if isinstance(c, ToolCall)] == [
        {"path": "a.py", "why": "2 failed"},
        {"command": "pytest"},
    ]
    assert third.items == (Text("Done, as you said: Fix the tests, please"),)
    assert third.usage == Usage(input_tokens=10, output_tokens=2, cost_micro_usd=5)
    assert third.finish == "stop"


async def test_the_reply_itself_is_what_is_said_otherwise() -> None:
    other = Alternative(text="no", if_result_contains="a", unless_result_contains="b")
    script = Script((Reply(text="yes: {{last_result}}", when=(other,)),))
    for result, expected in (
        ("a", "no"),
        ("ab", "yes: ab"),
        ("ab{{last_user}}", "yes: ab{{last_user}}"),
    ):
        said = await the_reply(script, request(HELLO, ResultItem("t1.1", "read", result)))
        assert said.items == (Text(expected),)


async def test_what_the_user_said_decides() -> None:
    script = Script((Reply(text="?", when=(Alternative(text="Bye", if_user_contains="bye"),)),))
    assert (await the_reply(script, request(UserItem((Text("good bye"),))))).items == (Text("Bye"),)
    assert (await the_reply(script, request(HELLO))).items == (Text("?"),)


async def test_the_place_survives_a_compacted_history() -> None:
    script = Script((Reply(text="one"), Reply(text="two"), Reply(text="three")))
    second = await the_reply(script, request(HELLO, ModelItem((), provider="scripted")))
    assert second.items == (Text("two"),)
    third = await the_reply(script, request(HELLO, as_item(second)))
    assert third.items == (Text("three"),)


async def test_replies_of_other_models_do_not_count() -> None:
    script = Script((Reply(text="one"), Reply(text="two")))
    foreign = ModelItem((Text("x"),), provider="openai")
    assert (await the_reply(script, request(HELLO, foreign))).items == (Text("one"),)


async def test_an_exhausted_script_says_so() -> None:
    said = await the_reply(Script((), name="empty"), request(HELLO))
    assert said.items == (Text("The script has ended: it holds 0 replies."),)
    assert said.finish == "stop"


async def test_an_error_is_raised_as_often_as_the_script_says() -> None:
    failure = Failure("rate_limited", times=2, retry_after_s=1.5, partial="half a sen")
    model = Scripted(Script((Reply(text="at last", error=failure),)))
    for attempt in (1, 2):
        deltas, failed = await fails(model, request(HELLO, attempt=attempt))
        assert failed.info.code == "E-MODEL-RATE"
        assert failed.info.retryable
        assert failed.info.retry_after_s == 1.5
        assert failed.partial == "half a sen"
        assert deltas
    _, reply = await call(model, request(HELLO, attempt=3))
    assert reply.items == (Text("at last"),)


async def test_text_comes_in_chunks() -> None:
    deltas, _ = await call(Scripted(Script((Reply(text="abcde"),), chunk_chars=2)), request(HELLO))
    assert len(deltas) == 3


def test_json_is_read_as_well(tmp_path: Path) -> None:
    path = a_file(tmp_path, '{"reply": [{"text": "hi", "call": [{"tool": "read"}]}]}', "s.json")
    assert load(path) == Script((Reply(text="hi", call=(Call("read"),)),), name="s.json")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("reply = 1", "reply"),
        ("[[reply]]\ntxt = 'typo'", "txt"),
        ("[[reply]", "not a script"),
        ("[[reply]]\nerror = { kind = 'sulking' }", "sulking"),
    ],
)
def test_a_bad_script_is_told_at_once(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(InvalidRequest, match=part) as caught:
        connect(f"scripted:{a_file(tmp_path, text)}", {})
    assert caught.value.code == "E-MODEL-SCRIPT"


def test_the_documented_script_can_be_played(tmp_path: Path) -> None:
    page = Path(__file__).parents[2].joinpath("docs/models.md").read_text(encoding="utf-8")
    example = page.split("```toml\n")[1].split("```")[0]
    assert len(load(a_file(tmp_path, example)).reply) == 3


def test_a_missing_script_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        connect(f"scripted:{tmp_path / 'none.toml'}", {})


async def test_check_and_close() -> None:
    model = Scripted(msgspec.structs.replace(Script((Reply(text="hi"),)), name="demo"))
    assert await model.check() == "scripted: demo, 1 replies"
    await model.close()
