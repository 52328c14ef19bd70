"""The runtime for scripts without asyncio: the same names, plain calls and plain loops.

A thread of its own runs the event loop; nothing of the engine is doubled here.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from perdure.app import Options, Runtime as AsyncRuntime
from perdure.core.content import ContextItem
from perdure.core.events import Event
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.hub import Live
from perdure.engine.session import Input, Session as AsyncSession
from perdure.ports.store import SessionRow

T = TypeVar("T")
_END: Final = object()


class Runtime:
    """`perdure.Runtime` without `await`. Use it in a `with` block."""

    def __init__(self, store: str = "sqlite:///perdure.db", options: Options | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="perdure loop", daemon=True
        )
        self._thread.start()
        self._runtime = AsyncRuntime(store, options)

    def __enter__(self) -> Self:
        self.run(self._runtime.engine())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let everything go and end the thread."""
        if self._loop.is_closed():
            return
        self.run(self._runtime.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the asynchronous API and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def session(
        self,
        session_id: str | None = None,
        agent: Agent | None = None,
        *,
        workspace: str | Path = "",
        adopt: bool = False,
    ) -> "Session":
        """See `perdure.Runtime.session`."""
        found = self.run(self._runtime.session(session_id, agent, workspace=workspace, adopt=adopt))
        return Session(self, found)

    def sessions(self) -> list[SessionRow]:
        """See `perdure.Runtime.sessions`."""
        return self.run(self._runtime.sessions())


class Session:
    """`perdure.Session` without `await`; `.session` is the asynchronous one."""

    def __init__(self, runtime: Runtime, session: AsyncSession) -> None:
        self.id = session.id
        self.session = session
        self._runtime = runtime

    def send(self, text: Input, *, key: str = "", by: str = "") -> Iterator[Event | Live]:
        """Yield what happens until the turn is over or only a person can move it on."""
        return self._iterate(aiter(self.session.send(text, key=key, by=by)))

    def resume(self, *, by: str = "") -> Iterator[Event | Live]:
        """Go on with what was left undone; yields like `send`."""
        return self._iterate(aiter(self.session.resume(by=by)))

    def watch(self, after: int | None = None) -> Iterator[Event | Live]:
        """Yield what happens, from event `after` on, until the session rests or waits."""
        return self._iterate(self.session.watch(after))

    def allow(self, action_id: str, *, by: str, arguments: str | None = None) -> Event:
        """See `perdure.Session.allow`."""
        return self._runtime.run(self.session.allow(action_id, by=by, arguments=arguments))

    def deny(self, action_id: str, *, by: str, reason: str = "") -> Event:
        """See `perdure.Session.deny`."""
        return self._runtime.run(self.session.deny(action_id, by=by, reason=reason))

    def state(self) -> State:
        """See `perdure.Session.state`."""
        return self._runtime.run(self.session.state())

    def context(self) -> list[ContextItem]:
        """See `perdure.Session.context`."""
        return self._runtime.run(self.session.context())

    def _iterate(self, pieces: AsyncIterator[Event | Live]) -> Iterator[Event | Live]:
        while True:
            piece = self._runtime.run(_next(pieces))
            if not isinstance(piece, Event | Live):
                return
            yield piece


async def _next(pieces: AsyncIterator[Event | Live]) -> Event | Live | object:
    return await anext(pieces, _END)
