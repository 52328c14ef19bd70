"""A stage for one failure at a time: processes that are killed when the scene says so, a disk that
outlives them, and a model that plays a script. Runs on the simulated loop, so nothing waits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Final, TypeVar

from perdure.core.budget import Price
from perdure.core.content import Content, ContextItem, Text
from perdure.core.evolve import evolve
from perdure.core.inbox import Say
from perdure.core.state import State
from perdure.core.step import Ask, Rest, next_step
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Reply, Script, Scripted
from perdure.ports.model import Delta, Model, ModelReply, ModelRequest, Models
from perdure.stores.faults import Faults
from perdure.testing.clocks import SeededIds
from perdure.testing.faults import Process, SimClock
from perdure.testing.sim_disks import Disk, InMemory, OnSqlite
from perdure.testing.sim_sandbox import SimEnvironments
from perdure.testing.sim_user import ask
from perdure.testing.simloop import SimLoop, current_owner
from perdure.testing.world import World

T = TypeVar("T")

STILL_S: Final = 100_000.0
BOUNDS: Final = Bounds(poll_s=5.0, idle_s=60.0)


class Recorder:
    """A scripted model that remembers what it was sent."""

    def __init__(self, script: Script, requests: list[ModelRequest]) -> None:
        self._inner = Scripted(script)
        self._requests = requests

    def get(self, name: str) -> tuple[Model, str]:
        """See `Models.get`."""
        return self, name.partition(":")[2]

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """See `Model.stream`."""
        self._requests.append(request)
        async for piece in self._inner.stream(request):
            yield piece

    async def check(self) -> str:
        """See `Model.check`."""
        return await self._inner.check()

    async def close(self) -> None:
        """See `Model.close`."""


class Stage:
    """Where a scene plays. `agent` is what every process has loaded."""

    def __init__(self, loop: SimLoop, disk: Disk) -> None:
        self.loop = loop
        self.disk = disk
        self.world = World(loop, Steady())
        self.world.disk = disk
        self.script = Script()
        self.requests: list[ModelRequest] = []
        self.processes: list[Process] = []
        self.bounds = BOUNDS
        self.prices: dict[str, Price] = {}
        self.agent = Agent("agent", "scripted:play")
        self.engine_type: type[Engine] = Engine
        self.models: Callable[[Script, list[ModelRequest]], Models] = Recorder

    def plays(self, *replies: Reply) -> None:
        """Say what the model will answer, reply by reply."""
        self.script = Script(reply=replies)

    async def start(self, faults: Faults | None = None, agent: Agent | None = None) -> Process:
        """Start a process that takes up every session it finds."""
        process = Process(f"p{len(self.processes) + 1}", self.loop)
        self.processes.append(process)
        process.agents["agent"] = agent or self.agent
        await ask(self.world, process, lambda: self._open(process, faults or Faults()))
        return process

    async def _open(self, process: Process, faults: Faults) -> None:
        process.own = await self.disk.open(process.name, faults, 0.001)
        kit = Kit(
            store=process.own,
            clock=SimClock(self.world),
            ids=SeededIds(len(self.processes)),
            models=self.models(self.script, self.requests),
            environments={"sim": SimEnvironments(self.world, process)},
            prices=self.prices,
            bounds=self.bounds,
        )
        process.engine = await self.engine_type(kit).__aenter__()
        await process.engine.register(process.agents["agent"])
        for row in await process.engine.sessions():
            process.engine.wake(row.id)

    async def on(self, process: Process, work: Callable[[Engine], Awaitable[T]]) -> T:
        """Let a process do something. Raises `Gone` when it dies over it."""
        return await ask(self.world, process, lambda: work(process.running))

    async def say(self, process: Process, text: str, key: str = "k1", name: str = "s") -> bool:
        """Send a message to session `name`, which is made if there is none; False: came before."""

        async def send(engine: Engine) -> bool:
            session = await engine.session(name, process.agents["agent"])
            content: Content = (Text(text),)
            return await session.post(Say("message", content, "user"), key)

        return await self.on(process, send)

    async def with_session(
        self, process: Process, work: Callable[[Session], Awaitable[T]], name: str = "s"
    ) -> T:
        """Do something with a session, through a process."""
        return await self.on(process, lambda engine: work(Session(engine, name)))

    def state(self, name: str = "s", at: int | None = None) -> State:
        """Return what the durable events fold to."""
        state = State()
        for event in self.world.events(name)[:at]:
            state = evolve(state, event)
        return state

    def payloads(self, kind: type[T], name: str = "s") -> list[T]:
        """Return the payloads of one type, in order."""
        return [ev.payload for ev in self.world.events(name) if isinstance(ev.payload, kind)]

    async def until(self, holds: Callable[[State], object], name: str = "s") -> State:
        """Wait until something holds of the durable state."""
        for _ in range(10_000):
            state = self.state(name)
            if state.seq and holds(state):
                return state
            await asyncio.sleep(STILL_S / 10_000)
        raise AssertionError(f"it never came to that: {next_step(self.state(name))}")

    async def still(self, name: str = "s") -> State:
        """Wait until the session rests or asks, with nothing left in its inbox."""
        await asyncio.sleep(1)
        return await self.until(lambda s: isinstance(next_step(s), Rest | Ask), name)

    async def happens(self, holds: Callable[[], object]) -> None:
        """Wait until something holds of the world."""
        for _ in range(10_000):
            if holds():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it never happened")

    async def end(self, process: Process) -> None:
        """End a process in order."""
        await self.on(process, lambda engine: engine.close())
        process.kill()

    def kill(self, process: Process) -> None:
        """Kill a process between two callbacks."""
        process.kill()

    async def dies_here(self) -> None:
        """Kill whoever calls this, here and now. Never returns."""
        owner = current_owner()
        assert isinstance(owner, Process)
        owner.kill()
        await asyncio.get_running_loop().create_future()

    async def passes(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)

    def last_request(self) -> list[ContextItem]:
        """Return what the model was sent last."""
        return list(self.requests[-1].items)

    def damage(self, name: str, seq: int) -> None:
        """Flip one bit of a stored event: memory only."""
        assert isinstance(self.disk, InMemory)
        self.disk.flip(name, seq)


class Steady(Random):
    """Dice that always show the same: nothing is delayed and nobody dies by chance."""

    def random(self) -> float:
        """Return a high number."""
        return 0.99


def play(scene: Callable[[Stage], Awaitable[None]], store: str = "memory") -> Stage:
    """Play a scene to its end; return the stage as it was left."""
    loop = SimLoop(1, disorder=0)
    disk: Disk = OnSqlite() if store == "sqlite" else InMemory()
    stage = Stage(loop, disk)

    async def whole() -> None:
        await scene(stage)
        for process in stage.processes:
            if process.alive:
                await stage.end(process)

    try:
        loop.run(whole())
    finally:
        for process in stage.processes:
            process.kill()
        disk.close()
    return stage


def staged(scene: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of a scene."""

    def test() -> None:
        play(scene)

    test.__name__ = getattr(scene, "__name__", "test")
    test.__doc__ = scene.__doc__
    return test
