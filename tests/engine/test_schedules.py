"""Scenario 25: one run for one fire time, whoever dies where and however many fire at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.content import as_content
from perdure.core.errors import PerdureError
from perdure.core.inbox import Say
from perdure.core.schedules import Schedule
from perdure.engine.agent import Agent
from perdure.engine.journal import events_of
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.schedules import Schedules
from perdure.engine.session import Session
from perdure.ports.store import Batch, Claim, SessionRow, Store
from perdure.testing import broken_schedules as broken
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.testing.sim_store import StoreProxy
from perdure.tools.python import tool
from tests.contract.stores import MemoryHarness, SqliteHarness
from tests.engine.told import Named, call, script

T = TypeVar("T")
Harness = MemoryHarness | SqliteHarness
START = 1_700_000_000_000_000 - 1_700_000_000_000_000 % 3_600_000_000
HOUR = 3_600_000_000


class Dying(StoreProxy):
    """A process that dies at its n-th write, before or after it."""

    def __init__(self, inner: Store, harness: Harness, at: int, *, after: bool) -> None:
        super().__init__(inner)
        self.count = 0
        self.dead = asyncio.Event()
        self._harness, self._at, self._after = harness, at, after

    async def _written(self, write: Callable[[], Awaitable[T]]) -> T:
        self.count += 1
        here = self.count == self._at
        if here and not self._after:
            await self.die()
        result = await write()
        if here and self._after:
            await self.die()
        return result

    async def die(self) -> None:
        await self._harness.kill(self._inner)
        self.dead.set()

    async def claim(self, session: str) -> Claim:
        return await self._written(lambda: self._inner.claim(session))

    async def release(self, claim: Claim) -> None:
        await self._written(lambda: self._inner.release(claim))

    def append(self, batch: Batch) -> Awaitable[None]:
        return asyncio.ensure_future(self._written(lambda: self._inner.append(batch)))

    async def post(self, session: str, key: str, body: bytes) -> bool:
        return await self._written(lambda: self._inner.post(session, key, body))

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        return await self._written(lambda: self._inner.put_doc(kind, name, data, expect=expect))


def agent_of(name: str = "clerk") -> Agent:
    return Agent(name, "scripted:clerk")


def engine_on(store: Store, clock: FakeClock, seed: int = 1, **kit: Any) -> Engine:
    parts = {
        "look": script({"call": [call("look", thing="it")]}, {"text": "Seen."}),
        "clerk": script(*({"text": f"Reply {n}."} for n in range(9))),
    }
    bounds = Bounds(idle_s=0.0, poll_s=0.001, close_s=0.0)
    return Engine(Kit(store, clock, SeededIds(seed), Named(parts), bounds=bounds, **kit))


@contextlib.asynccontextmanager
async def node(
    store: Store, clock: FakeClock, firing: type[Schedules] = Schedules, seed: int = 1
) -> AsyncIterator[Engine]:
    async with engine_on(store, clock, seed) as engine:
        engine.schedules = firing(engine)
        await engine.register(agent_of())
        yield engine


def nightly(**more: Any) -> Schedule:
    plan = {"name": "nightly", "agent": "clerk", "prompt": as_content("Sum up."), **more}
    if "at_us" not in plan:
        plan.setdefault("cron", "0 * * * *")
    return msgspec.convert(plan, Schedule)


async def settle(engine: Engine) -> None:
    """Fire what is due until all of it has begun and all sessions are at rest.

    The look at unfinished runs goes on meanwhile: it takes over from a process that dies now.
    """
    firing = asyncio.create_task(engine.schedules.run())
    try:
        while True:
            await engine.schedules.tick()
            # Asked before the sessions are looked at: who dies in between leaves a message there.
            begun = not any(each.due for each in await engine.schedules.all())
            for row in await engine.sessions():
                async for _ in Session(engine, row.id).watch():
                    pass
            if begun:
                return
    finally:
        firing.cancel()
        await asyncio.gather(firing, return_exceptions=True)


async def until_dead(store: Dying, engine: Engine) -> None:
    """Fire what is due until that is done or the process has died of it."""

    async def fire() -> None:
        with contextlib.suppress(PerdureError):
            await settle(engine)

    firing = asyncio.create_task(fire())
    dying = asyncio.create_task(store.dead.wait())
    await asyncio.wait({firing, dying}, return_when=asyncio.FIRST_COMPLETED)
    for task in (firing, dying):
        task.cancel()
    await asyncio.gather(firing, dying, return_exceptions=True)


async def told(store: Store) -> list[str]:
    """Check that nothing is left to do; return the keys of all messages, in all sessions."""
    keys = list[str]()
    for row in await store.sessions():
        events = [event.payload async for event, _ in events_of(store, row.id)]
        said = [p.key for p in events if isinstance(p, e.InputAccepted)]
        ended = [p.status for p in events if isinstance(p, e.TurnEnded)]
        assert ended == ["completed"] * len(said), (row.id, said, ended)
        assert said, f"{row.id} has nothing to do"
        assert await store.inbox(row.id) == []
        keys += said
    return sorted(keys)


async def two_nights(
    harness: Harness, plan: Schedule, at: int, *, after: bool, firing: type[Schedules], beside: bool
) -> tuple[list[str], int]:
    """Let a process die at its n-th write of the first night, `beside` another one or before it;
    a living one goes on, over the second night. Returns the messages and the writes counted.
    """
    clock = FakeClock(START - 1)
    first, second = await harness.open(), await harness.open()
    async with node(second, clock, firing) as there:
        await there.schedules.add(plan)
        clock.set(START)
        dying = Dying(first, harness, at, after=after)
        engine = await engine_on(dying, clock, seed=2).__aenter__()
        engine.schedules = firing(engine)
        await engine.register(agent_of())
        both = [until_dead(dying, engine)] + ([settle(there)] if beside else [])
        await asyncio.gather(*both)
        count = dying.count
        await put_away(engine)
        await settle(there)
        clock.set(START + HOUR + 1)
        await settle(there)
        return await told(second), count


async def put_away(engine: Engine) -> None:
    """Close an engine, by force where its store is dead and answers nothing any more."""
    closing = asyncio.create_task(engine.close())
    while not (await asyncio.wait({closing}, timeout=0.5))[0]:
        closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)


def harness_of(kind: str, folder: Path) -> Harness:
    return MemoryHarness() if kind == "memory" else SqliteHarness(folder / "s.db")


async def at_every_write(
    kind: str, folder: Path, plan: Schedule, firing: type[Schedules], *, beside: bool = False
) -> None:
    """Die at each write in turn; each fire time must have exactly one run."""
    expected = [f"schedule:nightly:{START}", f"schedule:nightly:{START + HOUR}"]

    async def story(at: int, *, after: bool, beside: bool) -> int:
        home = folder / f"{at}-{after}"
        home.mkdir()
        harness = harness_of(kind, home)
        async with asyncio.timeout(60):
            keys, count = await two_nights(
                harness, plan, at, after=after, firing=firing, beside=beside
            )
        await harness.close()
        assert keys == expected, f"killed {'after' if after else 'before'} write {at}"
        return count

    writes = await story(0, after=False, beside=False)
    assert writes > 6, "the document twice, the session, the message, a turn"
    for at in range(1, writes + 1):
        for after in (False, True):
            await story(at, after=after, beside=beside)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("session", ["", "log"])
async def test_25_killed_at_every_write_each_fire_time_runs_once(
    kind: str, session: str, tmp_path: Path
) -> None:
    plan = nightly(session=session, missed="all", overlap="queue")
    await at_every_write(kind, tmp_path, plan, Schedules)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("session", ["", "log"])
async def test_25_two_fire_at_once_and_one_dies_each_fire_time_runs_once(
    kind: str, session: str, tmp_path: Path
) -> None:
    plan = nightly(session=session, missed="last", overlap="queue")
    await at_every_write(kind, tmp_path, plan, Schedules, beside=True)


@pytest.mark.parametrize(
    ("firing", "session"),
    [
        (broken.MovesOnFirst, ""),
        (broken.MovesOnFirst, "log"),
        (broken.NamesAtRandom, ""),
        (broken.ForgetsTheKey, ""),
        (broken.ForgetsTheKey, "log"),
        (broken.OneKeyForAll, "log"),
    ],
)
async def test_25_the_check_sees_what_is_wrong_on_purpose(
    firing: type[Schedules], session: str, tmp_path: Path
) -> None:
    plan = nightly(session=session, missed="all", overlap="queue")
    with pytest.raises(AssertionError):
        await at_every_write("memory", tmp_path, plan, firing)


class TakenMeanwhile(StoreProxy):
    """A store that is slow to say how a session stands: its letters are taken meanwhile."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.taken = asyncio.Event()
        self.slow_once = False

    async def session(self, session: str) -> SessionRow | None:
        row = await super().session(session)
        if self.slow_once:
            self.slow_once = False
            for _ in range(1000):
                if not await self.inbox(session):
                    break
                await asyncio.sleep(0)
            self.taken.set()
        return row


