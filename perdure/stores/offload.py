"""Where blocking work runs: in threads, or, for a simulator, on the event loop itself.

A lane does its jobs in order, several at a time if several wait: that is what makes group commit.
Jobs are handed over once per turn of the loop and answered with one call back per group.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

T = TypeVar("T")
J = TypeVar("J", bound="Job")
J_contra = TypeVar("J_contra", bound="Job", contravariant=True)

GROUP_MAX: Final = 4096


class Job:
    """Something a lane does. Its `future` gets the `outcome`, or the `error` if there is one."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.outcome: object = None
        self.error: Exception | None = None

    def resolve(self) -> None:
        """Answer; on the event loop. A caller that was cancelled gets no answer."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.outcome)


class Lane(Protocol[J_contra]):
    """Does jobs elsewhere, in order."""

    def put(self, job: J_contra) -> None:
        """Do `job` after those that were put before."""
        ...

    async def stop(self) -> None:
        """Do what was put, then end."""
        ...

    def abandon(self) -> None:
        """End after the work in hand; what waits is neither done nor answered."""
        ...


class Offload(Protocol):
    """Makes lanes. `work` fills in outcomes; `end` is called last, where the work was done."""

    def lane(
        self, name: str, work: Callable[[list[J]], None], end: Callable[[], None]
    ) -> Lane[J]: ...

    async def call(self, work: Callable[[], T]) -> T:
        """Do one thing, in no order with anything else."""
        ...


class Threads:
    """The normal way: each lane has a thread, so that a slow disk holds nobody else up."""

    def lane(self, name: str, work: Callable[[list[J]], None], end: Callable[[], None]) -> Lane[J]:
        """See `Offload.lane`."""
        return ThreadLane(name, work, end)

    async def call(self, work: Callable[[], T]) -> T:
        """See `Offload.call`."""
        return await asyncio.get_running_loop().run_in_executor(None, work)


class Inline:
    """For simulators: everything happens on the event loop, so a seed decides the order."""

    def lane(self, name: str, work: Callable[[list[J]], None], end: Callable[[], None]) -> Lane[J]:
        """See `Offload.lane`."""
        return InlineLane(work, end)

    async def call(self, work: Callable[[], T]) -> T:
        """See `Offload.call`."""
        return work()


class ThreadLane(Generic[J]):
    """A lane with a thread of its own."""

    def __init__(self, name: str, work: Callable[[list[J]], None], end: Callable[[], None]) -> None:
        self._work = work
        self._end = end
        self._gathered: list[J] = []
        self._queue: SimpleQueue[list[J] | None] = SimpleQueue()
        self._abandoned = False
        # A daemon: a process that ends without close() has died, and must not hang instead.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, job: J) -> None:
        """See `Lane.put`."""
        self._gathered.append(job)
        if len(self._gathered) == 1:
            job.future.get_loop().call_soon(self._hand_over)

    async def stop(self) -> None:
        """See `Lane.stop`."""
        self._hand_over()
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def abandon(self) -> None:
        """See `Lane.abandon`."""
        self._abandoned = True
        self._gathered.clear()
        self._queue.put(None)

    def _hand_over(self) -> None:
        jobs, self._gathered = self._gathered, []
        if jobs:
            self._queue.put(jobs)

    def _run(self) -> None:
        open_ = True
        while open_ and not self._abandoned:
            jobs, open_ = self._take()
            if jobs and not self._abandoned:
                _do(self._work, jobs)
                self._answer(jobs)
        self._end()

    def _take(self) -> tuple[list[J], bool]:
        """Wait for jobs, then take all that are there. False: nothing comes after them."""
        jobs = self._queue.get()
        taken: list[J] = []
        while jobs is not None:
            taken.extend(jobs)
            if len(taken) >= GROUP_MAX:
                return taken, True
            try:
                jobs = self._queue.get_nowait()
            except Empty:
                return taken, True
        return taken, False

    def _answer(self, jobs: list[J]) -> None:
        try:
            jobs[0].future.get_loop().call_soon_threadsafe(self._resolve, jobs)
        except RuntimeError:
            return  # the loop is closed: nobody is left to hear it

    def _resolve(self, jobs: list[J]) -> None:
        if not self._abandoned:
            for job in jobs:
                job.resolve()


class InlineLane(Generic[J]):
    """A lane that is a callback of the event loop."""

    def __init__(self, work: Callable[[list[J]], None], end: Callable[[], None]) -> None:
        self._work = work
        self._end = end
        self._gathered: list[J] = []
        self._busy = False
        self._ended = False

    def put(self, job: J) -> None:
        """See `Lane.put`."""
        self._gathered.append(job)
        if len(self._gathered) == 1:
            job.future.get_loop().call_soon(self._run)

    async def stop(self) -> None:
        """See `Lane.stop`."""
        self._run()
        self.abandon()

    def abandon(self) -> None:
        """See `Lane.abandon`. Called out of its own work, it ends when that returns."""
        self._gathered.clear()
        if not self._ended:
            self._ended = True
            if not self._busy:
                self._end()

    def _run(self) -> None:
        jobs, self._gathered = self._gathered, []
        if not jobs or self._ended:
            return
        self._busy = True
        _do(self._work, jobs)
        self._busy = False
        self._answer(jobs)

    def _answer(self, jobs: list[J]) -> None:
        if self._ended:  # by the work itself
            self._end()
            return
        for job in jobs:
            job.resolve()


def _do(work: Callable[[list[J]], None], jobs: list[J]) -> None:
    try:
        work(jobs)
    except Exception as error:  # noqa: BLE001 - a bug must reach its callers, not end the lane
        for job in jobs:
            job.error = job.error or error
