"""Errors by cause, who still stands there, and moving them on once the cause is gone."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.core.errors import InvalidRequest, NotFound, error_info
from perdure.core.events import Event, InputAccepted
from perdure.core.inbox import Decide
from perdure.engine.agent import Agent
from perdure.engine.redrive import (
    ErrorGroup,
    Redriven,
    grouped,
    occurrences,
    plan_redrive,
    redrive,
    whole_error,
)
from perdure.engine.runtime import Engine
from perdure.models.scripted import Call, Failure, Reply, Script
from perdure.ports.tool import ToolFailed
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.tools.python import tool
from tests.engine.stands import World, running
from tests.environments.doubles import process

DOWN = Script((Reply(text="done", error=Failure("auth", times=99)),))
UP = Script((Reply(text="done"), Reply(text="done again")))
MODEL = "scripted:scripted:x"  # as the model that plays scripts calls itself
PAYS = Script((Reply(call=(Call("pay", {"invoice": 7}),)), Reply(text="done")))


async def all_of(items: AsyncIterator[Redriven]) -> list[Redriven]:
    return [item async for item in items]


async def only_group(engine: Engine) -> ErrorGroup:
    (group,) = await grouped(engine.kit.store)
    return group


async def fail(disk: MemoryDisk, *names: str) -> str:
    """Let sessions of these names fail for one cause; return its fingerprint."""
    async with running(MemoryStore(disk), DOWN) as (engine, agent):
        for name in names:
            await (await engine.session(name, agent)).send("go")
        return (await only_group(engine)).fingerprint


async def test_errors_are_grouped_by_cause() -> None:
    disk = MemoryDisk()
    async with running(MemoryStore(disk), DOWN) as (engine, agent):
        for name in ("ses_1", "ses_2"):
            await (await engine.session(name, agent)).send("go")
        await (await engine.session("ses_2", agent)).resume()
        group = await only_group(engine)
        assert (group.code, group.kind, group.subject) == ("E-MODEL-AUTH", "model", MODEL)
        assert (group.count, group.sessions, group.waiting) == (3, 2, 2)
        assert group.first_at_us < group.last_at_us
        found = await occurrences(engine.kit.store, group.fingerprint)
        assert [o.row.session for o in found] == ["ses_2", "ses_1"]
        assert [(o.row.count, o.status, o.waits) for o in found] == [
            (2, "failed", True), (1, "failed", True),
        ]  # fmt: skip
        whole = await whole_error(engine.kit.store, found[0].row)
        assert whole is not None and whole.hint, "the row of the index is only the beginning"


async def test_who_went_on_does_not_wait() -> None:
    disk = MemoryDisk()
    await fail(disk, "ses_1", "ses_2", "ses_3")
    async with running(MemoryStore(disk), UP) as (engine, agent):
        await (await engine.session("ses_1", agent)).send("something else")
        await (await engine.session("ses_2", agent)).rewind(1)
        group = await only_group(engine)
        assert (group.sessions, group.waiting) == (3, 1)


async def test_a_plan_says_what_will_run() -> None:
    disk = MemoryDisk()
    cause = await fail(disk, "ses_1")
    (plan,) = await plan_redrive(MemoryStore(disk), cause)
    assert (plan.session, plan.status, plan.go, plan.calls) == ("ses_1", "failed", True, ())
    assert plan.will == "a new turn begins: scripted:x is called with the transcript as it is"


async def test_all_who_wait_are_moved_on() -> None:
    disk = MemoryDisk()
    cause = await fail(disk, "ses_1", "ses_2", "ses_3")
    async with running(MemoryStore(disk), UP) as (engine, agent):
        await engine.register(agent)
        done = await all_of(redrive(engine, cause, rate_per_s=1000, only={"ses_1", "ses_3"}))
        assert {(r.plan.session, r.outcome) for r in done} == {
            ("ses_1", "resumed"), ("ses_3", "resumed"),
        }  # fmt: skip
        for name in ("ses_1", "ses_3"):
            async for _ in (await engine.session(name)).watch():
                pass
        assert (await only_group(engine)).waiting == 1
        statuses = {row.id: row.status for row in await engine.sessions()}
        assert statuses == {"ses_1": "idle", "ses_2": "failed", "ses_3": "idle"}


async def test_asked_for_twice_it_is_resumed_once() -> None:
    disk = MemoryDisk()
    cause = await fail(disk, "ses_1")
    clerk = MemoryStore(disk)
    # This process does not have the agent's code: the letters wait for one that has.
    async with running(clerk, UP) as (engine, _):
        first = await all_of(redrive(engine, cause, rate_per_s=1000, by="ann"))
        second = await all_of(redrive(engine, cause, rate_per_s=1000, by="bob"))
        third = await all_of(redrive(engine, cause, rate_per_s=1000, by="ann"))
    assert [r.outcome for r in (*first, *second, *third)] == ["resumed", "repeated", "repeated"]
    async with running(MemoryStore(disk), UP) as (engine, agent):
        session = await engine.session("ses_1", agent)
        async for _ in session.watch():
            pass
        told = [ev.payload async for ev in session.events()]
        assert [p.by for p in told if isinstance(p, InputAccepted) and p.kind == "resume"] == [
            "ann"
        ]


async def test_the_same_cause_again_waits_again() -> None:
    disk = MemoryDisk()
    cause = await fail(disk, "ses_1")
    async with running(MemoryStore(disk), DOWN) as (engine, agent):
        await engine.register(agent)
        for count in (2, 3):
            (done,) = await all_of(redrive(engine, cause, rate_per_s=1000))
            assert done.outcome == "resumed"
            async for _ in (await engine.session("ses_1")).watch():
                pass
            group = await only_group(engine)
            assert (group.count, group.waiting) == (count, 1)


async def test_the_rate_is_kept() -> None:
    disk = MemoryDisk()
    cause = await fail(disk, *(f"ses_{n}" for n in range(5)))
    async with running(MemoryStore(disk), UP) as (engine, _):
        began = engine.kit.clock.monotonic()
        assert len(await all_of(redrive(engine, cause, rate_per_s=50))) == 5
        assert engine.kit.clock.monotonic() - began >= 4 / 50
        for rate in (0.0, -1.0, float("nan")):
            with pytest.raises(InvalidRequest, match="E-REDRIVE-RATE"):
                await all_of(redrive(engine, cause, rate_per_s=rate))


async def test_an_unknown_outcome_waits_for_a_decision() -> None:
    disk, world = MemoryDisk(), World()
    world.broken = {"pay"}
    async with running(MemoryStore(disk), PAYS, world) as (engine, agent):
        session = await engine.session("ses_1", agent)
        state = await session.send("pay it")
        group = await only_group(engine)
        assert (group.code, group.subject, group.waiting) == ("E-TOOL-UNKNOWN", "pay", 1)
        (plan,) = await plan_redrive(engine.kit.store, group.fingerprint)
        assert (plan.go, plan.will) == (False, "a person owes it a decision")
        assert [(c.tool, c.verdict) for c in plan.calls] == [("pay", "decide")]
        (done,) = await all_of(redrive(engine, group.fingerprint, rate_per_s=1000))
        assert (done.outcome, done.why) == ("skipped", plan.will)
        assert world.paid == [7], "redriving never repeats what may have happened"
        (action,) = state.actions
        await session.decide(Decide(action, "done", by="ann", result="I saw it"))
        async for _ in session.watch():
            pass
        assert (await only_group(engine)).waiting == 0


async def test_a_held_call_waits_for_a_decision() -> None:
    """It failed for certain, and its tool leaves it to a person: that is the cause it waits for."""
    world, offices = World(), []

    @tool(effect="read", on_error="ask")
    def ask_office(thing: str) -> str:
        """Ask an office."""
        offices.append(thing)
        if "office" in world.broken:
            raise ToolFailed(error_info(f"E-{thing.upper()}", "tool", "closed", subject="office"))
        return "open"

    calls = (Call("ask_office", {"thing": "door"}), Call("ask_office", {"thing": "roof"}))
    script = Script((Reply(call=calls), Reply(text="done")))
    world.broken = {"office"}
    async with running(MemoryStore(MemoryDisk()), script) as (engine, _):
        clerk = Agent("clerk", "scripted:x", tools=[ask_office])
        session = await engine.session("ses_1", clerk)
        state = await session.send("ask them")
        assert (await engine.sessions())[0].status == "waiting"
        groups = await grouped(engine.kit.store)
        assert [(g.subject, g.waiting, g.count) for g in groups] == [("office", 1, 1)] * 2
        for group in groups:
            (plan,) = await plan_redrive(engine.kit.store, group.fingerprint)
            assert (plan.go, plan.will) == (False, "a person owes it a decision")
            assert {(c.verdict, c.why) for c in plan.calls} == {
                ("decide", "it failed, and a person decides what becomes of it")
            }
            (done,) = await all_of(redrive(engine, group.fingerprint, rate_per_s=1000))
            assert done.outcome == "skipped" and len(offices) == 2, "nothing ran again"
        world.broken = set()
        door = next(a for a in state.actions.values() if "E-DOOR" in a.question)
        await session.decide(Decide(door.id, "rerun", by="ann"))
        async for event in session.watch():
            if isinstance(event, Event) and getattr(event.payload, "status", "") == "ok":
                break
        # What was decided on waits no more, though its error is the newest that stopped it.
        left = {g.waiting: g.fingerprint for g in await grouped(engine.kit.store)}
        assert set(left) == {0, 1}
        (found,) = await occurrences(engine.kit.store, left[1])
        assert found.waits and found.row.code == "E-ROOF"
        (other,) = (await session.state()).actions
        await session.decide(Decide(other, "failed", by="ann"))
        async for _ in session.watch():
            pass
        assert not any(g.waiting for g in await grouped(engine.kit.store))


async def test_a_parked_session_goes_on_with_its_calls(tmp_path: Path) -> None:
    disk = MemoryDisk()
    script = Script((Reply(call=(Call("weigh", {"thing": "door"}),)), Reply(text="done")))
    async with running(MemoryStore(disk), script) as (engine, agent):
        await (await engine.session("ses_1", agent)).send("go")
        group = await only_group(engine)
    assert (group.code, group.kind, group.waiting) == ("E-NO-ENVIRONMENT", "environment", 1)
    assert group.count == 1, "that it was lost and that this parked the session is one error"
    (plan,) = await plan_redrive(MemoryStore(disk), group.fingerprint)
    assert (plan.status, plan.go, plan.will) == ("parked", True, "1 call will run")
    assert [(c.tool, c.verdict, c.why) for c in plan.calls] == [("weigh", "again", "it only reads")]
    here = {"process": process(tmp_path)}
    async with running(MemoryStore(disk), script, environments=here) as (engine, agent):
        await engine.register(agent)
        (done,) = await all_of(redrive(engine, group.fingerprint, rate_per_s=1000))
        assert done.outcome == "resumed"
        async for _ in (await engine.session("ses_1")).watch():
            pass
        assert (await only_group(engine)).waiting == 0
        assert [row.status for row in await engine.sessions()] == ["idle"]


async def test_what_moved_on_meanwhile_is_left_alone() -> None:
    disk = MemoryDisk()
    cause = await fail(disk, "ses_1", "ses_2")
    async with running(MemoryStore(disk), UP) as (engine, agent):
        items = redrive(engine, cause, rate_per_s=1000)
        first = await anext(items)
        other = {"ses_1": "ses_2", "ses_2": "ses_1"}[first.plan.session]
        await (await engine.session(other, agent)).send("by hand")
        second = await anext(items)
        assert (second.plan.session, second.outcome) == (other, "skipped")
        assert second.why == "it has moved on by itself"


async def test_errors_nobody_has_met() -> None:
    store = MemoryStore(MemoryDisk())
    assert await grouped(store) == []
    with pytest.raises(NotFound, match="E-ERROR-UNKNOWN"):
        await occurrences(store, "nothing")
    with pytest.raises(NotFound, match="E-ERROR-UNKNOWN"):
        await plan_redrive(store, "nothing")
