"""`perdure work`: the process that goes on with what sleeps or was left, and fires what is planned.

It works on no session that rests, and on none that another process owns. What it has in flight when
it ends is taken up by the next one.
"""

import asyncio
import contextlib
import json as plain_json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from perdure.app import Runtime
from perdure.cli.agents import Overrides, load_agent
from perdure.cli.elsewhere import only_here
from perdure.cli.firing import Firing
from perdure.cli.naps import clock
from perdure.cli.places import Places, Ref
from perdure.cli.screen import Screen
from perdure.cli.text import clip, one_line
from perdure.cli.wire import plain
from perdure.cli.worker import runtime_of
from perdure.config import Project, load_project
from perdure.core import events as e
from perdure.core.errors import Forbidden, NotFound, PerdureError
from perdure.core.events import Event
from perdure.engine.session import Session
from perdure.engine.summary import describe
from perdure.engine.takeover import Takeover
from perdure.ports.cluster import Cluster
from perdure.ports.store import SessionRow, Store
from perdure.stores.system import SystemClock

_LOOK_S: Final = 0.5
_SHOWN: Final = (
    e.TurnStarted,
    e.TurnEnded,
    e.TimerSet,
    e.TimerFired,
    e.SignalReceived,
    e.ActionRequested,
    e.ActionResolved,
    e.SessionParked,
    e.SessionRecovered,
)


class Duty(Protocol):
    """Something that `perdure work` does again and again."""

    async def tick(self) -> int | None:
        """Do what is due; return when something is again (microseconds since the epoch).

        Raises `Unavailable`, and is called again all the same.
        """
        ...


def work(*, unsandboxed: bool, json: bool, store: str = "") -> int:
    """Carry out the verb: work until told to end."""
    only_here("perdure work")
    screen = Screen(json=json)
    environ = dict(os.environ) | ({"PERDURE_STORE": store} if store else {})
    project = load_project(Path.cwd(), environ)
    Places(project).prepare()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_work(screen, project, unsandboxed=unsandboxed))
    return 0


