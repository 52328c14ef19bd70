"""One simulated run: a seed's agents, people, processes and faults, and how they come to rest.

`simulate` is the whole interface. What is wrong with a run is in its `Report`.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from perdure.core.agent import EnvironmentSpec, Limits
from perdure.core.budget import Price
from perdure.core.errors import PerdureError
from perdure.core.events import Event
from perdure.core.state import State
from perdure.core.step import Ask, Rest, next_step
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.ports.sandbox import Environments
from perdure.ports.store import Store
from perdure.testing.faults import (
    FaultPlan,
    Injector,
    OrderedIds,
    Process,
    SimClock,
    SimFaults,
    draw_faults,
)
from perdure.testing.invariants import check_all
from perdure.testing.sim_disks import Disk, InMemory, OnSqlite
from perdure.testing.sim_model import PRICE, SimModel
from perdure.testing.sim_replay import replayed
from perdure.testing.sim_sandbox import SimEnvironments
from perdure.testing.sim_states import follow, replace_limits, wake_all
from perdure.testing.sim_store import SimStore
from perdure.testing.sim_tools import SimTool, draw_agent
from perdure.testing.sim_user import Gone, Reader, User, ask
from perdure.testing.simloop import Owner, SimLoop, SimulationStuck
from perdure.testing.world import World

STILL_S: Final = 7200.0  # nothing at all for so long, and a session that is not at rest is stuck
ROUND_S: Final = 10.0
STEPS_MAX: Final = 60_000
CLOSE_S: Final = 120.0


@dataclass(frozen=True)
class Build:
    """How a process is put together. A broken variant replaces one part."""

    engine: Callable[[Kit], Engine] = Engine
    store: Callable[[Store], Store] = lambda store: store
    environments: Callable[[World, Owner], Environments] = SimEnvironments
    memory: Callable[[], Disk] = InMemory


@dataclass(frozen=True)
class Report:
    """How a run ended."""

    seed: int
    store: str
    violations: list[str]
    story: list[tuple[float, str]]
    events: int
    kills: int
    steps: int
    journals: dict[str, list[Event]]

    def without_story(self) -> "Report":
        """Return the figures alone."""
        return replace(self, story=[], journals={})


class Simulation:
    """One run."""

    steps_max = STEPS_MAX
    whole_nodes = False  # a lease that runs out takes one session, or all that its owner has

    def __init__(
        self, seed: int, loop: SimLoop, disk: Disk, build: Build, faults: FaultPlan | None
    ) -> None:
        self._dice = Random(seed)
        self.seed = seed
        self.prices: Mapping[str, Price] = {"sim:*": PRICE}
        self.world = World(loop, Random(seed + 1_000_003))
        self.sessions = [f"s{i}" for i in range(self._dice.choice((1, 1, 1, 2, 3)))]
        self.plans = {name: draw_agent(self._dice) for name in self.sessions}
        plan = draw_faults(Random(seed + 2_000_003)) if faults is None else faults
        self.injector = Injector(self.world, plan, Random(seed + 3_000_017))
        self.world.fatal = self.injector.fatal
        self.world.fencing = plan.expiry > 0
        loop.on_step = self.injector.step if plan.at_step else None
        self._build = build
        self._disk = disk
        self.world.disk = disk
        self._bounds = Bounds(
            idle_s=self._dice.choice((0.5, 30.0, 600.0)),
            poll_s=20.0,
            cache_every=self._dice.choice((4, 16, 256)),
            follower_backlog=self._dice.choice((3, 2000)),
            store_retry_cap_s=5.0,
        )
        self._commit_s = self._dice.choice((0.0, 0.001, 0.05))
        self._states: dict[str, list[State]] = {}
        self.users: list[User] = []
        self._readers: list[asyncio.Task[None]] = []
        self._born = 0
        self._over = False

    async def run(self) -> None:
        """Live through the faults, come to rest without them, and check everything."""
        supervisor = self.world.loop.create_task(self._supervise())
        self.users = [self.user(name) for name in self.sessions]
        for name in list(self.sessions):
            await self._create(name, self.users[0])
        for name in list(self.sessions):
            self.read(name)
        await self.live()
        self.injector.stop()
        self.world.note("-- the faults are over")
        if await self._settle():
            await self._catch_up()
        self._over = True
        for task in (supervisor, *self._readers):
            task.cancel()
        await asyncio.wait([supervisor, *self._readers])
        await self._close()
        self.check()

    def user(self, session: str) -> User:
        """Return the person at a session."""
        return User(self, session, Random(f"{self.seed}{session}"))

    def read(self, session: str) -> None:
        """Let somebody follow a session from its beginning."""
        reader = Reader(self, session, Random(f"r{self.seed}{session}"))
        self._readers.append(self.world.loop.create_task(reader.follow()))

    async def discover(self) -> None:
        """Look whether there are sessions that nobody has met yet."""

    async def live(self) -> None:
        """Let everybody do what they came for."""
        await asyncio.gather(*(u.live(self._dice.randrange(1, 7)) for u in self.users))

    def check(self) -> None:
        """Look for what must not be."""
        check_all(self)

    def bury(self) -> None:
        """Let go of what the processes held of the real machine."""
        for process in self.injector.processes:
            process.kill()

    def state(self, session: str) -> State:
        """Return the state that the durable events of `session` fold to."""
        return self.states(session)[-1]

    def states(self, session: str) -> list[State]:
        """Return the state at every seq of the durable events, from 0."""
        states = self._states.setdefault(session, [State()])
        for event in self.world.events(session)[len(states) - 1 :]:
            states.append(follow(states, event))
        return states

    def raised_limits(self, session: str) -> Limits:
        """Return more generous limits than the session has now."""
        limits = self.state(session).limits
        tokens = None if limits.tokens is None else limits.tokens + 5_000
        usd = None if limits.usd is None else limits.usd + 0.05
        return replace_limits(limits, tokens, usd)

    async def somebody(self) -> Process:
        """Return a living process, waiting for one to be born if need be."""
        while True:
            ready = [p for p in self.injector.processes if p.alive and p.ready]
            if ready:
                return self._dice.choice(ready)
            await asyncio.sleep(0.05)

    async def _supervise(self) -> None:
        """Start a new process when there is none, sometimes one too many; let the clock jump."""
        plan, dice = self.injector.plan, Random(self.seed + 4_000_037)
        count = 0
        while True:
            living = [p for p in self.injector.processes if p.alive]
            if len(living) < count:  # whoever is left takes over what the dead one owned
                self._take_over(living)
            count = len(living)
            if not living or (len(living) < 2 and dice.random() < plan.overlap / 10):
                self._give_birth()
            if not self.injector.stopped:
                if dice.random() < plan.clock_jump:
                    self._jump(dice)
                if living and dice.random() < plan.restart:
                    await self._end(dice.choice(living))
                if len(living) > 1 and dice.random() < plan.expiry:
                    self._expire(dice.choice(self.sessions), living)
            await asyncio.sleep(dice.choice((0.01, 1.0, 10.0)))

    def _take_over(self, living: list[Process]) -> None:
        for process in living:
            if process.ready:
                self.world.loop.start(process, wake_all(process.running))

    def _expire(self, session: str, living: list[Process]) -> None:
        """Take a session's lease away from an owner that is alive and does not know it."""
        owner = self._disk.expire(session, all_of_it=self.whole_nodes)
        if owner:
            self.world.note(f"** the lease of {session} expires on {owner}")
            self._take_over(living)

    def _jump(self, dice: Random) -> None:
        seconds = dice.choice((-7200, -30, -0.5, 0.5, 30, 2000))
        self.world.note(f"** the clock jumps by {seconds} s")
        self.world.clock_offset_us += int(seconds * 1_000_000)

    def _give_birth(self) -> None:
        self._born += 1
        process = Process(f"p{self._born}", self.world.loop)
        self.world.note(f"** {process.name} starts")
        self.injector.processes.append(process)
        self.world.loop.start(process, self._live(process))

    async def _live(self, process: Process) -> None:
        """What the simulated program does when it starts: open, register, take up the work."""
        world = self.world
        faults = SimFaults(self.injector, process)
        process.own = await self._disk.open(process.name, faults, self._commit_s)
        kit = Kit(
            store=self._build.store(SimStore(process.own, world, process, self.injector)),
            clock=SimClock(world),
            ids=OrderedIds(world.order, self.seed * 1000 + self._born),
            models=self.model(process),
            environments={"sim": self._build.environments(world, process)},
            prices=self.prices,
            bounds=self._bounds,
        )
        process.engine = await self._build.engine(kit).__aenter__()
        for name, agent in self.agents(process).items():
            process.agents[name] = agent
            await process.engine.register(agent)
        process.ready = True
        await wake_all(process.engine)

    def model(self, process: Process) -> SimModel:
        """Return a process's connection to the provider."""
        return SimModel(self.world, process, self.seed)

    def agents(self, process: Process) -> dict[str, Agent]:
        """Return the agents as a process has them, by the session that they work in."""
        return {name: self._agent(process, name) for name in self.plans}

    def _agent(self, process: Process, session: str) -> Agent:
        plan = self.plans[session]
        return Agent(
            name=session,
            model=f"sim:{session}",
            instructions="Do as planned.",
            tools=[SimTool(self.world, process, name) for name in plan.tools],
            limits=plan.limits,
            retry=plan.retry,
            environment=EnvironmentSpec(kind="sim"),
            max_output_tokens=200,
        )

    async def _create(self, name: str, user: User) -> None:
        async def create(process: Process) -> None:
            await process.running.session(name, process.agents[name])

        await user.request(create)

    async def _settle(self) -> bool:
        """Answer all questions until every session rests. False when one of them never does."""
        loop = self.world.loop
        length, since = -1, loop.time()
        while True:
            await self.discover()
            now = sum(len(self.world.events(name)) for name in self.sessions)
            if now != length:
                length, since = now, loop.time()
            waiting = [u for u in self.users if not await self._rests(u)]
            if not waiting:
                return True
            if loop.time() - since > STILL_S:
                for user in waiting:
                    step = next_step(self.state(user.session))
                    self.world.violated("liveness", f"{user.session} is stuck: {step}")
                return False
            await asyncio.sleep(ROUND_S)

    async def _rests(self, user: User) -> bool:
        letters = await user.request(user.letters)
        match next_step(self.state(user.session)):
            case Rest("idle" | "closed"):
                return not letters
            case Rest(why="paused" | "parked"):
                if user.patience <= 0:
                    return True
                await user.resume()
            case Ask():
                await user.decide_something()
            case _:
                pass
        return False

    async def _catch_up(self) -> None:
        """Wait until the followers have seen all there is."""
        behind: list[str] = []
        for _ in range(60):
            behind = [
                name
                for name in self.sessions
                if len(self.world.seen[name]) < len(self.world.events(name))
            ]
            if not behind:
                return
            await asyncio.sleep(ROUND_S)
        self.world.violated("follower", f"{behind} were never followed to the end")

    async def _close(self) -> None:
        for process in self.injector.processes:
            if process.alive and process.engine is not None:
                await self._end(process)

    async def _end(self, process: Process) -> None:
        """End a process in order: at most the tools' grace and the store's patience long."""
        if not process.ready:
            return
        process.ready = False
        self.world.note(f"** {process.name} is told to end")
        try:
            async with asyncio.timeout(CLOSE_S):
                await ask(self.world, process, process.running.close)
        except Gone:
            return
        except TimeoutError:
            self.world.violated("close", f"{process.name} does not end")
        self.world.note(f"** {process.name} ends")
        process.kill()


