"""Driving one session: claim it, read it, do what is due until nothing is.

A driver lives while its session has work and a little longer. It never decides anything: it asks
`next_step`, performs the answer, and lets the journal change the state. A new process that finds
the journal of a dead one does exactly the same.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec

from perdure.core import events as e
from perdure.core import step as due
from perdure.core.agent import AgentSpec
from perdure.core.codec import Reader
from perdure.core.errors import (
    CorruptJournal,
    ErrorInfo,
    LeaseLost,
    NotFound,
    PerdureError,
    StaleAppend,
)
from perdure.core.inbox import Post, Rewind, Say, accept
from perdure.core.state import State
from perdure.core.step import next_step, resting
from perdure.core.timeline import left_since
from perdure.engine.branching import cut
from perdure.engine.endings import end_turn
from perdure.engine.hub import Hub
from perdure.engine.journal import Journal
from perdure.engine.kit import Kit
from perdure.engine.ledger import Ledger
from perdure.engine.model_calls import call_model, recover_model
from perdure.engine.recovery import recover_tools
from perdure.engine.retry import LONGEST_S
from perdure.engine.stops import first, our_fault, overdue, parked_by, poison
from perdure.engine.tool_calls import request_tools, run_tools, settle
from perdure.engine.trees import Trees
from perdure.engine.work import Place, Work
from perdure.ports.tool import Tool

Toolbox = Callable[[AgentSpec], Awaitable[Mapping[str, Tool]]]
_LOG = logging.getLogger("perdure")
_POSTS: Reader[Post] = Reader[Post](Post)


class Driver:
    """Works one session off. `post_arrived` may be called at any time."""

    journal_type: type[Journal] = Journal
    place_type: type[Place] = Place

    def __init__(
        self,
        kit: Kit,
        hub: Hub,
        toolbox: Toolbox,
        wake: Callable[[str], None],
        session: str,
        trees: Trees | None = None,
    ) -> None:
        self._kit = kit
        self._hub = hub
        self._toolbox = toolbox
        self._wake = wake
        self._session = session
        self._trees = trees
        self.guest = False  # only take letters: the work is another process's
        self.worked = False  # whether we ever owned it
        self._known = asyncio.Event()  # whether we own the session
        self._mail = asyncio.Event()
        self._mail.set()
        self._draining = asyncio.Lock()
        self._effect: asyncio.Task[None] | None = None
        self._drain_task: asyncio.Task[None] | None = None
        self._work: Work | None = None
        self._rewinding = False  # a rewind waits for the end of the turn
        self._retry = (0, 0.0)  # a retry's time by the wall clock, and by the monotonic one

    def post_arrived(self) -> None:
        """Something may have been put into the session's inbox."""
        self._mail.set()
        if self._effect is not None and self._drain_task is None:
            self._drain_task = asyncio.create_task(self._drain_aside())

    def woken_again(self) -> bool:
        """True once when mail came that no loop has looked at: after `run`, start over."""
        waiting = self._mail.is_set()
        self._mail.clear()
        return waiting

    async def owns(self) -> bool:
        """Wait until it is known whether this driver works on its session, and say so."""
        await self._known.wait()
        return self._work is not None

    def over(self) -> None:
        """This driver will not work (any more)."""
        self._known.set()

    async def run(self) -> None:
        """Own the session and work until it rests and stays at rest for a while.

        Raises `SessionBusy` when another live process owns it, `LeaseLost` when one has taken it
        over, `CorruptJournal` when its journal cannot be followed, `NotFound` (E-AGENT-MISSING)
        when this process does not have the agent's code: then nothing was touched.
        """
        claim = await self._kit.store.claim(self._session)
        journal = await self.journal_type.open(self._kit, claim)
        journal.published = lambda events, state: self._hub.publish(self._session, events, state)
        place = self.place_type(self._kit, journal)
        aside = self._kit.clerk or self.guest
        ledger = Ledger()
        if self._trees is not None and not aside:
            ledger = await self._trees.enter(journal.state)
        work = Work(
            self._kit, self._hub, journal, place, self._tools, self._wake, self._trees, ledger
        )
        try:
            if not aside:
                self._work = work
                self.worked = True
                self._known.set()
            # A clerk counts a dead owner too: after it the session looks as if left in order.
            await self._recover(work, clean=claim.clean)
            if aside:
                await self._drain(work)
                await journal.durable()
                return
            await self._loop(work)
        finally:
            self._work = None
            await self._leave(work)

    async def _leave(self, work: Work) -> None:
        """Let go of everything, in the order in which a crash would hurt least."""
        if self._drain_task is not None:
            await asyncio.wait({self._drain_task})
        try:
            await work.place.close()
        finally:
            await work.journal.close()
            await self._kit.store.release(work.journal.claim)

    async def _tools(self) -> Mapping[str, Tool]:
        assert self._work is not None
        return await self._toolbox(self._work.state.spec)

    async def _recover(self, work: Work, *, clean: bool) -> None:
        """Count a dead owner before anything is tried; park a session that kills its owners."""
        state = work.state
        if clean or state.seq == 0 or state.turn is None:
            return
        if isinstance(next_step(state), due.Rest | due.Ask):
            return
        attempt = state.recoveries + 1
        work.journal.append(e.SessionRecovered(work.journal.claim.epoch, attempt))
        if attempt > self._kit.bounds.recoveries:
            work.journal.append(e.SessionParked(poison(attempt)))
        await work.journal.durable()

    async def _loop(self, work: Work) -> None:
        while True:
            if self._rewinding and work.state.turn is None:
                self._mail.set()
            await self._drain(work)
            step = next_step(work.state) if work.state.seq else due.Rest("idle")
            if isinstance(step, due.Rest):
                await work.journal.durable()
                if await self._wait(self._kit.bounds.idle_s):
                    continue
                if self._trees is not None and self._trees.below(self._session):
                    continue  # subagents are at work, and their budget is kept with us
                return
            try:
                await self._perform(work, step)
            except (LeaseLost, StaleAppend, CorruptJournal, NotFound):
                raise
            except PerdureError as error:
                if work.journal.failure is not None:
                    raise
                await self._park(work, parked_by(error))
            except Exception as error:  # noqa: BLE001  # one session, parked, and the rest go on
                _LOG.exception("session.failed session=%s", self._session)
                await self._park(work, our_fault(error))

    async def _park(self, work: Work, error: ErrorInfo) -> None:
        """Park, and let the sandbox go: whoever resumes begins with one that may be whole again."""
        work.journal.append(e.SessionParked(error))
        with contextlib.suppress(PerdureError):
            await work.place.close()

    async def _perform(self, work: Work, step: due.Step) -> None:
        over = self._over(work, step)
        match step:
            case due.RestoreWorkspace(snapshot=snapshot):
                await work.place.restore(snapshot)
            case due.BeginTurn(input=seq):
                work.journal.append(e.TurnStarted(seq))
            case due.EndTurn(status=status, error=error):
                await end_turn(work, status, error)
            case due.RequestTools(calls=calls):
                await request_tools(work, calls)
            case due.Settle(calls=calls):
                settle(work, calls)
            case due.RecoverModel():
                await recover_model(work)
            case due.CallModel() | due.RunTools() if over is not None:
                await end_turn(work, "budget", over)
            case due.CallModel(not_before_us=when):
                await self._model_in_time(work, when)
            case due.RunTools() | due.RecoverTools():
                perform = run_tools if isinstance(step, due.RunTools) else recover_tools
                await self._effectful(work, perform(work, step.calls))
            case due.Ask(until_us=until):
                await self._ask(work, until)
            case due.Rest():
                pass

    def _over(self, work: Work, step: due.Step) -> ErrorInfo | None:
        """Return which limit forbids the step: the turn's time, or the tree's tool calls."""
        over = overdue(work.state, self._kit.clock.now_us())
        if over is None and isinstance(step, due.RunTools):
            return work.ledger.admit(work.state.id, step.calls)
        return over

    async def _model_in_time(self, work: Work, when_us: int | None) -> None:
        """Call the model, or wait until that is due; mail ends the waiting early.

        The wall clock is asked once for each retry: one that is set back later, or was set back
        while nobody worked here, makes nothing wait longer than any retry may.
        """
        monotonic = self._kit.clock.monotonic
        if when_us is not None and self._retry[0] != when_us:
            early_s = (when_us - self._kit.clock.now_us()) / 1_000_000
            self._retry = (when_us, monotonic() + min(early_s, LONGEST_S))
        wait_s = 0.0 if when_us is None else self._retry[1] - monotonic()
        if wait_s <= 0 or not await self._wait(wait_s):
            await self._effectful(work, call_model(work))

    async def _effectful(self, work: Work, effect: Coroutine[Any, Any, None]) -> None:
        """Perform an effect that an interrupt may cut short."""
        self._effect = asyncio.create_task(effect, name=f"effect {self._session}")
        if self._mail.is_set():
            self.post_arrived()
        try:
            await self._effect
        except asyncio.CancelledError:
            if not work.interrupting or self._told_to_go():
                self._effect.cancel()
                await asyncio.wait({self._effect})
                raise
        except BaseExceptionGroup as group:
            raise first(group) from group
        finally:
            self._effect = None
            work.interrupting = False

    @staticmethod
    def _told_to_go() -> bool:
        """Whether it is the driver itself that is to end, in the midst of an interrupt even."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def _drain_aside(self) -> None:
        """Take letters while an effect runs; an interrupt among them stops the effect."""
        try:
            work = self._work
            if work is None or work.journal.failure is not None:
                return
            while self._mail.is_set():
                await self._drain(work)
            turn = work.state.turn
            if work.interrupting:
                return  # it is being stopped already, subagents and all
            if turn is not None and turn.interrupted and self._effect is not None:
                work.interrupting = True
                self._effect.cancel()
        except PerdureError:
            self._mail.set()  # the main loop will meet the same error and deal with it
        finally:
            self._drain_task = None

    async def _drain(self, work: Work) -> None:
        """Take what lies in the inbox into the journal."""
        # The lock comes first: letters that are being taken aside must be in before we go on.
        async with self._draining:
            if not self._mail.is_set():
                return
            self._mail.clear()
            for letter in await work.journal.inbox():
                for_post = self._read(letter.body)
                if isinstance(for_post, str):
                    work.journal.append(e.NoteRecorded(for_post), taken=letter.key)
                    continue
                if not isinstance(for_post, Rewind):
                    await self._take(work, for_post, letter.key, taken=letter.key)
                elif work.state.turn is not None:
                    # The letter stays, and what came after it, until the turn is over.
                    self._rewinding = True
                    if not _stopped(work.state):
                        name = f"{letter.key}:{work.state.seq}"
                        await self._take(work, Say("interrupt", by=for_post.by), name)
                    return
                else:
                    await self._rewind(work, for_post, letter.key)

    async def _take(self, work: Work, post: Post, key: str, taken: str = "") -> None:
        """Write down what a letter means, and pass on what concerns subagents."""
        await self._relay(work, post, key)
        work.journal.append(*accept(work.state, post, key), taken=taken)
        await self._relay(work, post, key)

    async def _relay(self, work: Work, post: Post, key: str) -> None:
        if self._trees is not None:
            await self._trees.relay(work.state, post, key)

    async def _rewind(self, work: Work, post: Rewind, key: str) -> None:
        """Go back, unless the event is not in the session's own past."""
        self._rewinding = False
        if not 0 < post.to < work.state.seq or work.state.closed:
            work.journal.append(*accept(work.state, post, key), taken=key)
            return
        await work.journal.durable()
        store = self._kit.store
        base, later = await cut(store, self._session, post.to)
        unsafe = tuple(left_since(base, later))
        work.journal.rewind(e.SessionRewound(base.seq, post.by, unsafe), base, taken=key)
        await work.journal.durable()

    @staticmethod
    def _read(body: bytes) -> Post | str:
        try:
            return _POSTS.read(body)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return f"A letter could not be read and was put aside: {error}"

    async def _ask(self, work: Work, until_us: int | None) -> None:
        """Wait for people; close what has expired."""
        await work.journal.durable()
        now_us = self._kit.clock.now_us()
        for action in tuple(work.state.actions.values()):
            if action.expires_at_us is not None and action.expires_at_us <= now_us:
                reason = "nobody decided in time"
                work.journal.append(e.ActionResolved(action.id, "expired", reason=reason))
                return
        await self._wait(None if until_us is None else (until_us - now_us) / 1_000_000)

    async def _wait(self, seconds: float | None) -> bool:
        """Wait for mail, at most `seconds`. False when none came."""
        try:
            async with asyncio.timeout(seconds):
                await self._mail.wait()
            return True
        except TimeoutError:
            return False


def _stopped(state: State) -> bool:
    """Whether an interrupt is already ending the turn that is open."""
    return state.turn is not None and state.turn.interrupted and not resting(state)