def slow(gate: asyncio.Event) -> Agent:
    """An agent that gets nowhere before the gate opens."""

    @tool(effect="read")
    async def look(thing: str) -> str:
        """Look at something."""
        await gate.wait()
        return f"{thing} is there"

    return Agent("clerk", "scripted:look", tools=[look])


async def finished(session: Session) -> str | None:
    async for _ in session.watch():
        pass
    return (await session.state()).last_status


async def test_a_letter_that_is_just_being_taken_is_no_rest() -> None:
    store, gate = TakenMeanwhile(await MemoryHarness().open()), asyncio.Event()
    async with engine_on(store, FakeClock(START)) as engine:
        session = await engine.session("s", slow(gate))
        await store.post("s", "k", encode(Say("message", as_content("go"))))
        store.slow_once = True
        watching = asyncio.create_task(finished(session))
        await store.taken.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not watching.done(), "the turn is not over"
        gate.set()
        assert await watching == "completed"


async def test_a_run_that_is_just_being_taken_up_is_not_over() -> None:
    clock, gate = FakeClock(START - 1), asyncio.Event()
    store = TakenMeanwhile(await MemoryHarness().open())
    async with engine_on(store, clock) as engine:
        await engine.register(slow(gate))
        await engine.schedules.add(nightly(session="log"))
        clock.set(START)
        await engine.session("log", slow(gate))
        await store.post("log", "k", encode(Say("message", as_content("go"))))
        engine.wake("log")
        store.slow_once = True
        await engine.schedules.tick()
        schedule = await engine.schedules.get("nightly")
        assert (schedule.last_skipped_us, schedule.runs) == (START, ())
        gate.set()
