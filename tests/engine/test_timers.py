"""Sessions that sleep: woken in time, by whichever process is there, once, and never forgotten."""

import asyncio
from typing import Any

import pytest

from perdure.core import events as e
from perdure.core.agent import Rule, Verdict
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.export import export_session, import_session
from perdure.engine.kit import Bounds, Kit
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.tools.waiting import sleep, wait_for
from tests.engine.inn import (
    NAP,
    QUICK,
    a_moment,
    asleep,
    at_rest,
    inn,
    journal,
    look,
    payloads,
    send,
    sleeper,
    still_asleep,
    told,
    until,
    until_let_go,
)
from tests.trees.family import Cast, born, lead_of, part, says, tasks, uses

DAY_S = 24 * 3600.0


async def test_a_session_sleeps_is_let_go_and_woken() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock) as engine:
        session = await asleep(engine)
        assert disk.journals["s"].owner is None, "nobody holds a session that sleeps long"
        clock.advance(3599)
        await still_asleep(session)
        clock.advance(1)
        state = await at_rest(session)
        assert state.last_status == "completed" and not state.timers
        assert await told(session) == ["The time is over."]
        events = await journal(MemoryStore(disk))
    assert len(payloads(events, e.TimerFired)) == 1
    assert not payloads(events, e.ToolStarted), "nothing left that could be lost"
    assert (await replay(events)).identical


async def test_the_sender_waits_until_the_turn_is_over() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock) as engine:
        session = await engine.session("s", sleeper())
        sending = asyncio.ensure_future(send(session))
        await until(session, lambda s: status(s) == "sleeping")
        await until_let_go(engine, "s")
        assert not sending.done()
        clock.advance(3600)
        async with asyncio.timeout(10):
            assert (await sending).last_status == "completed"


async def test_another_process_wakes_it() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock) as engine:
        await asleep(engine)
    async with inn(disk, clock) as engine:
        session = Session(engine, "s")
        await still_asleep(session)
        clock.advance(3600)
        await at_rest(session)
        assert not (await session.state()).recoveries
    assert len(payloads(await journal(MemoryStore(disk)), e.TimerFired)) == 1


async def test_a_killed_process_loses_no_timer_and_two_survivors_fire_it_once() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    store = MemoryStore(disk)
    bounds = Bounds(idle_s=60.0, poll_s=0.01)  # it is still held when its process dies
    async with inn(disk, clock, store=store, bounds=bounds) as engine:
        session = await engine.session("s", sleeper())
        sending = asyncio.ensure_future(send(session))
        await until(session, lambda s: status(s) == "sleeping")
        sending.cancel()
        store.kill()
    clock.advance(3600)
    async with inn(disk, clock) as one, inn(disk, clock) as other:
        await at_rest(Session(one, "s"))
        await at_rest(Session(other, "s"))
    events = await journal(MemoryStore(disk))
    assert len(payloads(events, e.TimerFired)) == 1
    assert [p.status for p in payloads(events, e.ToolFinished)] == ["ok"]
    assert (await replay(events)).identical


async def test_a_short_sleep_is_waited_for_in_memory() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock, bounds=Bounds(idle_s=5000.0, poll_s=0.01)) as engine:
        session = await engine.session("s", sleeper())
        sending = asyncio.ensure_future(send(session))
        await until(session, lambda s: status(s) == "sleeping")
        await still_asleep(session)
        assert engine.drives("s")
        sending.cancel()


@pytest.mark.parametrize("seconds", [0, -5])
async def test_no_time_is_over_at_once(seconds: int) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock, (uses("sleep", seconds=seconds), says("Up."))) as engine:
        session = await engine.session("s", sleeper())
        assert (await send(session)).last_status == "completed"
    assert len(payloads(await journal(MemoryStore(disk)), e.TimerFired)) == 1


