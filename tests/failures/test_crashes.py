"""What a crash may not do to a call: scenarios 1 to 8, 11 and 20 of the list of failures."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from perdure.core import events as e
from perdure.core.content import ModelItem, ResultItem, ToolCall
from perdure.core.inbox import Decide
from perdure.core.state import Phase, State
from perdure.engine.agent import Agent
from perdure.models.scripted import Call, Reply
from perdure.ports.store import Batch
from perdure.ports.tool import ToolContext
from perdure.stores.faults import Faults
from perdure.testing.faults import Process
from perdure.testing.sim_user import Gone
from perdure.testing.stage import Stage, staged
from perdure.tools.python import NotDone, tool

ONE_CALL = (Reply(call=(Call("pay", {"n": 1}),)), Reply(text="done"))


class DieAt(Faults):
    """Kills a process at the commit that carries an event of that type: before or after it."""

    def __init__(self, stage: Stage, kind: str, *, after: bool) -> None:
        self._stage = stage
        self._kind = kind
        self._after = after

    def before_commit(self, batches: Sequence[Batch]) -> None:
        if not self._after:
            self._look(batches)

    def after_commit(self, batches: Sequence[Batch]) -> None:
        if self._after:
            self._look(batches)

    def _look(self, batches: Sequence[Batch]) -> None:
        if any(record.type == self._kind for batch in batches for record in batch.records):
            self._stage.kill(self._stage.processes[-1])


def payer(
    stage: Stage, effect: str, *, deadly: bool = True, probe: Callable[..., Any] | None = None
) -> list[str]:
    """Give the stage an agent with one tool that kills its first process; return its visits."""
    visits: list[str] = []

    async def pay(n: int, ctx: ToolContext) -> str:
        visits.append(ctx.idempotency_key)
        if deadly and len(visits) == 1:
            await stage.dies_here()
        return f"paid {n}"

    made = tool(effect=effect, probe=probe)(pay)
    stage.agent = Agent("agent", "scripted:play", tools=[made])
    return visits


def asks(state: State) -> bool:
    return bool(state.actions)


@staged
async def test_failure_01_crash_before_the_intent_and_the_client_tries_again(stage: Stage) -> None:
    stage.plays(*ONE_CALL)
    visits = payer(stage, "once", deadly=False)
    first = await stage.start(DieAt(stage, "input.accepted", after=False))
    assert await stage.say(first, "go", key="the key")
    await first.died
    second = await stage.start()
    assert not await stage.say(second, "go", key="the key"), "it was accepted once already"
    await stage.still()
    assert len(visits) == 1
    assert [p.key for p in stage.payloads(e.InputAccepted)] == ["the key"]


@staged
async def test_failure_02_crash_after_the_intent_and_before_the_call(stage: Stage) -> None:
    visits = asking(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(lambda state: asks(state) and visits)
    assert [p.tool for p in stage.payloads(e.ToolRequested)] == ["look", "pay"]
    stage.kill(first)
    second = await stage.start()
    (action,) = (await stage.until(asks)).actions.values()
    await stage.with_session(second, lambda s: s.allow(action.id, by="anna"))
    await stage.still()
    assert visits == ["look", "pay"]
    assert [p.status for p in stage.payloads(e.ToolFinished)] == ["ok", "ok"], "never unknown"


@staged
async def test_failure_03_a_call_that_may_happen_once_is_left_to_a_person(stage: Stage) -> None:
    stage.plays(*ONE_CALL)
    visits = payer(stage, "once")
    await stage.say(await stage.start(), "go")
    await stage.processes[0].died
    second = await stage.start()
    state = await stage.until(asks)
    assert len(visits) == 1
    assert [c.phase for c in state.open_calls] == [Phase.UNKNOWN]
    (action,) = state.actions.values()
    await stage.with_session(second, lambda s: s.decide(decision(action.id, "rerun")))
    await stage.still()
    assert len(visits) == 2, "once more, because a person said so"


def decision(action_id: str, what: e.Decision) -> Decide:
    return Decide(action_id, what, by="anna", result="seen with my own eyes")


@pytest.mark.parametrize("effect", ["read", "idempotent"])
def test_failure_03_a_call_that_may_be_repeated_is(effect: str) -> None:
    @staged
    async def scene(stage: Stage) -> None:
        stage.plays(*ONE_CALL)
        visits = payer(stage, effect)
        await stage.say(await stage.start(), "go")
        await stage.processes[0].died
        await stage.start()
        await stage.still()
        assert len(visits) == 2
        assert len(set(visits)) == 1, "with the same key"

    scene()


@pytest.mark.parametrize("happened", [True, False])
def test_failure_03_a_probe_knows(happened: bool) -> None:
    @staged
    async def scene(stage: Stage) -> None:
        async def probe(n: int) -> str:
            if not happened:
                raise NotDone
            return f"was paid {n}"

        stage.plays(*ONE_CALL)
        visits = payer(stage, "once", probe=probe)
        await stage.say(await stage.start(), "go")
        await stage.processes[0].died
        await stage.start()
        await stage.still()
        assert len(visits) == (1 if happened else 2)
        (done,) = stage.payloads(e.ToolFinished)
        assert done.text == ("was paid 1" if happened else "paid 1")

    scene()


@staged
async def test_failure_04_the_outcome_came_and_was_not_written_down(stage: Stage) -> None:
    stage.plays(*ONE_CALL)
    visits = payer(stage, "once", deadly=False)
    await stage.say(await stage.start(DieAt(stage, "tool.finished", after=False)), "go")
    await stage.processes[0].died
    await stage.start()
    await stage.until(asks)
    assert len(visits) == 1
    assert [p.status for p in stage.payloads(e.ToolFinished)] == ["unknown"]


@staged
async def test_failure_05_no_call_is_left_dangling(stage: Stage) -> None:
    stage.plays(*ONE_CALL)
    payer(stage, "once")
    await stage.say(await stage.start(), "go")
    await stage.processes[0].died
    second = await stage.start()
    await stage.until(asks)
    await stage.with_session(second, lambda s: s.interrupt(by="anna"))
    await stage.say(second, "what now?", key="k2")
    await stage.still()
    calls = [
        i.id
        for item in stage.last_request()
        if isinstance(item, ModelItem)
        for i in item.items
        if isinstance(i, ToolCall)
    ]
    results = [item for item in stage.last_request() if isinstance(item, ResultItem)]
    assert calls == [item.call_id for item in results] == ["t1.1"]
    assert "not known whether" in results[0].text
    assert [p.status for p in stage.payloads(e.ToolFinished)] == ["unknown", "cancelled"]


@staged
async def test_failure_06_a_result_is_shown_only_when_it_is_on_disk(stage: Stage) -> None:
    stage.plays(*ONE_CALL)
    payer(stage, "once", deadly=False)
    first = await stage.start(DieAt(stage, "tool.finished", after=False))
    shown: list[str] = []

    async def watch(process: Process) -> None:
        async def follow(engine: object) -> None:
            session = await first.running.session("s", stage.agent)
            async for item in session.send("go", key="k1"):
                shown.append(getattr(item, "type", "live"))  # noqa: PERF401 - it never ends

        await stage.on(process, follow)

    with pytest.raises(Gone):
        await watch(first)
    assert "tool.started" in shown
    assert "tool.finished" not in shown
    assert not stage.payloads(e.ToolFinished)


@staged
async def test_failure_07_of_parallel_calls_only_the_open_ones_are_met_again(stage: Stage) -> None:
    names = ("a", "b", "c")
    stage.plays(Reply(call=tuple(Call("look", {"at": n}) for n in names)), Reply(text="done"))
    visits: list[str] = []

    @tool(effect="read")
    async def look(at: str) -> str:
        visits.append(at)
        if at == "c" and visits.count("c") == 1:
            await stage.happens(lambda: len(stage.payloads(e.ToolFinished)) == 2)
            await stage.dies_here()
        return at

    stage.agent = Agent("agent", "scripted:play", tools=[look])
    await stage.say(await stage.start(), "go")
    await stage.processes[0].died
    await stage.start()
    await stage.still()
    assert sorted(visits) == ["a", "b", "c", "c"]
    assert sorted(p.text for p in stage.payloads(e.ToolFinished)) == ["a", "b", "c"]


@staged
async def test_failure_08_an_answer_repeats_nothing_that_is_done(stage: Stage) -> None:
    visits = asking(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    stage.kill(first)
    second = await stage.start()
    (action,) = stage.state().actions.values()
    await stage.with_session(second, lambda s: s.allow(action.id, by="anna"))
    await stage.still()
    assert visits == ["look", "pay"]


@staged
async def test_failure_11_an_approval_is_honoured_by_whoever_goes_on(stage: Stage) -> None:
    visits = asking(stage)
    first = await stage.start(DieAt(stage, "action.resolved", after=True))
    await stage.say(first, "go")
    (action,) = (await stage.until(asks)).actions.values()
    with pytest.raises(Gone):
        await stage.with_session(first, lambda s: s.allow(action.id, by="anna"))
    second = await stage.start()
    await stage.say(second, "something else", key="k2")
    await stage.still()
    assert visits == ["look", "pay"]
    assert len(stage.payloads(e.ActionRequested)) == 1, "nobody is asked twice"


def asking(stage: Stage) -> list[str]:
    """Give the stage an agent that looks freely and pays when it is allowed to."""
    visits: list[str] = []

    @tool(effect="read")
    async def look() -> str:
        visits.append("look")
        return "seen"

    @tool(ask=True)
    async def pay() -> str:
        visits.append("pay")
        return "paid"

    stage.plays(Reply(call=(Call("look"), Call("pay"))), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[look, pay])
    return visits


@staged
async def test_failure_20_both_calls_of_the_model_are_booked_and_one_counts(stage: Stage) -> None:
    stage.plays(Reply(text="a long answer, and slowly said", delay_s=10.0))
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(lambda s: s.turn is not None and s.turn.model is not None)
    await stage.passes(5)
    stage.kill(first)
    await stage.start()
    state = await stage.still()
    lost, answered = stage.payloads(e.ModelResponded)
    assert (lost.status, answered.status) == ("lost", "ok")
    assert lost.usage.estimated
    used = [lost.usage.output_tokens, answered.usage.output_tokens]
    assert state.spent.output_tokens == sum(used)
    assert min(used) > 0
    items = await stage.with_session(stage.processes[1], lambda s: s.context())
    assert sum(isinstance(item, ModelItem) for item in items) == 1
