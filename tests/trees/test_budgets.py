"""One budget for a tree: what many spend at once never passes it, and it can be raised."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Limits
from perdure.core.budget import Price, cost_of
from perdure.core.content import ResultItem, Text, Usage
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.ledger import Ledger
from perdure.engine.runtime import Engine
from perdure.engine.subagents import subagent
from perdure.engine.trees import Trees
from perdure.ports.model import Delta, ModelReply, ModelRequest
from perdure.stores.memory import MemoryDisk
from perdure.tools.python import tool
from tests.trees.family import house, part, says, tasks, uses

MANY = 200
PRICES = {"scripted:*": Price(input=3.0, output=15.0)}


class Metered:
    """A provider that bills: what it reads and what it writes, never more than it was allowed."""

    def __init__(self, wants: int = 300) -> None:
        self._wants = wants
        self.billed_tokens = 0
        self.billed_micro_usd = 0
        self.calls = 0
        self.at_once = 0
        self.most_at_once = 0

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(3):
            await turn_of_the_loop()
        self.at_once -= 1
        usage = Usage(400, min(self._wants, request.max_output_tokens))
        self.billed_tokens += usage.input_tokens + usage.output_tokens
        self.billed_micro_usd += cost_of(usage, PRICES["scripted:*"]) or 0
        yield ModelReply((Text("done"),), usage, "stop", provider="metered")

    async def check(self) -> str:
        return "metered"

    async def close(self) -> None:
        """Nothing to close."""


async def turn_of_the_loop() -> None:
    """Let everything else have a turn."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_soon(passed.set)
    await passed.wait()


class Forgetful(Ledger):
    """A broken ledger: looks what was spent, and books only what came back from the model."""

    def note(self, state: State) -> None:
        turn = replace(state.turn, model=None) if state.turn else None
        super().note(replace(state, turn=turn))


class ForgetfulTrees(Trees):
    ledger_type = Forgetful


class BrokenEngine(Engine):
    def __init__(self, kit: Any) -> None:
        super().__init__(kit)
        self.trees = ForgetfulTrees(self)


def crowd(limits: Limits) -> Agent:
    helper = Agent("helper", "scripted:helper", limits=Limits(steps=None), max_output_tokens=512)
    # Two halves, so that the sum is over a tree and not over one session's children alone.
    half = Agent(
        "half",
        "scripted:half",
        tools=[subagent(helper, max_children=MANY)],
        limits=Limits(None, None),
        max_output_tokens=64,
    )
    return Agent(
        "lead",
        "scripted:lead",
        tools=[subagent(half, max_children=MANY)],
        limits=replace(limits, steps=None, tool_calls=None),
        max_output_tokens=64,
    )


