"""What can go wrong in a simulated run: processes that die anywhere, full disks, answers that get
lost, clocks that jump. All of it is drawn from the run's seed and has a bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from perdure.core.errors import StoreFull, Unavailable
from perdure.engine.agent import Agent
from perdure.engine.runtime import Engine
from perdure.ports.store import Batch
from perdure.stores.faults import Faults
from perdure.testing.clocks import SeededIds
from perdure.testing.sim_disks import Opened
from perdure.testing.simloop import Owner, SimLoop
from perdure.testing.world import World

T = TypeVar("T")


@dataclass(frozen=True)
class FaultPlan:
    """How likely each fault is, and how many of them there may be in one run.

    `at_point` and `at_commit` are chances to die at one of the marked places; `at_step` is the
    chance to die between any two callbacks. `full` and `lost_answer` are chances per commit.
    """

    kills: int = 0
    at_point: float = 0.0
    at_commit: float = 0.0
    at_step: float = 0.0
    full: float = 0.0
    full_commits: int = 0
    lost_answer: float = 0.0
    clock_jump: float = 0.0
    overlap: float = 0.0
    expiry: float = 0.0
    restart: float = 0.0


CALM: Final = FaultPlan()


def draw_faults(dice: Random) -> FaultPlan:
    """Return the faults of one run: none at all for some, everything at once for others."""
    kills = dice.choice((0, 0, 1, 1, 2, 3, 5, 8))
    kind = dice.randrange(4)
    overlap = dice.choice((0.0, 0.0, 3.0))
    return FaultPlan(
        kills=kills,
        at_point=0.05 if kind in (0, 3) else 0.0,
        at_commit=0.05 if kind in (1, 3) else 0.0,
        at_step=0.002 if kind in (2, 3) else 0.0,
        full=dice.choice((0.0, 0.0, 0.02)),
        full_commits=dice.randrange(1, 9),
        lost_answer=dice.choice((0.0, 0.0, 0.0, 0.01)),
        clock_jump=dice.choice((0.0, 0.0, 0.05)),
        overlap=overlap,
        restart=dice.choice((0.0, 0.0, 0.05)),
        expiry=dice.choice((0.0, 0.3)) if overlap else 0.0,
    )


class Process(Owner):
    """A simulated process: an engine with its store, and the tasks that work for it."""

    def __init__(self, name: str, loop: SimLoop) -> None:
        super().__init__(name)
        self.died = loop.create_future()
        self.own: Opened | None = None
        self.engine: Engine | None = None
        self.agents: dict[str, Agent] = {}
        self.ready = False

    @property
    def running(self) -> Engine:
        """The engine, once the process has started."""
        assert self.engine is not None, f"{self.name} has not started"
        return self.engine

    def kill(self) -> None:
        """Stop between two callbacks, for ever. Nothing is tidied up."""
        if not self.alive:
            return
        self.alive = False
        if self.own is not None:
            self.own.kill()
        if not self.died.done():
            self.died.set_result(None)


class Injector:
    """Decides when a fault happens. `stop` ends all faults for good."""

    def __init__(self, world: World, plan: FaultPlan, dice: Random) -> None:
        self.plan = plan
        self._world = world
        self._dice = dice
        self._kills_left = plan.kills
        self._poison_left = 10
        self._full_left = 0
        self._fulls_left = 2
        self._lost_left = 2
        self.stopped = False
        self.processes: list[Process] = []

    def stop(self) -> None:
        """The faults are over."""
        self.stopped = True
        self._full_left = 0

    def fatal(self, owner: Owner, point: str) -> bool:
        """Whether `owner` dies at this point; if so, it is dead on return."""
        if not isinstance(owner, Process):
            return False
        if point == "poison" and self.plan.kills and self._poison_left:
            self._poison_left -= 1
            self._kills_left += 1  # poison has a budget of its own
            return self._kill(owner, 1.0, point)
        return self._kill(owner, self.plan.at_point, point)

    def step(self, step: int) -> None:
        """Called after every callback."""
        possible = self.processes and not self.stopped and self._kills_left
        if possible and self._dice.random() < self.plan.at_step:
            self._kill(self._dice.choice(self.processes), 1.0, f"step {step}")

    def _kill(self, process: Process, chance: float, point: str) -> bool:
        if self.stopped or self._kills_left <= 0 or not process.alive or not process.ready:
            return False
        if self._dice.random() >= chance:
            return False
        self._kills_left -= 1
        self._world.kills += 1
        self._world.killed.add(process.name)
        self._world.note(f"** {process.name} dies at {point}")
        process.kill()
        return True

    def commit(self, process: Process, moment: str) -> None:
        """Called before and after each commit; kills the process or raises a store's error."""
        if self._kill(process, self.plan.at_commit, f"{moment} commit") or self.stopped:
            return
        if moment == "after":
            if self._lost_left and self._dice.random() < self.plan.lost_answer:
                self._lost_left -= 1
                self._world.in_doubt += 1
                self._world.note(f"** {process.name}: the answer of a commit is lost")
                raise Unavailable("E-SIM-IN-DOUBT", "Nobody can tell.")
            return
        self.room(process)

    def room(self, process: Process) -> None:
        """Raise `StoreFull` while the disk is full."""
        if self.stopped:
            return
        if not self._full_left and self._fulls_left and self._dice.random() < self.plan.full:
            self._fulls_left -= 1
            self._full_left = self.plan.full_commits
        if self._full_left:
            self._full_left -= 1
            self._world.note(f"** {process.name}: the disk is full")
            raise StoreFull("E-STORE-FULL", "No room.")


class SimFaults(Faults):
    """The store's hooks, for one process."""

    def __init__(self, injector: Injector, process: Process) -> None:
        self._injector = injector
        self._process = process

    def before_commit(self, batches: Sequence[Batch]) -> None:
        """See `Faults`."""
        self._injector.commit(self._process, "before")

    def after_commit(self, batches: Sequence[Batch]) -> None:
        """See `Faults`."""
        self._injector.commit(self._process, "after")


class OrderedIds(SeededIds):
    """Seeded ids; the world keeps in which order they were given out, over all processes."""

    def __init__(self, order: dict[str, int], seed: int) -> None:
        super().__init__(seed)
        self._order = order

    def event(self, at_us: int) -> str:
        """See `Ids.event`."""
        name = super().event(at_us)
        self._order[name] = len(self._order)
        return name


class SimClock:
    """The machine's clock in the simulated world: it goes with the loop, and may jump."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return self._world.now_us()

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._world.loop.time()
