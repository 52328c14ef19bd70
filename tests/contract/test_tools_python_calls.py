"""Calls of Python functions as tools: arguments, results, errors, threads, cancellation, probes."""

import asyncio
import enum
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from pydantic import BaseModel

from perdure.core.errors import Conflict, InvalidRequest
from perdure.ports.tool import OutcomeUnknown, Tool, ToolContext, ToolFailed, ToolOutput
from perdure.tools.python import NotDone, tool
from tests.contract.tool_doubles import Context, LateContext, run


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Address:
    street: str
    city: str = "Bonn"


class Line(msgspec.Struct):
    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Model(BaseModel):
    inner: list["Model"] = []
    name: str


@tool(ask="eur > 20")
def refund(order: int, eur: float = 5.0, *, key: str) -> str:
    """Pay money back."""
    return f"{order} {eur} {key}"


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "`order`"),
        ({"order": "9"}, "`order`: Expected `int`"),
        ({"order": True}, "`order`"),
        ({"order": 1, "eur": None}, "`eur`"),
        ({"order": 1, "key": "mine"}, "`key`"),
        ({"order": 1, "more": 1}, "`more`"),
    ],
)
async def test_wrong_arguments_name_the_field_and_nothing_runs(
    arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await refund.call(arguments, Context())
    assert caught.value.code == "E-TOOL-ARGUMENTS"
    assert words in caught.value.message


async def test_a_wrong_field_deep_inside() -> None:
    @tool
    def f(lines: list[Line]) -> None: ...

    with pytest.raises(InvalidRequest, match=r"`lines\[1\]\.count`: Expected `int` >= 1"):
        await run(f, lines=[{"sku": "a"}, {"sku": "b", "count": 0}])


async def test_special_parameters_come_from_the_context() -> None:
    @tool
    def f(a: int, where: ToolContext, *, key: str) -> str:
        return f"{a} {where.call_id} {key}"

    assert (await run(f, a=1)).text == "1 t1.1 s-1/t1.1"


# Results.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\x00", "as it is\x00"),
        (None, "(no output)"),
        (b"caf\xc3\xa9 \xff", "café \udcff"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (Address("x"), '{"street":"x","city":"Bonn"}'),
        (Size.LARGE, '"l"'),
        (Model(name="x"), '{"inner":[],"name":"x"}'),
        ({1: "a"}, '{"1":"a"}'),
        (["\ud800"], '["\\ud800"]'),
        (Path("a/b"), '"a/b"'),
        (True, "true"),
    ],
)
async def test_results_become_text(value: object, text: str) -> None:
    @tool
    def f() -> object:
        return value

    assert (await run(f)).text == text


async def test_a_result_that_cannot_be_shown_is_still_a_success() -> None:
    class Odd:
        def __str__(self) -> str:
            raise ValueError

    @tool
    def f() -> object:
        loop: list[object] = [Odd()]
        return loop

    assert (await run(f)).text == "(a list that has no text form)"


async def test_a_long_result_is_cut_and_kept_whole() -> None:
    whole = b"a" * 50_000 + b"\xff" + b"b" * 50_000

    @tool
    def f() -> bytes:
        return whole

    output = await run(f)
    assert len(output.text) < 66_000
    assert "characters left out" in output.text
    assert output.full == whole


async def test_an_output_is_passed_through() -> None:
    made = ToolOutput("x", meta={"n": 1})

    @tool
    async def f() -> ToolOutput:
        return made

    assert await run(f) is made


# Errors.


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def deep() -> None:
    msgspec.json.decode(b"{")  # the marked line


async def failed(made: Tool, **arguments: object) -> ToolFailed:
    with pytest.raises(ToolFailed) as caught:
        await run(made, **arguments)
    return caught.value


