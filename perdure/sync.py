"""The runtime for scripts without asyncio: the same names, plain calls and plain loops.

A thread of its own runs the event loop; nothing of the engine is doubled here.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from perdure.app import Options, Runtime as AsyncRuntime
from perdure.core.content import ContextItem
from perdure.core.events import Event
from perdure.core.grants import Grant
from perdure.core.schedules import Schedule
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.calendar import Terms
from perdure.engine.grants import Scope
from perdure.engine.hub import Live
from perdure.engine.schedules import Past
from perdure.engine.session import Input, Session as AsyncSession
from perdure.ports.store import SessionRow

T = TypeVar("T")
_END: Final = object()


class Runtime:
    """`perdure.Runtime` without `await`. Use it in a `with` block."""

    def __init__(self, store: str | None = None, options: Options | None = None) -> None:
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
        agent: Agent | str | None = None,
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

    def schedule(
        self,
        name: str,
        agent: Agent | str,
        prompt: Input,
        *,
        workspace: str | Path = "",
        **terms: Unpack[Terms],
    ) -> Schedule:
        """See `perdure.Runtime.schedule`."""
        work = self._runtime.schedule(name, agent, prompt, workspace=workspace, **terms)
        return self.run(work)

    def schedules(self) -> list[Schedule]:
        """See `perdure.Runtime.schedules`."""
        return self.run(self._runtime.schedules())

    def schedule_runs(self, name: str) -> list[Past]:
        """See `perdure.Runtime.schedule_runs`."""
        return self.run(self._runtime.schedule_runs(name))

    def pause_schedule(self, name: str) -> Schedule:
        """See `perdure.Runtime.pause_schedule`."""
        return self.run(self._runtime.pause_schedule(name))

    def resume_schedule(self, name: str) -> Schedule:
        """See `perdure.Runtime.resume_schedule`."""
        return self.run(self._runtime.resume_schedule(name))

    def remove_schedule(self, name: str) -> None:
        """See `perdure.Runtime.remove_schedule`."""
        self.run(self._runtime.remove_schedule(name))

    def run_schedule_now(self, name: str) -> str:
        """See `perdure.Runtime.run_schedule_now`."""
        return self.run(self._runtime.run_schedule_now(name))

    def rules(self) -> list[Grant]:
        """See `perdure.Runtime.rules`."""
        return self.run(self._runtime.rules())

    def revoke_rule(self, name: str, *, by: str = "") -> None:
        """See `perdure.Runtime.revoke_rule`."""
        self.run(self._runtime.revoke_rule(name, by=by))


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

    def allow(
        self,
        action_id: str,
        *,
        by: str,
        seen: str = "",
        arguments: str | None = None,
        scope: Scope = "once",
        when: str = "",
        until_us: int | None = None,
    ) -> Event:
        """See `perdure.Session.allow`."""
        work = self.session.allow(
            action_id, by=by, seen=seen, arguments=arguments, scope=scope, when=when,
            until_us=until_us,
        )  # fmt: skip
        return self._runtime.run(work)

    def revoke(self, name: str, *, by: str = "") -> Event:
        """See `perdure.Session.revoke`."""
        return self._runtime.run(self.session.revoke(name, by=by))

    def deny(self, action_id: str, *, by: str, reason: str = "") -> Event:
        """See `perdure.Session.deny`."""
        return self._runtime.run(self.session.deny(action_id, by=by, reason=reason))

    def answer(self, call_id: str, result: object, *, failed: bool = False, by: str = "") -> Event:
        """See `perdure.Session.answer`."""
        return self._runtime.run(self.session.answer(call_id, result, failed=failed, by=by))

    def signal(self, name: str, data: object = "", *, key: str = "", by: str = "") -> bool:
        """See `perdure.Session.signal`."""
        return self._runtime.run(self.session.signal(name, data, key=key, by=by))

    def fork(
        self,
        at: int | None = None,
        *,
        name: str | None = None,
        edit: Input | None = None,
        by: str = "",
    ) -> "Session":
        """See `perdure.engine.session.Session.fork`."""
        made = self.session.fork(at, name=name, edit=edit, by=by)
        return Session(self._runtime, self._runtime.run(made))

    def rewind(self, to: int, *, by: str = "") -> Event:
        """See `perdure.engine.session.Session.rewind`."""
        return self._runtime.run(self.session.rewind(to, by=by))

    def interrupt(self, *, by: str = "") -> None:
        """See `perdure.engine.session.Session.interrupt`."""
        self._runtime.run(self.session.interrupt(by=by))

    def pause(self, *, by: str = "") -> None:
        """See `perdure.engine.session.Session.pause`."""
        self._runtime.run(self.session.pause(by=by))

    def close(self, *, by: str = "") -> Event:
        """See `perdure.Session.close`: the session's end, not the runtime's."""
        return self._runtime.run(self.session.close(by=by))

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
