"""A node: a process that opens the store, serves sessions, and follows all of them.

    python -m perdure.testing.chaos.node '{"name": "n1", "url": "postgresql://…", "home": "/tmp/x"}'

It says `ready`, works until it reads `finish` (then its followers read to the end, and it ends), or
until its standard input ends, which is when the process that started it is gone.
"""

import asyncio
import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from perdure.app import open_store
from perdure.core.errors import PerdureError, Unavailable
from perdure.core.events import Event
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.ports.store import Store
from perdure.stores.system import RandomIds, SystemClock
from perdure.testing.chaos import history as h
from perdure.testing.chaos.agents import OneModel, agent
from perdure.testing.chaos.witness import watched

_CATCH_UP_S: Final = 30.0


class Plan(msgspec.Struct, frozen=True):
    """What a node is told. `skew_s`: how wrong its clock is. `follow`: whether it follows all
    sessions. `schedules`: whether it fires them. `variant`: a store that is wrong on purpose.
    """

    name: str
    url: str
    home: str
    skew_s: float = 0.0
    poll_s: float = 0.2
    idle_s: float = 0.1
    follow: bool = True
    schedules: bool = False
    variant: str = ""


class SkewedClock(SystemClock):
    """A wall clock that is wrong by so many seconds."""

    def __init__(self, skew_s: float) -> None:
        self._skew_us = int(skew_s * 1_000_000)

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return super().now_us() + self._skew_us


async def opened(plan: Plan) -> Store:
    """Open the store that the plan names."""
    if plan.variant:
        from perdure.testing.broken_nodes import opened as broken

        return await broken(plan.variant, plan.url, plan.skew_s)
    store, _ = await open_store(plan.url)
    return store


class Readers:
    """Follows every session there is, each from its first event on, over what passes."""

    def __init__(self, engine: Engine, notes: h.Notes, name: str, retry_s: float) -> None:
        self.cursors: dict[str, int] = {}
        self.seen: Callable[[str, Event], None] = lambda _session, _event: None
        self._engine = engine
        self._notes = notes
        self._name = name
        self._retry_s = retry_s
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def look(self) -> None:
        """Begin to follow what is new. Raises `Unavailable`."""
        for row in await self._engine.kit.store.sessions():
            self.follow(row.id)

    def follow(self, session: str) -> None:
        """Follow a session, unless that is done already."""
        if session not in self._tasks:
            self.cursors[session] = 0
            self._tasks[session] = asyncio.create_task(self._follow(session))

    async def _follow(self, session: str) -> None:
        while True:
            try:
                async for item in Session(self._engine, session).follow(self.cursors[session]):
                    if isinstance(item, Event):
                        digest = h.digest(item)
                        self._notes.write(h.Saw(self._name, session, item.seq, digest))
                        self.cursors[session] = item.seq
                        self.seen(session, item)
            except PerdureError as error:
                if not isinstance(error, Unavailable):
                    self._notes.write(h.FollowFailed(self._name, session, repr(error)))
                await asyncio.sleep(self._retry_s)

    async def finish(self) -> None:
        """Let every follower read to the end, and say so. Nobody writes any more."""
        await self.look()
        ends = {row.id: row.seq for row in await self._engine.kit.store.sessions()}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_S):
                while any(self.cursors[s] < end for s, end in ends.items()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        await self.stop()
        for session in ends:
            self._notes.write(h.Followed(self._name, session))

    async def stop(self) -> None:
        """Follow nothing more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def live(plan: Plan) -> None:
    """Serve until told to finish."""
    home = Path(plan.home)
    notes, world = h.Notes(home / f"{plan.name}.jsonl"), h.Notes(home / "world.jsonl", fsync=True)
    store = watched(await opened(plan), notes, plan.name)
    bounds = Bounds(idle_s=plan.idle_s, recoveries=1_000_000, poll_s=plan.poll_s)
    kit = Kit(
        store, SkewedClock(plan.skew_s), RandomIds(), OneModel(), bounds=bounds,
        schedules=plan.schedules,
    )  # fmt: skip
    finish = asyncio.Event()
    _listen(finish)
    async with Engine(kit) as engine:
        await engine.register(agent(plan.name, world))
        readers = Readers(engine, notes, plan.name, plan.poll_s)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not finish.is_set():
            with contextlib.suppress(PerdureError):
                for session in await store.abandoned():
                    engine.wake(session)
                if plan.follow:
                    await readers.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(finish.wait(), plan.poll_s)
        if plan.follow:
            await readers.finish()


def _listen(finish: asyncio.Event) -> None:
    """Set `finish` when that is said; end at once, without a word, when nobody is there to say."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if sys.stdin.readline().strip() != "finish":
            os._exit(1)
        loop.call_soon_threadsafe(finish.set)

    threading.Thread(target=read, daemon=True).start()


def main() -> None:
    """Be a node."""
    faulthandler.enable()
    asyncio.run(live(msgspec.json.decode(sys.argv[1], type=Plan)))


if __name__ == "__main__":
    main()