def line_of(mark: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_exception_names_the_users_own_line(is_async: bool) -> None:
    @tool
    def plain() -> None:
        deep()

    @tool(name="plain")
    async def waits() -> None:
        await asyncio.sleep(0)
        deep()

    info = (await failed(waits if is_async else plain)).info
    assert (info.code, info.kind) == ("E-TOOL-RAISED", "tool")
    assert info.origin == f"test_tools_python_calls.py:{line_of('the marked line')}"
    assert info.message == "DecodeError: Input data was truncated"
    assert "the marked line" in info.detail
    assert "perdure/tools" not in info.detail
    assert info.fingerprint


@pytest.mark.parametrize("error", [SystemExit(3), Broken(), StopIteration(), KeyError("x")])
async def test_whatever_is_raised_is_a_failure_of_the_tool(error: BaseException) -> None:
    @tool
    def f() -> None:
        raise error

    @tool
    async def g() -> None:
        if not isinstance(error, StopIteration):
            raise error
        raise ValueError

    assert (await failed(f)).info.code == "E-TOOL-RAISED"
    assert (await failed(g)).info.code == "E-TOOL-RAISED"


async def test_our_own_errors_keep_their_code() -> None:
    @tool
    def f() -> None:
        raise Conflict("E-X", "Somebody was first.", "Try again.")

    @tool
    def unsure() -> None:
        raise OutcomeUnknown("The line went dead.")

    info = (await failed(f)).info
    assert (info.code, info.message, info.hint) == ("E-X", "Somebody was first.", "Try again.")
    with pytest.raises(OutcomeUnknown, match="line went dead"):
        await run(unsure)


# Threads and cancellation.


class Gate:
    """A function that says when it has begun and ends when it is let."""

    def __init__(self, grace_s: float, ends: object = "paid") -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.ends = ends
        self.tool = tool(cancel_grace_s=grace_s)(self.pay)

    def pay(self) -> str:
        self.begun.set()
        self.go_on.wait(20)
        if isinstance(self.ends, Exception):
            raise self.ends
        return str(self.ends)

    async def start(self, context: ToolContext) -> "asyncio.Task[ToolOutput]":
        task = asyncio.ensure_future(self.tool.call({}, context))
        await asyncio.to_thread(self.begun.wait, 20)
        return task


async def test_the_loop_turns_while_a_function_blocks() -> None:
    gate = Gate(5)
    task = await gate.start(Context())
    assert not task.done()
    gate.go_on.set()
    assert (await task).text == "paid"


async def test_what_ends_within_the_grace_is_the_outcome() -> None:
    gate = Gate(10)
    task = await gate.start(Context())
    task.cancel()
    await asyncio.sleep(0)
    gate.go_on.set()
    assert (await task).text == "paid"
    assert task.cancelling() == 1


async def test_a_timeout_takes_an_outcome_that_came_in_time() -> None:
    gate = Gate(10)

    async def engine() -> ToolOutput:
        async with asyncio.timeout(0.01) as limit:
            output = await gate.tool.call({}, Context())
            assert limit.expired()
            return output

    task = asyncio.ensure_future(engine())
    await asyncio.to_thread(gate.begun.wait, 20)
    threading.Timer(0.1, gate.go_on.set).start()
    assert (await task).text == "paid"
    assert task.cancelling() == 0


async def test_what_does_not_end_is_unknown_and_told_later() -> None:
    gate = Gate(0.01)
    context = LateContext()
    task = await gate.start(context)
    task.cancel()
    with pytest.raises(OutcomeUnknown):
        await task
    gate.go_on.set()
    assert (await context.came.get()).text == "paid"


async def test_a_late_failure_is_told_as_one() -> None:
    gate = Gate(0.01, ends=ValueError("no money"))
    context = LateContext()
    task = await gate.start(context)
    task.cancel()
    with pytest.raises(OutcomeUnknown):
        await task
    gate.go_on.set()
    came = await context.came.get()
    assert came.error is not None
    assert came.error.message == "ValueError: no money"


async def test_a_second_cancellation_waits_no_longer() -> None:
    gate = Gate(600)
    task = await gate.start(Context())
    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(OutcomeUnknown):
        await task
    gate.go_on.set()


async def test_a_timeout_over_a_stuck_function_is_unknown_not_a_timeout() -> None:
    gate = Gate(0.01)
    with pytest.raises(OutcomeUnknown):
        async with asyncio.timeout(0.01):
            await gate.tool.call({}, Context())
    gate.go_on.set()


async def test_an_async_function_is_cancelled_like_any_other() -> None:
    cleaned: list[str] = []

    @tool
    async def f() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("yes")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run(f)
    assert cleaned == ["yes"]


# Probes.


async def test_a_probe_gets_what_it_names() -> None:
    asked: list[object] = []

    def find(order: int, *, key: str) -> str | None:
        asked.append((order, key))
        return "receipt 7" if order == 9 else None

    @tool(probe=find)
    def pay(order: int, eur: float, *, key: str) -> str:
        raise AssertionError

    found = await pay.probe({"order": 9, "eur": 1}, Context())
    assert found == ToolOutput("receipt 7")
    assert await pay.probe({"order": 8, "eur": 1}, Context()) is None
    assert asked == [(9, "s-1/t1.1"), (8, "s-1/t1.1")]
    assert await refund.probe({"order": 8}, Context()) is None


async def test_a_probe_can_say_that_it_did_not_happen() -> None:
    async def find(order: int) -> None:
        raise NotDone("No payment with this key.")

    @tool(probe=find)
    def pay(order: int) -> None: ...

    with pytest.raises(NotDone, match="No payment"):
        await pay.probe({"order": 1}, Context())


async def test_a_probe_that_breaks_cannot_tell() -> None:
    def find() -> str:
        raise ConnectionError("down")

    @tool(probe=find)
    def pay(order: int) -> None: ...

    context = Context()
    assert await pay.probe({"order": 1}, context) is None
    assert "ConnectionError: down" in context.shown[0]
