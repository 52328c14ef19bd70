"""A session of a server's. Reading, waiting and sending are those of any session; what is decided
is decided there, and signed with our key.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Final, Literal, Protocol

import msgspec
from msgspec.structs import replace

from perdure.core.agent import AgentSpec
from perdure.core.codec import decode, encode
from perdure.core.content import as_content
from perdure.core.errors import InvalidRequest, PerdureError
from perdure.core.events import Event
from perdure.core.inbox import Decide, Post, Say
from perdure.doors.native.bodies import (
    AnswerCall,
    By,
    DecideAction,
    Fork,
    Opened,
    Posted,
    Rewound,
    Tell,
)
from perdure.engine.answers import ensure_open, last_open
from perdure.engine.grants import Scope
from perdure.engine.hub import Follower, Hub, Live
from perdure.engine.kit import Kit
from perdure.engine.session import Input, Session
from perdure.remote.link import Frame, Link, part

Frames = Callable[[str, int, Callable[[], None]], AsyncGenerator[Frame, None]]
_BACKLOG: Final = 10_000  # pieces that nobody has taken yet; then they are dropped


class There(Protocol):
    """What a session needs of the server's engine."""

    @property
    def kit(self) -> Kit: ...

    @property
    def hub(self) -> Hub: ...

    @property
    def link(self) -> Link: ...

    def wake(self, session_id: str) -> None:
        """See to it that the server works on the session."""
        ...

    def keep(self, task: asyncio.Task[None]) -> None:
        """Remember a task, to end it when all is closed."""
        ...

    async def definition(self, name: str) -> AgentSpec:
        """Return an agent as the server has it."""
        ...


