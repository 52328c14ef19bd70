"""Clients' calls through crashes at every point, on both stores; and engines that are wrong."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from perdure.core import events as e
from perdure.core.errors import Conflict
from perdure.core.events import Event
from perdure.core.step import Ask, Rest, next_step, status
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Call, Reply
from perdure.ports.store import Batch
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.sqlite.store import SqliteStore
from perdure.testing.broken_clients import AnswersItself, StartsClientTools, TakesTwice
from perdure.testing.client_checks import unanswerable
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.testing.faults import Process
from perdure.testing.sim_user import Gone
from perdure.testing.stage import Stage, play
from perdure.tools.client import ask_user
from tests.engine.test_client_tools import DONE, QUESTION, at_work, office
from tests.engine.told import PRICES, Named, journal, script

KINDS = ("model.responded", "tool.requested", "action.requested", "action.resolved",
         "tool.finished", "turn.ended")  # fmt: skip


class DiesAt(Faults):
    """Kills its process at the first commit with an event of that type."""

    def __init__(self, stage: Stage, kind: str, *, after: bool) -> None:
        self._stage, self._kind, self._after = stage, kind, after

    def before_commit(self, batches: Sequence[Batch]) -> None:
        if not self._after:
            self._look(batches)

    def after_commit(self, batches: Sequence[Batch]) -> None:
        if self._after:
            self._look(batches)

    def _look(self, batches: Sequence[Batch]) -> None:
        if any(r.type == self._kind for b in batches for r in b.records):
            self._stage.kill(self._stage.processes[-1])


async def answered(stage: Stage, process: Process) -> None:
    """Be a client that answers what is open, and does not mind dying over it."""
    await stage.passes(1.0)
    state = await stage.until(lambda s: not process.alive or isinstance(next_step(s), Rest | Ask))
    for action in state.actions.values():
        name = action.call_id

        async def reply(session: Session, name: str = name) -> Event:
            return await session.answer(name, "red", by="anna")

        await stage.with_session(process, reply)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_anywhere_loses_no_answer_and_doubles_none(
    kind: str, after: bool, store: str
) -> None:
    async def scene(stage: Stage) -> None:
        stage.agent = Agent("agent", "scripted:play", tools=[ask_user])
        stage.plays(
            Reply(call=(Call("ask_user", {"question": "Which?"}),)),
            Reply(text="So: {{last_result}}"),
        )
        first = await stage.start(DiesAt(stage, kind, after=after))
        try:
            await stage.say(first, "go")
            await answered(stage, first)
        except Gone:
            pass
        await first.died
        second = await stage.start()
        await stage.say(second, "go")
        await answered(stage, second)
        state = await stage.still()
        assert status(state) == "idle" and state.spent.tool_calls == 1
        events = stage.world.events("s")
        (done,) = stage.payloads(e.ToolFinished)
        assert (done.status, done.text) == ("ok", "red")
        assert not list(unanswerable(state.spec, events, {done.call_id: ["red"]}))
        assert (await replay(events)).identical

    play(scene, store)


async def asked(engine: Engine) -> tuple[Session, str]:
    """Bring a session to its question."""
    session = await engine.session("s", office())
    await session.send("go")
    events = [event async for event in session.events()]
    return session, next(
        x.payload.items[-1].id  # type: ignore[union-attr]
        for x in events
        if isinstance(x.payload, e.ModelResponded)
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["red", "blue", "green"]), min_size=1, max_size=6))
def test_however_often_and_by_whom_one_answer_is_taken(words: list[str]) -> None:
    async def scene() -> None:
        disk, model = MemoryDisk(), script(QUESTION, DONE)
        async with at_work(disk, model) as engine:
            session, name = await asked(engine)
            async with at_work(disk, model, "n2", clerk=True) as desk:
                there = await desk.session("s")
                told = await asyncio.gather(
                    *(
                        (session if place % 2 else there).answer(name, word, by=f"p{place}")
                        for place, word in enumerate(words)
                    ),
                    return_exceptions=True,
                )
            async for _ in session.watch():
                pass
            spec = (await session.state()).spec
        events = await journal(MemoryStore(disk))
        (taken,) = [x for x in events if isinstance(x.payload, e.ActionResolved)]
        assert isinstance(taken.payload, e.ActionResolved)
        for word, outcome in zip(words, told, strict=True):
            if word == taken.payload.result:
                assert outcome == taken
            else:
                assert isinstance(outcome, Conflict) and outcome.code == "E-ANSWER-TWICE", outcome
        assert not list(unanswerable(spec, events, {name: words}))

    asyncio.run(scene())


@pytest.mark.parametrize("broken", [StartsClientTools, AnswersItself, TakesTwice])
async def test_a_wrong_engine_is_seen(broken: type[Engine]) -> None:
    assert await faults_of(broken), broken


async def test_the_right_engine_is_not_blamed() -> None:
    assert not await faults_of(Engine)


async def faults_of(kind: type[Engine]) -> list[str]:
    disk = MemoryDisk()
    model = Named({"office": script(QUESTION, DONE)})
    kit = Kit(MemoryStore(disk), FakeClock(), SeededIds(1), model, prices=PRICES,
              bounds=Bounds(idle_s=0.0, poll_s=0.01))  # fmt: skip
    async with kind(kit) as engine:
        session, name = await asked(engine)
        if (await session.state()).actions:
            await session.answer(name, "red")
            async for _ in session.watch():
                pass
        spec = (await session.state()).spec
    return list(unanswerable(spec, await journal(MemoryStore(disk)), {name: ["red"]}))


async def test_days_and_processes_later_on_a_real_file(tmp_path: Path) -> None:
    """All that knew of the question is gone when the answer comes, and again after it."""
    model, clock = Named({"office": script(QUESTION, DONE)}), FakeClock()

    async def process(*, clerk: bool) -> Engine:
        store = await SqliteStore.open(tmp_path / "s.db")
        return Engine(Kit(store, clock, SeededIds(clock.now_us()), model, clerk=clerk))

    async with await process(clerk=False) as engine:
        _, name = await asked(engine)
    clock.advance(40 * 24 * 3600)
    async with await process(clerk=True) as desk:
        session = await desk.session("s")
        assert status(await session.state()) == "waiting"
        await session.answer(name, "red", by="anna")
    clock.advance(3600)
    async with await process(clerk=False) as engine:
        session = await engine.session("s", office())
        async for _ in session.watch():
            pass
        assert (await session.state()).last_status == "completed"
        events = [event async for event in session.events()]
    assert (await replay(events)).identical
