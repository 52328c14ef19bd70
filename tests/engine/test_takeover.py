"""What nobody works on is gone on with by whoever is alive, and by one of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.content import as_content
from perdure.core.inbox import Say
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.journal import events_of
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.engine.takeover import TOGETHER, Takeover
from perdure.ports.store import Store
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.tools.python import tool
from tests.contract.stores import SqliteHarness
from tests.engine.inn import NAP, QUICK, inn, sleeper, until
from tests.trees.family import Cast, part, says, uses


class Left:
    """Sessions that nobody works on, and who could be had."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.looked = asyncio.Event()
        self.taken: list[str] = []
        self.stuck: set[str] = set()

    async def find(self, limit: int) -> list[str]:
        self.looked.set()
        return sorted(self.names)[:limit]

    async def take(self, name: str) -> bool:
        self.taken.append(name)
        if name in self.stuck:
            return False
        self.names.remove(name)
        return True


def takeover(left: Left, clock: FakeClock, seed: int = 1) -> Takeover:
    return Takeover(left.find, left.take, clock, SeededIds(seed).random, 2.0, settle_s=0.0)


async def test_a_round_takes_some_and_says_whether_more_are_left() -> None:
    left = Left(*(f"s{n:03}" for n in range(2 * TOGETHER + 5)))
    duty = takeover(left, FakeClock())
    assert [await duty.round() for _ in range(4)] == [True, True, False, False]
    assert sorted(left.taken) == sorted(f"s{n:03}" for n in range(2 * TOGETHER + 5))


async def test_two_do_not_try_for_the_same_in_the_same_order() -> None:
    names = [f"s{n:03}" for n in range(3 * TOGETHER)]
    both = [Left(*names), Left(*names)]
    for seed, left in enumerate(both):
        await takeover(left, FakeClock(), seed).round()
    shared = set(both[0].taken) & set(both[1].taken)
    assert len(shared) < TOGETHER / 2 + TOGETHER / 4, "by lot, a third of them"


async def test_what_is_taken_on_meanwhile_is_left_alone() -> None:
    left = Left("posted", "left")
    duty = Takeover(left.find, left.take, FakeClock(), SeededIds(1).random, 2.0, settle_s=0.02)
    round_ = asyncio.ensure_future(duty.round())
    await left.looked.wait()
    left.names.remove("posted")  # whoever wrote to it has claimed it
    await round_
    assert left.taken == ["left"]


async def test_what_cannot_be_taken_is_tried_less_and_less_and_hides_nothing() -> None:
    clock = FakeClock()
    left = Left(*(f"a{n:04}" for n in range(5 * TOGETHER)))
    left.stuck = set(left.names)
    duty = takeover(left, clock)
    while await duty.round():
        pass
    left.names.append("zzz")
    await duty.round()
    assert left.taken[-1] == "zzz", "it sorts behind all that are stuck"
    left.names, left.stuck, left.taken = ["a"], {"a"}, []
    for _ in range(600):
        clock.advance(1.0)
        await duty.round()
    assert 10 <= len(left.taken) <= 16, "after 2, 4, 8 ... and then every 60 seconds"


@asynccontextmanager
async def working(
    store: Store, clock: FakeClock, agent: Agent, *replies: object
) -> AsyncIterator[Engine]:
    """Run a process that works, sleeps and takes over."""
    cast = Cast({agent.name: part(*replies)})  # type: ignore[arg-type]
    bounds = Bounds(idle_s=0.02, poll_s=0.01, recoveries=1000)
    async with Engine(Kit(store, clock, SeededIds(1), cast, bounds=bounds)) as engine:
        await engine.register(agent)
        duty = Takeover(
            store.abandoned, engine.waker.take, clock, SeededIds(2).random, 0.02, settle_s=0.005
        )
        task = asyncio.create_task(duty.run())
        yield engine
        task.cancel()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SqliteHarness]:
    made = SqliteHarness(tmp_path / "s.db")
    yield made
    await made.close()


async def test_a_killed_process_leaves_its_turn_to_the_living(harness: SqliteHarness) -> None:
    begun = asyncio.Event()
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @tool(effect="idempotent")
    async def step(n: int) -> str:
        if not begun.is_set():
            begun.set()
            await never
        return f"done {n}"

    agent = Agent("worker", "scripted:worker", tools=[step])
    replies = (uses("step", n=1), says("All done."))
    clock = FakeClock()
    first = await harness.open()
    async with working(first, clock, agent, *replies) as engine:
        session = await engine.session("s", agent)
        sending = asyncio.ensure_future(_send(session))
        await begun.wait()
        others = [await harness.open() for _ in range(2)]
        async with (
            working(others[0], clock, agent, *replies) as one,
            working(others[1], clock, agent, *replies) as other,
        ):
            sending.cancel()
            await harness.kill(first)
            await until(Session(one, "s"), lambda s: s.last_status == "completed")
            await until(Session(other, "s"), lambda s: s.last_status == "completed")
            events = [event.payload async for event, _ in events_of(others[0], "s")]
    assert len([p for p in events if isinstance(p, e.SessionRecovered)]) == 1
    assert len([p for p in events if isinstance(p, e.TurnEnded)]) == 1


async def _send(session: Session) -> None:
    await session.send("go", key="k")


async def test_two_processes_on_one_file_fire_a_timer_once(harness: SqliteHarness) -> None:
    clock = FakeClock()
    stores = [await harness.open() for _ in range(3)]
    async with working(stores[0], clock, sleeper(), *NAP) as engine:
        session = await engine.session("s", sleeper())
        sending = asyncio.ensure_future(_send(session))
        await until(session, lambda s: status(s) == "sleeping")
        sending.cancel()
        await harness.kill(stores[0])
    async with (
        working(stores[1], clock, sleeper(), *NAP) as one,
        working(stores[2], clock, sleeper(), *NAP) as other,
    ):
        clock.advance(3600)
        for engine in (one, other):
            await until(Session(engine, "s"), lambda s: s.last_status == "completed")
        events = [event.payload async for event, _ in events_of(stores[1], "s")]
    assert len([p for p in events if isinstance(p, e.TimerFired)]) == 1


async def test_a_letter_that_nobody_takes_is_taken() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    agent = Agent("worker", "scripted:worker")
    writer = MemoryStore(disk)
    cast = {"worker": part(says("Done."))}
    async with inn(disk, clock, parts=cast, agent=agent, store=writer, bounds=QUICK) as engine:
        session = await engine.session("s", agent)
        await writer.post(session.id, "k", encode(Say("message", as_content("go"))))
        writer.kill()
    async with working(MemoryStore(disk), clock, agent, says("Done.")) as engine:
        await until(Session(engine, "s"), lambda s: s.last_status == "completed")