async def test_until_a_moment() -> None:
    disk, clock = MemoryDisk(), FakeClock(1_700_000_000_000_000)  # 2023-11-14T22:13:20Z
    words = uses("sleep", until="2023-11-15T00:00:00+01:00")
    async with inn(disk, clock, (words, says("Up."))) as engine:
        session = await asleep(engine)
        (timer,) = (await session.state()).timers.values()
        assert timer.due_us == 1_700_002_800_000_000
        clock.set(1_700_002_800_000_000)
        await at_rest(session)


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("sleep", {}, "give one of"),
        ("sleep", {"seconds": 1, "until": "2030-01-01T00:00:00Z"}, "give one of"),
        ("sleep", {"seconds": "soon"}, "a number of seconds"),
        ("sleep", {"seconds": True}, "a number of seconds"),
        ("sleep", {"seconds": 366 * DAY_S + 1}, "366 days"),
        ("sleep", {"seconds": 10**400}, "366 days"),
        ("sleep", {"until": "tomorrow"}, "ISO 8601"),
        ("sleep", {"until": "2023-11-15T09:00:00"}, "time zone"),
        ("sleep", {"until": "2099-01-01T00:00:00Z"}, "366 days"),
        ("sleep", {"minutes": 5}, "there is no minutes"),
        ("wait_for", {}, "a name"),
        ("wait_for", {"event": ""}, "a name"),
        ("wait_for", {"event": "paid", "timeout_s": "x"}, "a number of seconds"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model(
    name: str, arguments: dict[str, Any], why: str
) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    call = {"call": [{"tool": name, "arguments": arguments}]}
    async with inn(disk, clock, (call, says("I see."))) as engine:
        session = await engine.session("s", sleeper())
        assert (await send(session)).last_status == "completed"
        (text,) = await told(session)
    assert text.startswith("E-TOOL-ARGUMENTS") and why in text, text
    events = await journal(MemoryStore(disk))
    assert not payloads(events, e.TimerSet)
    assert (await replay(events)).identical


async def test_other_calls_run_meanwhile_and_the_model_reads_all() -> None:
    calls = {
        "call": [
            {"tool": "sleep", "arguments": {"seconds": 100}},
            {"tool": "look", "arguments": {"thing": "the door"}},
            {"tool": "sleep", "arguments": {"seconds": 200}},
        ]
    }
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock, (calls, says("Up."))) as engine:
        session = await asleep(engine)
        clock.advance(100)
        await until(session, lambda s: len(s.timers) == 1)
        await until_let_go(engine, "s")
        clock.advance(100)
        state = await at_rest(session)
        assert state.spent.tool_calls == 3
        over = "The time is over."
        assert await told(session) == ["the door is there", over, over], "as they end"
    assert (await replay(await journal(MemoryStore(disk)))).identical


async def test_an_interrupt_ends_a_sleep_and_a_pause_keeps_it() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock) as engine:
        session = await asleep(engine)
        await session.pause()
        await until(session, lambda s: s.paused)
        clock.advance(4000)
        for _ in range(5):
            await a_moment()
            assert (await session.state()).timers, "nothing happens in a pause"
        await session.resume()
        assert await told(session) == ["The time is over."]
        fresh = await asleep(engine, "t")
        await fresh.interrupt()
        state = await at_rest(fresh)
        assert state.last_status == "cancelled" and not state.timers
    assert (await replay(await journal(MemoryStore(disk)))).identical


@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.ASK])
async def test_rules_hold_for_sleeping_too(verdict: Verdict) -> None:
    rule = Rule("sleep", verdict, when="seconds > 60", reason="too long")
    agent = sleeper(permissions=[rule])
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock, agent=agent) as engine:
        session = await engine.session("s", agent)
        state = await send(session)
        if verdict is Verdict.ASK:
            assert status(state) == "waiting" and not state.timers
            await session.allow(next(iter(state.actions)), by="ann")
            await until(session, lambda s: status(s) == "sleeping")
            clock.advance(3600)
            state = await at_rest(session)
        assert state.last_status == "completed"
    events = await journal(MemoryStore(disk))
    assert len(payloads(events, e.TimerSet)) == (verdict is Verdict.ASK)
    assert (await replay(events)).identical


