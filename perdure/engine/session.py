"""A session as its user holds it: write to it, follow it, decide for it. Owns nothing: every
method works whether this process drives the session, another one does, or nobody does.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any, Literal, Protocol

import msgspec

from perdure.core import events as e, step as due
from perdure.core.agent import AgentSpec
from perdure.core.codec import encode
from perdure.core.content import Content, ContextItem, Part, as_content
from perdure.core.context import Transcript
from perdure.core.errors import InvalidRequest, NotFound
from perdure.core.events import Event
from perdure.core.inbox import Compact, Decide, Post, Put, Rewind, Say, Update, no_such_past
from perdure.core.journal import GENESIS
from perdure.core.state import State
from perdure.core.step import next_step
from perdure.core.timeline import effective
from perdure.engine import answers, branching, decisions, signals
from perdure.engine.grants import Scope
from perdure.engine.hub import Follower, Hub, Live
from perdure.engine.journal import events_of, follow, load
from perdure.engine.kin import stuck
from perdure.engine.kit import Kit

Input = str | Part | Content


class Host(Protocol):
    """What a session needs of the engine it belongs to."""

    @property
    def kit(self) -> Kit: ...

    @property
    def hub(self) -> Hub: ...

    def wake(self, session_id: str) -> None:
        """See to it that somebody works on the session."""
        ...


class Sending:
    """What `send` returns: iterate over it to watch the turn, or await it to wait for its end."""

    def __init__(self, pieces: Callable[[], AsyncIterator[Event | Live]], after: "Session") -> None:
        self._pieces = pieces
        self._session = after

    def __aiter__(self) -> AsyncIterator[Event | Live]:
        return self._pieces()

    def __await__(self) -> Generator[Any, None, State]:
        return self._wait().__await__()

    async def _wait(self) -> State:
        async for _ in self._pieces():
            pass
        return await self._session.state()


class Session:
    """One session."""

    def __init__(self, engine: Host, session: str) -> None:
        self.id = session
        self._engine = engine

    def __repr__(self) -> str:
        return f"Session({self.id!r})"

    async def state(self, at: int | None = None) -> State:
        """Return the durable state, or the one at event `at`. Raises `NotFound`."""
        state, _, _ = await load(self._engine.kit.store, self.id, at)
        if state.seq == 0 or (at is not None and state.seq != at):
            raise self._unknown(at)
        return state

    async def events(self, after: int = 0, until: int | None = None) -> AsyncIterator[Event]:
        """Yield the durable events with after < seq <= until. Raises `CorruptJournal`."""
        previous = GENESIS if after == 0 else None
        async for event, _ in events_of(self._engine.kit.store, self.id, after, previous):
            if until is not None and event.seq > until:
                return
            yield event

    async def context(self, at: int | None = None) -> list[ContextItem]:
        """Return what the model reads at event `at` (default: now)."""
        return Transcript(effective([event async for event in self.events(until=at)])).items

    def send(self, text: Input, *, key: str = "", by: str = "") -> Sending:
        """Give the session something to do. The same `key` sends it once, however often tried.

        Iterating yields durable events, with live pieces between them, until the turn is over or
        only a person can move it on. Nothing happens before the iteration or await begins.
        """
        return Sending(lambda: self._turn(Say("message", as_content(text), by), key), self)

    def resume(self, *, by: str = "") -> Sending:
        """Go on: after a pause, after being parked, or with what a failed turn left undone."""
        return Sending(lambda: self._turn(Say("resume", by=by), ""), self)

    async def steer(self, text: Input, *, key: str = "", by: str = "") -> None:
        """Put a word in while a turn runs: the model reads it at its next call."""
        await self.post(Say("steer", as_content(text), by), key)

    async def compact(self, *, by: str = "") -> None:
        """Make what the model reads shorter before it is called next; the journal keeps all."""
        await self.post(Compact(by))

    async def interrupt(self, *, by: str = "") -> None:
        """End the turn: what runs is killed, what waits is cancelled."""
        await self.post(Say("interrupt", by=by))

    async def pause(self, *, by: str = "") -> None:
        """Let what runs come to its end and start nothing more until `resume`."""
        await self.post(Say("pause", by=by))

    async def fork(
        self,
        at: int | None = None,
        *,
        name: str | None = None,
        agent: AgentSpec | None = None,
        edit: Input | None = None,
        by: str = "",
    ) -> "Session":
        """Return a new session that begins as this one was at event `at` (default: now), paused.
        With `edit` it begins before the last message there, which says this instead.

        That of a closed session begins before it was closed. Its past is shared, its workspace is
        made from the snapshot of that moment when it is first needed. Calls that left after `at`
        are not run again without a decision.
        """
        state = await self.state(at)
        if at is None and state.closed:
            state = await self.state(await answers.last_open(self, state))
        fresh, kit, seq = name or self._engine.kit.ids.session(), self._engine.kit, state.seq
        said = as_content(edit) if edit is not None else ()
        if said:
            seq = await branching.before_message(kit.store, self.id, seq)
        await branching.fork(kit, self.id, seq, fresh, agent, by, said)
        return Session(self._engine, fresh)

    async def rewind(self, to: int, *, by: str = "") -> Event:
        """Take this session back to event `to`, transcript and files together; it is paused then.

        A turn that is open is interrupted first. Returns the event that says so; raises
        `InvalidRequest` (E-REWIND) when it was refused.
        """
        await self.state(to)
        state = await self.state()
        answers.ensure_open(state)
        await self.post(Rewind(to, by))
        async for item in self._follow(state.seq):
            if not isinstance(item, Event):
                continue
            match item.payload:
                case e.SessionRewound(to=went) if went - to in (0, 1):  # see `branching.cut`
                    return item
                case e.SessionClosed():
                    answers.ensure_open(await self.state())
                case e.NoteRecorded(text=text) if text == no_such_past(to):
                    raise InvalidRequest("E-REWIND", text)
                case _:
                    pass
        raise AssertionError("a follower ends only by an error")

    async def preflight(self, at: int) -> branching.Preflight:
        """Say what going on from event `at` would take from the journal and what run again."""
        return await branching.preflight(self._engine.kit.store, self.id, at)

    async def update(self, update: e.SessionUpdated) -> None:
        """Put other limits or another agent version in force."""
        await self.post(Update(update))

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
        """Let a call run, with other `arguments` (JSON) if given. `seen` is the digest shown.

        With the scope `session` or `rule` calls of the same tool are not asked about any more, in
        this session or in all sessions of its agent: those whose arguments fit the condition
        `when` (empty: all), until `until_us` (microseconds since the epoch; None: until it is
        revoked). Raises like `decide`, and `InvalidRequest` (E-GRANT, E-CONDITION).
        """
        beyond = decisions.Beyond(scope, when, until_us)
        return await decisions.allow(
            self, self._engine.kit, action_id, beyond, by=by, seen=seen, arguments=arguments
        )

    async def deny(self, action_id: str, *, by: str, reason: str = "") -> Event:
        """Refuse a call; the model reads the reason."""
        return await self.decide(Decide(action_id, "deny", by, reason))

    async def resolve(
        self,
        action_id: str,
        outcome: Literal["done", "failed", "rerun"],
        *,
        by: str,
        result: str | None = None,
        reason: str = "",
    ) -> Event:
        """Say what became of a call whose outcome is unknown: it is done (with that `result`), it
        failed, or it may be run again.
        """
        return await self.decide(Decide(action_id, outcome, by, reason, result=result))

    async def decide(self, decision: Decide) -> Event:
        """Post a decision; return the `action.resolved` that it became.

        Posting again what was decided in the same words returns the event that is there. Raises
        `Conflict` once the refusal is in the journal: E-ACTION-DECIDED, with who decided what and
        when, where somebody was faster, it had expired or its turn had ended; E-ACTION-REFUSED
        where what was shown is not what would run, or the decision does not fit the action;
        E-SESSION-CLOSED. Raises `InvalidRequest`: E-ACTION-UNKNOWN when there never was such an
        action, E-ACTION-ANSWER when a client is to answer it.
        """
        return await decisions.decide(self, decision)

    async def revoke(self, name: str, *, by: str = "") -> Event:
        """Take back what was allowed in this session beyond one call; `State.grants` has the names.

        A rule is out of force everywhere. Raises `NotFound` (E-GRANT-UNKNOWN), `Conflict`
        (E-SESSION-CLOSED).
        """
        return await decisions.revoke(self, self._engine.kit, name, by)

    async def answer(
        self, call_id: str, result: object, *, failed: bool = False, by: str = ""
    ) -> Event:
        """Answer a call that was left to a client; return the event that takes the answer.

        `result` is a text or anything with a JSON form; `failed` says that there is none, and why.
        The same answer again is harmless. Raises `InvalidRequest` (E-ANSWER-FORM) when it does not
        fit what the tool asks for, `NotFound` (E-CALL-UNKNOWN), and `Conflict`: E-ANSWER-TWICE
        after another answer, E-ANSWER-LATE when its turn has ended, E-ANSWER-EARLY before the call
        was put, E-SESSION-CLOSED.
        """
        return await answers.answer(self, call_id, result, failed=failed, by=by)

    async def close(self, *, by: str = "") -> Event:
        """Close the session for good; return the event that says so, whoever wrote it.

        An open turn is interrupted first, and subagents are closed with it. This process ends the
        turn unless another one drives the session. What comes afterwards raises `Conflict`
        (E-SESSION-CLOSED); the journal stays readable, and a fork goes on.
        """
        return await answers.close(self, by)

    async def signal(self, name: str, data: object = "", *, key: str = "", by: str = "") -> bool:
        """Tell the session of an event outside, durably: a call that waits for `name`, now or
        later, ends with `data`, a text or anything with a JSON form.

        The same `key` tells it once, and False is returned when it had been told. Raises
        `InvalidRequest` (E-SIGNAL), and `Conflict`: E-KEY-REUSED for other data under the key,
        E-SESSION-CLOSED.
        """
        signalled = signals.signalled(name, data, by)
        answers.ensure_open(await self.state())
        return await self.post(signalled, key)

    async def post(self, post: Post, key: str = "") -> bool:
        """Put a letter in the inbox, durably; False when its key was posted before."""
        name = key or f"auto:{self._engine.kit.ids.event(self._engine.kit.clock.now_us())}"
        fresh = await self._engine.kit.store.post(self.id, name, encode(post))
        self._engine.wake(self.id)
        return fresh

    async def follow(self, after: int = 0) -> AsyncGenerator[Event | Live, None]:
        """Yield durable events after seq `after`, each once and in order, and live pieces, for
        as long as the caller listens.
        """
        async for item in self._follow(after):
            yield item

    async def watch(self, after: int | None = None) -> AsyncIterator[Event | Live]:
        """Follow until the session rests or waits for a person, driving it if nobody does."""
        state = await self.state(after)
        self._engine.wake(self.id)
        async for item in self._until_still(state, started=True):
            yield item

    async def set(self, name: str, value: object) -> None:
        """Keep a JSON value of the application's own beside the transcript; None removes it."""
        await self.post(Put(name, msgspec.Raw(encode(value))))

    async def _turn(self, post: Say, key: str) -> AsyncIterator[Event | Live]:
        state = await self.state()
        answers.ensure_open(state)
        name = key or f"auto:{self._engine.kit.ids.event(self._engine.kit.clock.now_us())}"
        fresh = await self.post(post, name)
        async for item in self._until_still(state, started=not fresh, key=name):
            yield item

    async def _until_still(
        self, state: State, *, started: bool, key: str = ""
    ) -> AsyncIterator[Event | Live]:
        """Follow from `state` until nothing is due that this process or another will do."""
        if started and await self._still(state):
            return
        with self._engine.hub.follow(self.id) as follower:
            async for item in self._pieces(follower, state.seq):
                yield item
                if not isinstance(item, Event):
                    continue
                payload = item.payload
                started = started or (isinstance(payload, e.InputAccepted) and payload.key == key)
                known = follower.state
                if known is not None and known.seq > item.seq:
                    continue  # more is written, and the state after it is known: nothing to fold
                if known is not None and known.seq == item.seq:
                    state = known
                else:
                    state = await follow(self._engine.kit.store, self.id, state, item)
                if not started:
                    answers.ensure_open(state)  # it was closed before it took what was posted
                elif await self._still(state):
                    return

    async def _still(self, state: State) -> bool:
        step = next_step(state)
        store = self._engine.kit.store
        if not isinstance(step, due.Rest | due.Ask) and not await stuck(store, state):
            return False
        # The inbox first: what is taken from it meanwhile shows in the row.
        if await store.inbox(self.id):
            return False
        row = await store.session(self.id)
        return row is None or row.seq <= state.seq  # else look again when we have read more

    async def _follow(self, after: int) -> AsyncIterator[Event | Live]:
        with self._engine.hub.follow(self.id) as follower:
            async for item in self._pieces(follower, after):
                yield item

    async def _pieces(self, follower: Follower, after: int) -> AsyncIterator[Event | Live]:
        reread = True
        while True:
            if reread:
                before = after
                async for event in self.events(after):
                    yield event
                    after = event.seq
                if after > before:
                    self._engine.hub.moved(self.id)
            reread = False
            item = await follower.next()
            if isinstance(item, Live):
                # From afar it may come before the events that it follows, or too late.
                if item.after is not None and item.after > after:
                    async for event in self.events(after, item.after):
                        yield event
                        after = event.seq
                if item.after is None or item.after == after:
                    yield item
            elif item is None or item.seq > after + 1:
                reread = True
            elif item.seq == after + 1:
                yield item
                after = item.seq

    def _unknown(self, at: int | None) -> NotFound:
        if at is None:
            return NotFound("E-SESSION-UNKNOWN", f"There is no session {self.id}.", "perdure ls")
        return NotFound(
            "E-EVENT-UNKNOWN", f"{self.id} has no event {at}.", f"perdure show {self.id}"
        )