async def spend(limits: Limits, engine_type: type[Engine] = Engine) -> tuple[Metered, Any, State]:
    """Let 200 helpers spend at once; return the meter, the tree, and the root's state."""
    meter = Metered()
    free = (0, 0)
    parts: Mapping[str, Any] = {
        "lead": part(tasks("1", "2", tool="half", tokens=free), says("done", free)),
        "half": part(tasks(*(str(n) for n in range(MANY // 2)), tokens=free), says("done", free)),
        "helper": meter,
    }
    async with house(parts, prices=PRICES, engine_type=engine_type) as engine:
        session = await engine.session("s", crowd(limits))
        state = await session.send("go")
        return meter, await engine.tree("s"), state


async def test_200_at_once_overshoot_a_limit_of_tokens_by_nothing() -> None:
    """Failure 42: many that ask at once whether there is enough are all told yes."""
    limit = 60_000
    meter, tree, _ = await spend(Limits(tokens=limit))
    assert len(tree.rows) == MANY + 3
    assert meter.billed_tokens <= limit
    assert tree.tokens <= limit
    assert meter.most_at_once > 5
    # And the money was there to be used: what is left would not have paid for another call.
    assert limit - meter.billed_tokens < 3_000
    stopped = [row for row in tree.rows if row.status == "budget"]
    assert len(stopped) >= MANY - meter.calls


async def test_200_at_once_overshoot_a_limit_of_money_by_nothing() -> None:
    meter, tree, _ = await spend(Limits(usd=0.40))
    assert len(tree.rows) == MANY + 3
    assert 0.30 * 1_000_000 < meter.billed_micro_usd <= 0.40 * 1_000_000
    assert tree.micro_usd <= 0.40 * 1_000_000
    assert meter.most_at_once > 5


@pytest.mark.parametrize("limits", [Limits(tokens=60_000), Limits(usd=0.40)])
async def test_a_ledger_that_does_not_book_at_once_is_caught(limits: Limits) -> None:
    meter, _, _ = await spend(limits, BrokenEngine)
    over_tokens = limits.tokens is not None and meter.billed_tokens > limits.tokens
    over_usd = limits.usd is not None and meter.billed_micro_usd > limits.usd * 1_000_000
    assert over_tokens or over_usd


def small(limits: Limits, **more: Any) -> Agent:
    helper = Agent("helper", "scripted:helper", max_output_tokens=200)
    return Agent(
        "lead",
        "scripted:lead",
        tools=[subagent(helper, **more)],
        limits=limits,
        max_output_tokens=200,
    )


async def test_the_error_names_whose_limit_it_is_and_raising_it_there_is_seen_below() -> None:
    parts = {
        "lead": part(tasks("a", tokens=(50, 10)), tasks("b", tokens=(90, 10)), says("done")),
        "helper": part(says("one", (3000, 100))),
    }
    async with house(parts) as engine:
        session = await engine.session("s", small(Limits(tokens=3_900)))
        await session.send("go")
        refused = (await (await engine.session("s.t1.2")).state()).last_error
        assert refused is not None and refused.code == "E-LIMIT-TOKENS"
        assert "session s and its subagents" in refused.message
        assert "3900 tokens" in refused.message and "are left" in refused.message
        assert "perdure resume s" in refused.hint
        await session.update(e.SessionUpdated(by="test", limits=Limits(tokens=50_000)))
        child = await engine.session("s.t1.2")
        assert (await child.resume()).last_status == "completed"


async def test_a_child_begins_with_no_more_than_its_parent_has_left() -> None:
    parts = {
        "lead": part(tasks("a"), says("done")),
        "helper": part(says("one", (10, 10))),
    }
    async with house(parts, prices=PRICES) as engine:
        limits = Limits(steps=7, tool_calls=9, wall_s=100.0, tokens=9_000, usd=1.0)
        session = await engine.session("s", small(limits))
        await session.send("go")
        state = await (await engine.session("s.t1.1")).state()
        pinned = state.spec.limits
        assert (pinned.steps, pinned.tool_calls, pinned.wall_s) == (6, 8, 100.0)
        assert pinned.tokens is not None and pinned.tokens < 9_000
        assert pinned.usd is not None and pinned.usd < 1.0


async def test_a_childs_own_limit_holds_for_it_alone() -> None:
    helper = Agent("helper", "scripted:helper", limits=Limits(tokens=100), max_output_tokens=200)
    lead = Agent("lead", "scripted:lead", tools=[subagent(helper)])
    parts = {"lead": part(tasks("a"), says("done")), "helper": part(says("one"))}
    async with house(parts) as engine:
        session = await engine.session("s", lead)
        assert (await session.send("go")).last_status == "completed"
        error = (await (await engine.session("s.t1.1")).state()).last_error
        assert error is not None and "for this session" in error.message
        items = [i.text for i in await session.context() if isinstance(i, ResultItem)]
        assert "E-LIMIT-TOKENS" in items[0]


async def test_model_calls_and_tool_calls_of_a_turn_count_over_the_tree() -> None:
    ran: list[str] = []

    @tool(effect="read")
    def look(thing: str) -> str:
        """Look at something."""
        ran.append(thing)
        return thing

    helper = Agent("helper", "scripted:helper", tools=[look])
    parts = {
        "lead": part(tasks(*"abcdef"), says("done")),
        "helper": part(uses("look", thing="x"), says("done")),
    }
    for limits, tools, steps in ((Limits(tool_calls=9), 9, 99), (Limits(steps=8), 99, 8)):
        ran.clear()
        lead = Agent("lead", "scripted:lead", tools=[subagent(helper)], limits=limits)
        async with house(parts) as engine:
            session = await engine.session("s", lead)
            await session.send("go")
            tree = await engine.tree("s")
            assert len(ran) + 6 <= tools and tree.steps <= steps
            assert len(ran) + 6 == tools or tree.steps == steps


async def test_what_the_tree_has_spent_is_known_to_the_next_process() -> None:
    parts = {
        "lead": part(
            tasks("a", tokens=(50, 10)),
            says("done", (100, 10)),
            tasks("b", tokens=(150, 10)),
            says("done", (200, 10)),
        ),
        "helper": part(says("one", (3200, 100))),
    }
    disk = MemoryDisk()
    agent = small(Limits(tokens=4_400))
    async with house(parts, disk) as engine:
        assert (await (await engine.session("s", agent)).send("go")).last_status == "completed"
    async with house(parts, disk, seed=1) as engine:
        session = await engine.session("s", agent)
        await session.send("again")
        error = (await (await engine.session("s.t2.1")).state()).last_error
        # By itself the second helper would fit; with what the first one spent it does not.
        assert error is not None and "session s and its subagents" in error.message
        assert (await engine.tree("s")).tokens <= 4_400
