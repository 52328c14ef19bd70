"""A session that was lost is let go of at once: what runs in its name ends before another process
can be far with the same.
"""

import asyncio

from perdure.core import events as e
from perdure.core.agent import Limits
from perdure.core.content import as_content
from perdure.core.inbox import Say
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.models.scripted import Call, Reply
from perdure.ports.store import Claim, Store
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.system import SystemClock
from perdure.testing.clocks import SeededIds
from perdure.testing.sim_disks import InMemory
from perdure.testing.sim_store import StoreProxy
from perdure.testing.stage import BOUNDS, Stage, play, staged
from perdure.tools.python import tool
from tests.trees.family import Cast, part, says, uses

HOUR_S = 3600.0


class HoldsOn(Engine):
    """Learns that a session is lost only when it writes."""

    def drop_lost(self) -> None:
        """See `Engine.drop_lost`: nothing is dropped."""


async def at_once(stage: Stage, engine: type[Engine]) -> float:
    """Let a process lose a session in the midst of a call that takes an hour, while another takes
    it over; return for how many seconds both were at it.
    """
    spans: list[tuple[float, float]] = []
    running: list[float] = []

    @tool(effect="idempotent", timeout_s=2 * HOUR_S)
    async def bake() -> str:
        began = stage.loop.time()
        running.append(began)
        try:
            await stage.passes(HOUR_S)
        finally:
            spans.append((began, stage.loop.time()))
        return "baked"

    stage.engine_type = engine
    stage.plays(Reply(call=(Call("bake"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[bake], limits=Limits(wall_s=None))
    await stage.say(await stage.start(), "go")
    await stage.happens(lambda: running)
    await stage.passes(60.0)
    assert isinstance(stage.disk, InMemory)
    assert stage.disk.expire("s"), "its lease runs out while it lives"
    await stage.start()
    await stage.until(lambda s: s.last_status == "completed")
    (first, first_end), (second, second_end) = sorted(spans)
    return min(first_end, second_end) - max(first, second)


def played(engine: type[Engine]) -> float:
    found: list[float] = []

    async def scene(stage: Stage) -> None:
        found.append(await at_once(stage, engine))

    play(scene)
    return found[0]


def test_a_lost_session_is_let_go_of_at_once() -> None:
    assert played(Engine) <= 1.5 * BOUNDS.poll_s


def test_one_that_learns_it_only_when_it_writes_is_caught() -> None:
    assert played(HoldsOn) > HOUR_S / 2


@staged
async def test_what_ran_is_stopped_though_nobody_else_writes(stage: Stage) -> None:
    ended: list[float] = []

    @tool(effect="once", timeout_s=2 * HOUR_S)
    async def pay() -> str:
        try:
            await stage.passes(HOUR_S)
        finally:
            ended.append(stage.loop.time())
        return "paid"

    stage.plays(Reply(call=(Call("pay"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[pay], limits=Limits(wall_s=None))
    process = await stage.start()
    await stage.say(process, "go")
    await stage.happens(lambda: stage.payloads(e.ToolStarted))
    before = stage.state().seq
    assert isinstance(stage.disk, InMemory)
    began = stage.loop.time()
    stage.disk.expire("s")
    await stage.happens(lambda: ended)
    assert ended[0] - began <= 2 * stage.bounds.poll_s
    await stage.until(lambda s: s.actions)
    payloads = [event.payload for event in stage.world.events("s")[before:]]
    assert isinstance(payloads[0], e.SessionRecovered), "the lost owner wrote nothing more"
    assert len(stage.payloads(e.ToolStarted)) == 1, "what may have happened is not done again"


class Silent(StoreProxy):
    """A store behind a connection that has gone quiet: it answers nothing, and fails nothing."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.quiet = asyncio.Event()
        self.held = True

    def holds(self, claim: Claim) -> bool:
        return self.held and super().holds(claim)

    async def changed(self, timeout_s: float) -> bool:
        if self.quiet.is_set():
            await asyncio.get_running_loop().create_future()
        return await super().changed(timeout_s)


async def test_it_is_let_go_of_though_the_store_says_nothing() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool(effect="read")
    async def look() -> str:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        return "never"

    agent = Agent("worker", "scripted:worker", tools=[look])
    store = Silent(MemoryStore(MemoryDisk()))
    cast = Cast({"worker": part(uses("look"), says("Done."))})
    bounds = Bounds(poll_s=0.02, idle_s=0.1, close_s=0.1)
    async with Engine(Kit(store, SystemClock(), SeededIds(1), cast, bounds=bounds)) as engine:
        await (await engine.session("s", agent)).post(Say("message", as_content("go")))
        await begun.wait()
        store.quiet.set()
        store.held = False
        async with asyncio.timeout(10):
            await ended.wait()