async def _work(screen: Screen, project: Project, *, unsandboxed: bool) -> None:
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    async with runtime_of(project, unsandboxed=unsandboxed, wakes=True) as runtime:
        allowed = unsandboxed or project.settings.allow_unsandboxed
        shift = Shift(screen, project, runtime, unsandboxed=allowed)
        await shift.begin()
        belonging = await shift.belong(over)
        duties: Sequence[Duty] = (shift.firing(),)
        poll_s = (await runtime.engine()).kit.bounds.poll_s
        while not over.is_set():
            next_us = await shift.tick(duties)
            wait_s = poll_s
            if next_us is not None:
                left_s = (next_us - SystemClock().now_us()) / 1_000_000
                wait_s = min(poll_s, max(0.01, left_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await over.wait()
        belonging.cancel()
        await shift.end()


class Shift:
    """What one `perdure work` does and tells."""

    def __init__(
        self, screen: Screen, project: Project, runtime: Runtime, *, unsandboxed: bool
    ) -> None:
        self._screen = screen
        self._project = project
        self._places = Places(project)
        self._runtime = runtime
        self._unsandboxed = unsandboxed
        self._told: set[tuple[str, str]] = set()
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._seqs: dict[str, int] = {}  # where sessions stood when they were looked at

    async def begin(self) -> None:
        """Load the project's agents and begin to wake sessions."""
        engine = await self._runtime.engine()
        for name in self._project.settings.agents:
            try:
                await self._load(Ref("", name, str(self._project.root)))
            except PerdureError as error:
                self._trouble(f"agent {name}", error)
        engine.waker.look = self._look
        engine.waker.told = self._woke
        engine.waker.refused = self._trouble
        engine.waker.forget()
        store = engine.kit.store
        promise = getattr(store, "guarantee", "")
        does = "wakes what sleeps, fires schedules, takes over; Ctrl-C ends it"
        where = f"{self._project.store_shown}  {promise}".strip()
        self._say("", "begins", f"{does}; {where}")

    async def belong(self, over: asyncio.Event) -> "asyncio.Task[None]":
        """Begin to go on with what nobody works on, and to listen whether this process is to end:
        then what runs has `drain_s` seconds, and `over` is set.
        """
        engine = await self._runtime.engine()
        kit, settings = engine.kit, self._project.settings.server
        takeover = Takeover(
            kit.store.abandoned, engine.waker.take, kit.clock, kit.ids.random, settings.takeover_s
        )
        taking = asyncio.create_task(takeover.run(), name="perdure takeover")

        async def belong() -> None:
            try:
                await self._until_told(kit.store)
                taking.cancel()
                self._say("", "drains", "another process said so")
                await engine.drain(settings.drain_s)
                over.set()
            finally:
                taking.cancel()

        return asyncio.create_task(belong(), name="perdure nodes")

    @staticmethod
    async def _until_told(store: Store) -> None:
        cluster = store if isinstance(store, Cluster) else None
        if cluster is not None:
            await cluster.announce("")
        while True:
            if cluster is not None and cluster.draining:
                return
            await asyncio.sleep(_LOOK_S)

    def firing(self) -> Firing:
        """Return the duty that fires the project's schedules."""
        return Firing(self._project, self._runtime, self._trouble, self._woke)

    async def tick(self, duties: Sequence[Duty]) -> int | None:
        """Do all duties; return when the first of them has something to do again."""
        ahead: list[int] = []
        for duty in duties:
            try:
                next_us = await duty.tick()
            except PerdureError as error:
                self._trouble("the store", error)
            else:
                ahead += [] if next_us is None else [next_us]
        return min(ahead, default=None)

    async def end(self) -> None:
        """Look on no longer."""
        for task in self._followed.values():
            task.cancel()
        await asyncio.gather(*self._followed.values(), return_exceptions=True)
        self._say("", "ends", "what was in flight is taken up by the next one")

    async def _load(self, ref: Ref) -> None:
        overrides = Overrides(ref.model, ref.in_place, ref.unsandboxed, ref.limits)
        with contextlib.chdir(ref.directory):
            agent = load_agent(ref.agent, self._project, overrides)
        await self._runtime.register(agent)

    async def _look(self, row: SessionRow) -> None:
        """Load the code of a session's agent, if this process does not have it yet."""
        self._seqs[row.id] = row.seq
        ref = self._places.ref(row.id)
        if ref is not None and ref.unsandboxed and not self._unsandboxed:
            raise Forbidden(
                "E-SANDBOX-PROCESS",
                f"{row.id} runs with no isolation, and that was not allowed here.",
                "perdure work --unsandboxed",
            )
        engine = await self._runtime.engine()
        if engine.agent(row.agent) is not None:
            return
        if ref is None:
            raise NotFound(
                "E-AGENT-MISSING",
                f"Nobody knows here where the code of agent {row.agent} is. {row.id} sleeps on.",
                f"perdure resume {row.id} --agent FILE.py",
            )
        await self._load(ref)

    def _woke(self, session: str) -> None:
        running = self._followed.get(session)
        if running is None or running.done():
            self._followed[session] = asyncio.create_task(self._follow(session))

    async def _follow(self, name: str) -> None:
        """Tell what becomes of a session that was woken, until it is at rest."""
        try:
            session = Session(await self._runtime.engine(), name)
            self._say(name, "woken", "")
            async for item in session.watch(self._seqs.pop(name, None)):
                if isinstance(item, Event) and isinstance(item.payload, _SHOWN):
                    self._event(name, item)
        except PerdureError as error:
            self._trouble(name, error)

    def _event(self, name: str, event: Event) -> None:
        if self._screen.json:
            fields = {"session": name, "event": plain(event)}
            self._screen.line(plain_json.dumps(fields))
        else:
            self._say(name, event.type, describe(event))

    def _trouble(self, whom: str, error: PerdureError) -> None:
        """Tell once what cannot be done."""
        if (whom, error.code) not in self._told:
            self._told.add((whom, error.code))
            self._say(whom, error.code, f"{error.message}  {error.hint}".strip())

    def _say(self, whom: str, what: str, text: str) -> None:
        if self._screen.json:
            said = {"session": whom, "what": what, "text": text}
            self._screen.line(plain_json.dumps(said))
            return
        head = f"  {clock(SystemClock().now_us())}  " + one_line(f"{whom}  {what}").strip()
        rest = "" if text == what else "  " + self._screen.dim(one_line(text))
        self._screen.line(clip(head, self._screen.width) + rest)
