"""An asyncio event loop in which time is a number and the order of things is drawn from a seed.

Nothing waits and nothing is read from the machine: when no callback is ready, time jumps to the
next timer. Which of several ready callbacks runs first is a throw of seeded dice, so a seed is a
schedule, and the same seed is the same schedule. Each callback belongs to an `Owner`, the
simulated process that caused it; the callbacks of a dead owner are put aside and never run.

It must not know what runs on it.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TICK_S: Final = 1e-5  # what one callback costs in virtual time


class Owner:
    """A simulated process: what it started stops with it, between one callback and the next."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True


_NOBODY: Final = Owner("outside")
_OWNER: Final[ContextVar[Owner]] = ContextVar("owner", default=_NOBODY)


def current_owner() -> Owner:
    """Return whose callback is running."""
    return _OWNER.get()


class SimulationStuck(AssertionError):
    """The simulated program cannot come to its end."""


class Deadlock(SimulationStuck):
    """Nothing is ready and no timer is set: everybody waits for somebody."""


class Runaway(SimulationStuck):
    """More callbacks ran than any sensible run needs."""


class SimTask(asyncio.Task[Any]):
    """A task whose place in a set follows from its number, not from where in memory it lies:
    asyncio cancels the tasks of a group in the order of a set.
    """

    def __init__(self, work: Any, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self._number


class SimLoop(asyncio.SelectorEventLoop):
    """See the module. `disorder` 0 keeps asyncio's own order; 1 draws every callback by lot."""

    def __init__(self, seed: int = 0, *, steps_max: int = 500_000, disorder: float = 1.0) -> None:
        super().__init__()
        self.steps = 0
        self.on_step: Callable[[int], None] | None = None
        self._steps_max = steps_max
        self._disorder = disorder
        self._dice = Random(seed)
        self._now = 0.0
        self._todo: list[tuple[Owner, asyncio.Handle]] = []
        self._timers: list[tuple[float, int, Owner, asyncio.TimerHandle]] = []
        self._timer_count = 0
        self._aside: list[tuple[Owner, asyncio.Handle]] = []
        self._burying = False
        self._owners: list[Owner] = []  # of the tasks
        self._tasks: list[asyncio.Task[Any]] = []  # a dead process's tasks must not be collected
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Return virtual time, in seconds since the loop was made."""
        return self._now

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` to its end and close the loop. Raises `SimulationStuck`."""
        try:
            return self.run_until_complete(main)
        finally:
            self._bury()
            self.close()

    def start(self, owner: Owner, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Start a task that belongs to `owner`, with all that it will cause."""
        context = copy_context()
        context.run(_OWNER.set, owner)
        return self.create_task(work, name=name or owner.name, context=context)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task = SimTask(work, len(self._tasks), loop=loop, **options)
        self._tasks.append(task)
        context: Context | None = options.get("context")
        self._owners.append(_OWNER.get() if context is None else context.get(_OWNER, _NOBODY))
        return task

    def pending(self, prefix: str) -> list[str]:
        """Return the names of tasks of the living that begin with `prefix` and have not ended."""
        both = zip(self._tasks, self._owners, strict=True)
        alive = [task.get_name() for task, owner in both if owner.alive and not task.done()]
        return [name for name in alive if name.startswith(prefix)]

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """See `loop.call_soon`; when it runs is a matter of luck."""
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._todo.append((context.get(_OWNER, _NOBODY), handle))
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `loop.call_later`."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `loop.call_at`."""
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timer_count += 1
        owner = context.get(_OWNER, _NOBODY)
        heapq.heappush(self._timers, (when, self._timer_count, owner, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are met when they are due; there is nothing to count."""

    def _run_once(self) -> None:
        self._wake_timers()
        todo = self._todo
        if self._disorder and len(todo) > 1 and self._dice.random() < self._disorder:
            place = int(self._dice.random() * len(todo))
            todo[place], todo[-1] = todo[-1], todo[place]
            owner, handle = todo.pop()
        else:
            owner, handle = todo.pop(0)
        if handle.cancelled():
            return
        if not owner.alive and not self._burying:
            self._aside.append((owner, handle))
            return
        self.steps += 1
        self._now += TICK_S
        if self.steps > self._steps_max:
            raise Runaway(f"{self.steps} callbacks ran; virtual time is {self._now:.0f} s")
        handle._run()  # noqa: SLF001 - a loop runs its handles
        if self.on_step is not None and not self._burying:
            self.on_step(self.steps)

    def _wake_timers(self) -> None:
        """Make due timers ready; with nothing ready, let time pass until one is."""
        while not self._todo or (self._timers and self._timers[0][0] <= self._now):
            if not self._timers:
                raise Deadlock("nothing is ready and no timer is set")
            when, _, owner, handle = heapq.heappop(self._timers)
            if handle.cancelled():
                continue
            if not owner.alive and not self._burying:
                self._aside.append((owner, handle))
                continue
            self._now = max(self._now, when)
            self._todo.append((owner, handle))

    def _bury(self) -> None:
        """End what dead owners left lying, so that nothing is destroyed while it is pending."""
        self._burying = True
        self._todo.extend(self._aside)
        self._steps_max += 100_000
        while left := [task for task in self._tasks if not task.done()]:
            for task in left:
                task.cancel()
            try:
                self.run_until_complete(asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED))
            except SimulationStuck:
                return
        self.run_until_complete(self.shutdown_asyncgens())
        for task in self._tasks:
            # How it ended is asked here, or asyncio would tell it whenever garbage is collected.
            if task.done() and not task.cancelled():
                task.exception()
