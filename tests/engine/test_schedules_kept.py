"""What is done with schedules: kept, paused, asked for now, looked after, taken away."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from perdure.app import Options, Runtime
from perdure.core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from perdure.core.schedules import Fire
from perdure.engine.calendar import moment_of, us_of
from perdure.engine.schedules import KIND, session_of
from perdure.engine.session import Session
from perdure.ports.store import Batch, Claim, Store
from perdure.replaying import replay_session
from perdure.sync import Runtime as SyncRuntime
from perdure.testing.clocks import FakeClock
from perdure.testing.sim_store import StoreProxy
from tests.contract.stores import MemoryHarness
from tests.engine.test_schedules import (
    HOUR,
    START,
    agent_of,
    engine_on,
    nightly,
    node,
    settle,
    slow,
    told,
)
from tests.engine.told import Named, script


async def test_a_run_has_a_session_named_after_its_fire_time() -> None:
    clock = FakeClock(START - 1)
    async with node(await MemoryHarness().open(), clock) as engine:
        made = await engine.schedules.add(nightly())
        assert made.next_us == START
        clock.set(START + 5_000_000)
        assert await engine.schedules.tick() == START + HOUR
        await settle(engine)
        (row,) = await engine.sessions()
        assert row.id == f"nightly-{moment_of(START):%Y%m%dT%H%M%S}Z"
        ((run, seen),) = await engine.schedules.history("nightly")
        assert (run.at_us, run.begun_at_us, seen) == (START, START + 5_000_000, row)
        assert (await Session(engine, row.id).state()).last_status == "completed"


async def test_what_says_the_same_is_kept_once_and_what_does_not_is_refused() -> None:
    clock = FakeClock(START)
    async with node(await MemoryHarness().open(), clock) as engine:
        first = await engine.schedules.add(nightly())
        clock.advance(1)
        assert await engine.schedules.add(nightly()) == first
        with pytest.raises(Conflict) as caught:
            await engine.schedules.add(nightly(cron="0 4 * * *"))
        assert caught.value.code == "E-SCHEDULE-EXISTS"
        assert await engine.schedules.all() == [first]


async def test_what_would_never_fire_is_refused() -> None:
    async with node(await MemoryHarness().open(), FakeClock(START)) as engine:
        with pytest.raises(InvalidRequest) as caught:
            await engine.schedules.add(nightly(cron="0 4 29 2 *", ends_us=START + HOUR))
        assert caught.value.code == "E-SCHEDULE-WHEN"


async def test_the_agent_of_another_process_is_left_to_it() -> None:
    clock = FakeClock(START)
    harness = MemoryHarness()
    async with engine_on(await harness.open(), clock) as idle:
        await idle.schedules.add(nightly(cron="", at_us=START - 1))
        assert await idle.schedules.tick() is None
        assert await idle.sessions() == []
        async with node(await harness.open(), clock, seed=2) as engine:
            await settle(engine)
            assert len(await told(engine.kit.store)) == 1


async def test_a_paused_one_does_not_fire_and_what_passed_is_not_made_up_for() -> None:
    clock = FakeClock(START - 1)
    async with node(await MemoryHarness().open(), clock) as engine:
        await engine.schedules.add(nightly(missed="all", overlap="queue"))
        await engine.schedules.pause("nightly")
        clock.set(START + 3 * HOUR)
        assert await engine.schedules.tick() is None
        clock.advance(1)
        assert (await engine.schedules.resume("nightly")).next_us == START + 4 * HOUR
        await settle(engine)
        assert await engine.sessions() == []


async def test_a_run_asked_for_begins_at_once_and_beside_the_plan() -> None:
    clock = FakeClock(START - 1)
    async with node(await MemoryHarness().open(), clock) as engine:
        await engine.schedules.add(nightly())
        name = await engine.schedules.run_now("nightly")
        await settle(engine)
        assert await told(engine.kit.store) == [f"schedule:nightly:now:{START - 1}"]
        clock.set(START)
        await settle(engine)
        assert len(await told(engine.kit.store)) == 2
        runs = await engine.schedules.history("nightly")
        assert [(past.run.session == name, past.run.by_hand) for past in runs] == [
            (False, False),
            (True, True),
        ]


async def test_a_run_asked_for_where_the_code_is_not_begins_where_it_is() -> None:
    clock, harness = FakeClock(START), MemoryHarness()
    async with engine_on(await harness.open(), clock) as idle:
        await idle.schedules.add(nightly())
        name = await idle.schedules.run_now("nightly")
        assert await idle.sessions() == []
        async with node(await harness.open(), clock, seed=2) as engine:
            await settle(engine)
            assert [row.id for row in await engine.sessions()] == [name]


async def test_what_is_removed_fires_no_more_and_its_sessions_stay() -> None:
    clock = FakeClock(START)
    async with node(await MemoryHarness().open(), clock) as engine:
        await engine.schedules.add(nightly())
        await engine.schedules.run_now("nightly")
        await engine.schedules.remove("nightly")
        clock.set(START + 9 * HOUR)
        await engine.schedules.tick()
        assert len(await engine.sessions()) == 1
        for act in (engine.schedules.get, engine.schedules.remove, engine.schedules.pause):
            with pytest.raises(NotFound) as caught:
                await act("nightly")
            assert caught.value.code == "E-SCHEDULE-UNKNOWN"


async def test_overlap_skip_leaves_a_fire_time_out_and_queue_lets_it_wait() -> None:
    clock, gate = FakeClock(START - 1), asyncio.Event()
    async with engine_on(await MemoryHarness().open(), clock) as engine:
        await engine.register(slow(gate))
        await engine.schedules.add(nightly())
        await engine.schedules.add(nightly(name="queued", overlap="queue"))
        for hour in range(3):
            clock.set(START + hour * HOUR)
            await engine.schedules.tick()
        skips, queues = await engine.schedules.all()
        assert (len(skips.runs), skips.due, skips.last_skipped_us) == (1, (), START + 2 * HOUR)
        assert len(queues.runs) == 1
        assert queues.due == (Fire(START + HOUR), Fire(START + 2 * HOUR))
        gate.set()
        await settle(engine)
        assert len((await engine.schedules.get("queued")).runs) == 3


async def test_a_run_whose_process_is_gone_is_gone_on_with() -> None:
    """Nothing is due any more: only the look at unfinished runs finds it."""
    clock, harness, gate = FakeClock(START), MemoryHarness(), asyncio.Event()
    store = await harness.open()
    async with engine_on(store, clock) as engine:
        await engine.register(slow(gate))
        await engine.schedules.add(nightly(cron="", at_us=START))
        await engine.schedules.tick()
        await harness.kill(store)
    gate.set()
    async with engine_on(await harness.open(), clock, seed=2) as engine:
        await engine.register(slow(gate))
        schedule = await engine.schedules.get("nightly")
        assert (schedule.due, schedule.next_us, len(schedule.runs)) == ((), None, 1)
        session = Session(engine, schedule.runs[0].session)
        following = session.follow()
        await engine.schedules.tick()
        async for _ in following:
            if (await session.state()).last_status == "completed":
                return


async def test_what_goes_wrong_with_one_is_told_in_it_and_leaves_the_others_alone() -> None:
    clock, store = FakeClock(START), await MemoryHarness().open()
    async with node(store, clock) as engine:
        await engine.schedules.add(nightly(name="other", cron="", at_us=START))
        bad = msgspec.structs.replace(nightly(name="bad"), tz="Gone/Away", next_us=START)
        await store.put_doc(KIND, "bad", msgspec.json.encode(bad))
        await store.put_doc(KIND, "aaa", b"{not json")
        for _ in range(2):
            await engine.schedules.tick()
        assert len(await engine.sessions()) == 1
        docs = {doc.name: doc for doc in await store.docs(KIND)}
        assert b"E-SCHEDULE-TZ" in docs["bad"].data
        assert docs["bad"].version == 2, "the same trouble is written once"


async def test_a_name_given_again_does_not_run_an_old_fire_time_again() -> None:
    clock = FakeClock(START)
    async with node(await MemoryHarness().open(), clock) as engine:
        for prompt in ("one", "one", "another"):
            text = nightly(prompt=[{"type": "text", "text": prompt}], cron="", at_us=START)
            await engine.schedules.add(text)
            await settle(engine)
            assert (await engine.schedules.get("nightly")).due == ()
            await engine.schedules.remove("nightly")
        assert len(await told(engine.kit.store)) == 1


async def test_a_scheduled_session_replays_exactly() -> None:
    clock = FakeClock(START - 1)
    async with node(await MemoryHarness().open(), clock) as engine:
        await engine.schedules.add(nightly(session="log"))
        for hour in range(2):
            clock.set(START + hour * HOUR)
            await settle(engine)
        report = await replay_session(engine.kit.store, "log")
        assert report.identical and report.events > 10, report


def test_a_session_for_all_runs_is_the_one_named() -> None:
    assert session_of(nightly(session="log"), Fire(START)) == "log"
    assert session_of(nightly(), Fire(START, by_hand=True)).startswith("nightly-now-")


def options(*, schedules: bool = False) -> Options:
    parts = {"clerk": script(*({"text": f"{n}"} for n in range(9)))}
    return Options(models=Named(parts), schedules=schedules)


async def test_the_runtime_fires_while_it_is_open_when_told_to() -> None:
    async with Runtime("memory:", options(schedules=True)) as runtime:
        past = datetime(2026, 1, 1, 9, 0, tzinfo=UTC)
        made = await runtime.schedule("early", agent_of(), "Go.", at=past, by="anna")
        assert (made.at_us, made.made_by) == (us_of(past), "anna")
        session = Session(await runtime.engine(), "early-20260101T090000Z")
        while not await runtime.schedule_runs("early"):
            await (await runtime.engine()).kit.store.changed(0.05)
        async for _ in session.watch():
            pass
        ((_, row),) = await runtime.schedule_runs("early")
        assert row is not None and (row.status, row.turns) == ("idle", 1)


def test_a_plain_script_keeps_schedules_too(tmp_path: Path) -> None:
    with SyncRuntime(f"sqlite:///{tmp_path}/s.db", options()) as runtime:
        made = runtime.schedule("nightly", agent_of(), "Go.", cron="@daily", tz="Asia/Kolkata")
        assert runtime.schedules() == [made]
        name = runtime.run_schedule_now("nightly")
        ((run, row),) = runtime.schedule_runs("nightly")
        assert row is not None and name == row.id == run.session
        assert runtime.pause_schedule("nightly").paused
        assert not runtime.resume_schedule("nightly").paused
        runtime.remove_schedule("nightly")
        assert runtime.schedules() == []


async def test_a_session_for_all_runs_that_was_closed_is_told() -> None:
    clock = FakeClock(START - 1)
    async with node(await MemoryHarness().open(), clock) as engine:
        await engine.schedules.add(nightly(session="log"))
        await (await engine.session("log", agent_of())).close(by="anna")
        for hour in range(2):
            clock.set(START + hour * HOUR)
            await engine.schedules.tick()
            schedule = await engine.schedules.get("nightly")
            assert schedule.error.startswith("E-SESSION-CLOSED"), "and it does not try for ever"
            assert (schedule.due, len(schedule.runs)) == ((), hour + 1)


class LetsNothingGo(StoreProxy):
    """A store that hangs while a session is made, and fails to give it up."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.hangs, self.goes_on = asyncio.Event(), asyncio.Event()

    def append(self, batch: Batch) -> Awaitable[None]:
        async def late() -> None:
            self.hangs.set()
            await self.goes_on.wait()
            await self._inner.append(batch)

        return asyncio.ensure_future(late())

    async def release(self, claim: Claim) -> None:
        raise Unavailable("E-STORE-CLOSED", "gone")


async def test_firing_ends_when_it_is_told_to_though_the_store_fails_just_then() -> None:
    store = LetsNothingGo(await MemoryHarness().open())
    async with node(store, FakeClock(START)) as engine:
        await engine.schedules.add(nightly(cron="", at_us=START))
        firing = asyncio.create_task(engine.schedules.run())
        await store.hangs.wait()
        firing.cancel()
        done, _ = await asyncio.wait({firing}, timeout=2.0)
        store.goes_on.set()
        firing.cancel()
        assert done == {firing}
