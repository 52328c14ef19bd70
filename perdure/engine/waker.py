"""Waking what sleeps: looking, from time to time, which sessions are due and not worked on.

The store knows when a session wants to be woken, so it does not matter which process set the
timer, or whether it lives: any process that has the agent's code goes on.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from perdure.core.agent import AgentSpec
from perdure.core.errors import PerdureError
from perdure.engine.journal import load
from perdure.engine.kit import Kit
from perdure.engine.waits import Held
from perdure.ports.store import SessionRow
from perdure.ports.tool import Tool

_TOGETHER: Final = 100  # sessions looked at at a time
_PATIENCE_S: Final = 60.0  # the longest pause before a session is tried again


class Host(Protocol):
    """What the waker needs of its engine."""

    @property
    def kit(self) -> Kit: ...

    def wake(self, session_id: str) -> None:
        """See to it that somebody works on the session."""
        ...

    def drives(self, session_id: str) -> bool:
        """Whether this process is at work on the session."""
        ...

    async def tools_of(self, spec: AgentSpec) -> Mapping[str, Tool]:
        """Return the code behind a definition. Raises `NotFound`, `Conflict`."""
        ...


class _Tried(NamedTuple):
    """How often a session was tried, and when it may be tried again (monotonic)."""

    times: int
    again_at: float


Look = Callable[[SessionRow], Awaitable[object]]
Tell = Callable[[str], Any]
Refuse = Callable[[str, PerdureError], Any]


class Waker:
    """Wakes the sessions of one store that are due, as far as their code is loaded here.

    `look` is called with the row of a session on top before its code is asked for: it may load
    it. `told` is called with each session that is woken, `refused` with each that cannot be
    woken here and why, whenever it was tried.
    """

    def __init__(self, host: Host) -> None:
        self.look: Look | None = None
        self.told: Tell | None = None
        self.refused: Refuse | None = None
        self._host = host
        self._tried: dict[str, _Tried] = {}
        self._held: dict[str, Held] = {}

    def held(self, session_id: str) -> Held:
        """Return the waits of a session as this process held them when it let it go."""
        return self._held.pop(session_id, None) or Held(self._host.kit.clock)

    def let_go(self, session_id: str, held: Held) -> None:
        """Go on holding the waits of a session that nobody works on here any more."""
        if held.first is not None:
            self._held[session_id] = held

    def forget(self) -> None:
        """Try all again that could not be woken: more code is loaded now."""
        self._tried.clear()

    async def run(self) -> None:
        """Wake what is due for as long as it is let. Never raises what a store does."""
        while True:
            with contextlib.suppress(PerdureError):
                await self.tick(self._host.kit.clock.now_us())
            await asyncio.sleep(self._host.kit.bounds.poll_s)

    async def tick(self, now_us: int) -> None:
        """Wake the sessions that are due at `now_us`, and sleeping ones that were written to.

        Raises `Unavailable`.
        """
        store, now = self._host.kit.store, self._host.kit.clock.monotonic()
        found = await store.due(now_us, _TOGETHER + len(self._tried))
        over = [name for name, held in self._held.items() if _is_over(held, now)]
        posted = [name for name in await store.mailboxes() if await self._sleeps(name)]
        names = list(dict.fromkeys([*found, *over, *posted]))
        self._tried = {name: tried for name, tried in self._tried.items() if name in names}
        for name in names:
            tried = self._tried.get(name)
            if tried is None or tried.again_at <= now:
                await self._try(name, tried.times if tried else 0, now)
        for name in over:
            if not self._host.drives(name) and name in self._held and not await self._waits(name):
                del self._held[name]  # somebody else has seen to it

    async def _try(self, name: str, times: int, now: float) -> None:
        """Wake a session if this process can do what is due, and leave it alone for a while.

        What is due in a subagent is done where the session on top of it is worked on.
        """
        if self._host.drives(name):
            return
        pause_s = min(_PATIENCE_S, self._host.kit.bounds.poll_s * 2.0**times)
        self._tried[name] = _Tried(times + 1, now + pause_s)
        await self.take(name)

    async def take(self, name: str) -> bool:
        """Wake a session, or the one on top of it, if its code is loaded here; say whether it was.

        Raises `Unavailable`.
        """
        top = None if self._host.drives(name) else await self._top(name)
        if top is None or not await self._can(top):
            return False
        whom = name if self._host.drives(top.id) else top.id
        self._host.wake(whom)
        if self.told is not None:
            self.told(whom)
        return True

    async def _top(self, name: str) -> SessionRow | None:
        row = await self._host.kit.store.session(name)
        while row is not None and row.parent:
            row = await self._host.kit.store.session(row.parent)
        return row

    async def _can(self, top: SessionRow) -> bool:
        try:
            if self.look is not None:
                await self.look(top)
            state, _, _ = await load(self._host.kit.store, top.id)
            await self._host.tools_of(state.spec)
        except PerdureError as error:
            # Its code is elsewhere, or is another one now: not ours to do.
            if self.refused is not None:
                self.refused(top.id, error)
            return False
        return True

    async def _sleeps(self, name: str) -> bool:
        if self._host.drives(name):
            return False
        row = await self._host.kit.store.session(name)
        return row is not None and row.status == "sleeping"

    async def _waits(self, name: str) -> bool:
        row = await self._host.kit.store.session(name)
        return row is not None and row.wake_at_us > 0


def _is_over(held: Held, now: float) -> bool:
    return held.first is not None and held.first <= now