class RemoteSession(Session):
    """One session of a server's."""

    def __init__(self, engine: There, session: str) -> None:
        super().__init__(engine, session)
        self._there = engine
        self._path = f"/sessions/{part(session)}"
        self._tuned: Tuned | None = None

    async def tune(self, after: int) -> None:
        """Begin to listen behind event `after`, so that nothing that is shown live is missed by
        whoever follows from there next.
        """
        if self._tuned is not None:
            self._tuned.stop()
        self._tuned = Tuned(self._there.link.frames, f"{self._path}/events", after)
        self._there.keep(self._tuned.task)
        await self._tuned.ready()

    async def post(self, post: Post, key: str = "") -> bool:
        """See `Session.post`. The server sees to it that somebody works on it."""
        kit = self._there.kit
        name = key or f"auto:{kit.ids.event(kit.clock.now_us())}"
        return await kit.store.post(self.id, name, encode(post))

    async def fork(
        self,
        at: int | None = None,
        *,
        name: str | None = None,
        agent: AgentSpec | None = None,
        edit: Input | None = None,
        by: str = "",
    ) -> "RemoteSession":
        """See `Session.fork`. The definition is one that the server has, or this one with another
        of its models.
        """
        state = await self.state(at)
        if at is None and state.closed:
            state = await self.state(await last_open(self, state))
        said = None if edit is None else as_content(edit)
        wanted = Fork(state.seq, name or "", edit=said, by=by)
        if agent is not None:
            wanted = await self._defined(wanted, agent, state.spec)
        made = await self._there.link.ask("POST", f"{self._path}/fork", Opened, wanted)
        return RemoteSession(self._there, made.row.id)

    async def _defined(self, wanted: Fork, agent: AgentSpec, pinned: AgentSpec) -> Fork:
        same = replace(
            agent, model=pinned.model, limits=pinned.limits, environment=pinned.environment
        )
        if same == pinned:
            return replace(wanted, model=agent.model if agent.model != pinned.model else "")
        there = await self._there.definition(agent.name)
        model = agent.model if agent.model != there.model else ""
        return replace(wanted, agent=agent.name, model=model)

    async def rewind(self, to: int, *, by: str = "") -> Event:
        """See `Session.rewind`."""
        return await self._event("rewind", Rewound(to, by))

    async def allow(
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
        """See `Session.allow`."""
        body = DecideAction(
            "allow", seen, arguments=arguments, scope=scope, when=when, until_us=until_us, by=by
        )
        return await self._event(f"actions/{part(action_id)}", body)

    async def decide(self, decision: Decide) -> Event:
        """See `Session.decide`."""
        kind = _KINDS.get(decision.decision)
        if kind is None:
            raise InvalidRequest("E-BODY", f"Nobody decides {decision.decision}.")
        body = DecideAction(
            kind, decision.seen, decision.reason, decision.arguments, decision.result,
            by=decision.by,
        )  # fmt: skip
        if decision.grant is not None:
            grant = decision.grant
            body = replace(body, scope=grant.scope, when=grant.when, until_us=grant.until_us)
        return await self._event(f"actions/{part(decision.action_id)}", body)

    async def revoke(self, name: str, *, by: str = "") -> Event:
        """See `Session.revoke`."""
        path = f"{self._path}/grants/{part(name)}"
        return await self._there.link.ask("DELETE", path, Event, by=by)

    async def answer(
        self, call_id: str, result: object, *, failed: bool = False, by: str = ""
    ) -> Event:
        """See `Session.answer`."""
        try:
            plain = msgspec.json.decode(encode(result))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(
                "E-ANSWER-FORM", f"The answer was not posted: it has no JSON form: {error}."
            ) from error
        return await self._event(f"answers/{part(call_id)}", AnswerCall(plain, failed, by))

    async def close(self, *, by: str = "") -> Event:
        """See `Session.close`."""
        return await self._event("close", By(by))

    async def signal(self, name: str, data: object = "", *, key: str = "", by: str = "") -> bool:
        """See `Session.signal`."""
        body = Tell(name, data, key, by)
        return (await self._there.link.ask("POST", f"{self._path}/signals", Posted, body)).fresh

    async def _event(self, path: str, body: object) -> Event:
        return await self._there.link.ask("POST", f"{self._path}/{path}", Event, body)

    async def _turn(self, post: Say, key: str) -> AsyncIterator[Event | Live]:
        state = await self.state()
        ensure_open(state)
        await self.tune(state.seq)
        kit = self._there.kit
        name = key or f"auto:{kit.ids.event(kit.clock.now_us())}"
        fresh = await self.post(post, name)
        async for item in self._until_still(state, started=not fresh, key=name):
            yield item

    async def _pieces(self, follower: Follower, after: int) -> AsyncIterator[Event | Live]:
        """Follow the server's stream instead of what happens in this process."""
        tuned, self._tuned = self._tuned, None
        if tuned is None or tuned.after > after:
            tuned = Tuned(self._there.link.frames, f"{self._path}/events", after)
            self._there.keep(tuned.task)
        try:
            while True:
                frame = await tuned.next()
                if frame.seq is None and frame.event == "live":
                    yield decode(b'{"piece":' + frame.data + b"}", Live)
                elif frame.seq is not None and frame.seq > after:
                    after = frame.seq
                    yield decode(frame.data, Event)
        finally:
            tuned.stop()


class Tuned:
    """A stream that is being read, whether or not somebody takes what comes."""

    def __init__(self, frames: Frames, path: str, after: int) -> None:
        self.after = after
        self._queue: asyncio.Queue[Frame | Exception] = asyncio.Queue()
        self._ready = asyncio.Event()
        self.task = asyncio.create_task(self._read(frames, path), name=f"listen {path}")

    async def ready(self) -> None:
        """Wait until the server answers, or cannot."""
        await self._ready.wait()

    async def next(self) -> Frame:
        """Return what comes next. Raises what the stream ended with."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def stop(self) -> None:
        """Listen no longer."""
        self.task.cancel()

    async def _read(self, frames: Frames, path: str) -> None:
        try:
            async with aclosing(frames(path, self.after, self._ready.set)) as coming:
                async for frame in coming:
                    if frame.seq is not None or self._queue.qsize() < _BACKLOG:
                        self._queue.put_nowait(frame)
        except PerdureError as error:
            self._queue.put_nowait(error)
        finally:
            self._ready.set()


_KINDS: Final[Mapping[str, Literal["allow", "deny", "done", "failed", "rerun"]]] = {
    "allow": "allow",
    "deny": "deny",
    "done": "done",
    "failed": "failed",
    "rerun": "rerun",
}