async def test_the_wall_clock_is_set_back_and_forward() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock) as engine:
        session = await asleep(engine)
        clock.set(clock.now_us() - int(DAY_S * 1_000_000))
        clock.advance(3599)
        await still_asleep(session)
        clock.advance(1)
        await at_rest(session)  # no longer than it was to be
        later = await asleep(engine, "t")
        clock.set(clock.now_us() + 3600 * 1_000_000)
        await at_rest(later)
    for name in ("s", "t"):
        report = await replay(await journal(MemoryStore(disk), name))
        assert report.identical, report


async def test_sessions_whose_code_is_not_here_are_left_alone() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock) as engine:
        await asleep(engine)
    clock.advance(3600)
    looks: list[str] = []

    class Counting(MemoryStore):
        async def session(self, session: str) -> Any:
            looks.append(session)
            return await super().session(session)

    kit = Kit(Counting(disk), clock, SeededIds(5), Cast({}), bounds=QUICK)
    async with Engine(kit) as foreign:
        for _ in range(40):
            await a_moment()
        assert disk.journals["s"].epoch == 2, "nobody claimed it"
        assert looks == ["s"], "it is not looked at again and again"
        await still_asleep(Session(foreign, "s"), 2)
        looks.clear()
        # The code comes later.
        kit.models._parts["sleeper"] = part(*NAP)  # type: ignore[attr-defined]
        await foreign.register(sleeper())
        await at_rest(Session(foreign, "s"))


async def test_code_that_changed_neither_runs_nor_parks_it() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock) as engine:
        await asleep(engine)
    clock.advance(3600)
    other = Agent("sleeper", "scripted:sleeper", tools=[look])
    async with inn(disk, clock, agent=other) as engine:
        await still_asleep(Session(engine, "s"), 20)


async def test_an_engine_that_wakes_nobody_waits_itself() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock, wakes=False) as engine:
        session = await engine.session("s", sleeper())
        sending = asyncio.ensure_future(send(session))
        await until(session, lambda s: status(s) == "sleeping")
        await still_asleep(session)
        assert engine.drives("s"), "nobody else would wake it"
        sending.cancel()


async def test_timers_travel() -> None:
    disk, clock, there = MemoryDisk(), FakeClock(), MemoryDisk()
    async with inn(disk, clock) as engine:
        await asleep(engine)
        lines = [line async for line in export_session(engine.kit.store, "s")]
    async with inn(there, clock) as engine:
        await import_session(engine.kit.store, lines)
        session = Session(engine, "s")
        await still_asleep(session)
        clock.advance(3600)
        await at_rest(session)


HELPER = Agent("helper", "scripted:helper", tools=[sleep, wait_for])
FAMILY = {"lead": part(tasks("rest"), says("All done.")), "helper": part(*NAP)}


@pytest.mark.parametrize("restart", [False, True])
async def test_a_subagent_that_sleeps_is_woken_with_its_root(restart: bool) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    lead = lead_of(HELPER)
    async with inn(disk, clock, agent=lead, parts=FAMILY) as engine:
        root = await engine.session("s", lead)
        sending = asyncio.ensure_future(send(root))
        child = await born(engine, "s.t1.1")
        await until(child, lambda s: status(s) == "sleeping")
        await until_let_go(engine, child.id)
        assert not sending.done() and not (await engine.tree("s")).waiting
        rows = {row.id: row.status for row in await engine.sessions()}
        assert rows == {"s": "sleeping", child.id: "sleeping"}
        if not restart:
            clock.advance(3600)
            await at_rest(root)
        sending.cancel()
    clock.advance(3600)
    async with inn(disk, clock, agent=lead, parts=FAMILY) as engine:
        state = await at_rest(Session(engine, "s"))
        assert state.last_status == "completed"
    for name in ("s", "s.t1.1"):
        events = await journal(MemoryStore(disk), name)
        assert len(payloads(events, e.ToolFinished)) == 1
        report = await replay(events)
        assert report.identical, report