def _disk(store: str, build: Build) -> Disk:
    if store.startswith("postgresql:"):
        from perdure.testing.sim_postgres import OnPostgres

        return OnPostgres(store)
    return OnSqlite() if store == "sqlite" else build.memory()


def simulate(
    seed: int,
    store: str = "memory",
    build: Build = Build(),
    faults: FaultPlan | None = None,
    kind: type[Simulation] = Simulation,
) -> Report:
    """Run one seed to its end and return what was found. `store` is memory, sqlite, or the address
    of a PostgreSQL database.
    """
    loop = SimLoop(
        seed, steps_max=kind.steps_max, disorder=Random(seed + 5).choice((0.0, 0.3, 1.0))
    )
    disk = _disk(store, build)
    simulation = kind(seed, loop, disk, build, faults)
    world = simulation.world
    try:
        loop.run(simulation.run())
    except SimulationStuck as stuck:
        world.violated("liveness", f"{type(stuck).__name__}: {stuck}")
    except PerdureError as error:
        world.violated("journal", f"it cannot be read: {error}")
    finally:
        simulation.bury()
        disk.close()
    journals = {name: world.read(name) for name in simulation.sessions}
    world.violations.extend(f"replay: {finding}" for finding in replayed(journals))
    count = sum(len(events) for events in journals.values())
    return Report(
        seed,
        store.partition(":")[0],
        world.violations,
        world.story,
        count,
        world.kills,
        loop.steps,
        journals,
    )
