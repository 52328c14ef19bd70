"""Driving one session: claim it, read it, do what is due until nothing is.

A driver lives while its session has work and a little longer. It never decides anything: it asks
`next_step`, performs the answer, and lets the journal change the state. A new process that finds
the journal of a dead one does exactly the same.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from perdure.core import events as e, step as due
from perdure.core.agent import AgentSpec
from perdure.core.errors import (
    CorruptJournal,
    ErrorInfo,
    LeaseLost,
    NotFound,
    PerdureError,
    StaleAppend,
)
from perdure.core.step import next_step
from perdure.engine.compaction import compact, repair
from perdure.engine.endings import end_turn
from perdure.engine.hub import Hub
from perdure.engine.journal import Journal, lost
from perdure.engine.kit import Kit
from perdure.engine.ledger import Ledger
from perdure.engine.mail import Mail
from perdure.engine.model_calls import call_model, recover_model
from perdure.engine.owning import owned
from perdure.engine.recovery import recover_tools
from perdure.engine.retry import LONGEST_S
from perdure.engine.stops import first, our_fault, overdue, parked_by, poison, time_left_s
from perdure.engine.tool_calls import request_tools, run_tools, settle
from perdure.engine.trees import Trees
from perdure.engine.waits import Held, end_overdue
from perdure.engine.ways import way_of
from perdure.engine.work import Place, Work
from perdure.ports.store import Claim
from perdure.ports.tool import Tool

Toolbox = Callable[[AgentSpec], Awaitable[Mapping[str, Tool]]]
_LOG = logging.getLogger("perdure")
_LOOK_AGAIN_S: Final = 30.0
_BOOKS: Final = due.EndTurn | due.RequestTools | due.Settle  # what is written without an effect


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
        self.left_work = False  # whether, as a guest, we left something to do for its owner
        self._known = asyncio.Event()  # whether we own the session
        self._mail = Mail(kit.store, session, trees)
        self._effect: asyncio.Task[None] | None = None
        self._drain_task: asyncio.Task[None] | None = None
        self._work: Work | None = None
        self._task: asyncio.Task[Any] | None = None
        self._held_up = (0, 0)  # the turn and the model call that a breaker held up last
        self._retry = (0, 0.0)  # a retry's time by the wall clock, and by the monotonic one
        self.held = Held(kit.clock)
        self._lost = self._finishing = False

    def finish(self) -> None:
        """End what is running and begin nothing: the process is about to end in order."""
        self._finishing = True
        self._mail.arrived.set()

    def post_arrived(self) -> None:
        """Something may have been put into the session's inbox."""
        self._mail.arrived.set()
        if self._effect is not None and self._drain_task is None:
            self._drain_task = asyncio.create_task(self._drain_aside())

    def stop_if_lost(self) -> None:
        """End what is running, at once, when the store knows that the session is not ours any
        more: who owns it now may have begun the same.
        """
        work, task = self._work, self._task
        if work is None or task is None or self._kit.store.holds(work.journal.claim) or self._lost:
            return
        self._lost = True
        work.journal.lose()
        task.cancel()

    def woken_again(self) -> bool:
        """True once when mail came that no loop has looked at: after `run`, start over."""
        waiting = self._mail.arrived.is_set()
        self._mail.arrived.clear()
        return waiting

    async def owns(self) -> bool:
        """Wait until it is known whether this driver works on its session, and say so."""
        await self._known.wait()
        return self._work is not None

    def over(self) -> None:
        """This driver will not work (any more)."""
        self._known.set()

    async def run(self) -> None:
        """Own the session and work until it rests, or sleeps, and does so for a while.

        Raises `SessionBusy` when another live process owns it, `LeaseLost` when one took it over,
        `CorruptJournal`, `NotFound` (E-AGENT-MISSING) without the agent's code: untouched then.
        """
        self._task = asyncio.current_task()
        try:
            await self._run()
        except asyncio.CancelledError:
            if not self._lost or self._task is None or self._task.uncancel():
                raise  # it was told to go by somebody else
            raise lost(self._session) from None

    async def _run(self) -> None:
        async with owned(self._kit, self._session) as claim:
            await self._own(claim)

    async def _own(self, claim: Claim) -> None:
        journal = await self.journal_type.open(self._kit, claim)
        journal.published = lambda events, state: self._hub.publish(self._session, events, state)
        place = self.place_type(self._kit, journal)
        aside = journal.left = self._kit.clerk or self.guest
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
                await self._mail.drain(work)
                await journal.durable()
                idle = due.Rest | due.Ask | due.Sleep
                self.left_work = not self._kit.clerk and not isinstance(next_step(work.state), idle)
                return
            await self._loop(work)
        except NotFound:
            await journal.leave_to_others()
            raise
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

    async def _tools(self) -> Mapping[str, Tool]:
        assert self._work is not None
        return await self._toolbox(self._work.state.spec)

    async def _recover(self, work: Work, *, clean: bool) -> None:
        """Count a dead owner before anything is tried; park a session that kills its owners."""
        state = work.state
        if clean or state.seq == 0 or state.turn is None:
            return
        if isinstance(next_step(state), due.Rest | due.Ask | due.Sleep):
            return
        attempt = state.recoveries + 1
        work.journal.append(e.SessionRecovered(work.journal.claim.epoch, attempt))
        if attempt > self._kit.bounds.recoveries:
            work.journal.append(e.SessionParked(poison(attempt)))
        await work.journal.durable()

    async def _loop(self, work: Work) -> None:
        while True:
            self._mail.look_again(work)
            await self._mail.drain(work)
            step = next_step(work.state) if work.state.seq else due.Rest("idle")
            if self._finishing and not isinstance(step, _BOOKS):
                await work.journal.durable()
                return
            if isinstance(step, due.Rest) or self._sleeps_long(work, step):
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

    def _sleeps_long(self, work: Work, step: due.Step) -> bool:
        """Whether nothing comes due for so long that the session can be let go meanwhile."""
        if not isinstance(step, due.Sleep) or not self._kit.wakes:
            return False
        left_s = self.held.left_s(work.state)
        return left_s is None or left_s > self._kit.bounds.idle_s

    async def _park(self, work: Work, error: ErrorInfo) -> None:
        """Park, and let the sandbox go: whoever resumes begins with one that may be whole again."""
        work.journal.append(e.SessionParked(error))
        with contextlib.suppress(PerdureError):
            await work.place.close()

    async def _perform(self, work: Work, step: due.Step) -> None:
        over = self._over(work, step)
        match step:
            case due.CallModel() | due.RunTools() | due.Compact() if over is not None:
                await end_turn(work, "budget", over)
            case due.CallModel(not_before_us=when) | due.Compact(not_before_us=when):
                if await self._time_has_come(work, when) and await self._way_is_free(work):
                    await self._effectful(work, self._effect_of(work, step))
            case due.RunTools(not_before_us=when):
                if await self._time_has_come(work, when):
                    await self._effectful(work, self._effect_of(work, step))
            case due.RecoverTools():
                await self._effectful(work, self._effect_of(work, step))
            case due.Ask() | due.Sleep():
                if not end_overdue(work, self.held):
                    await self._rest(work)
            case _:
                await self._write_down(work, step)

    @staticmethod
    async def _write_down(work: Work, step: due.Step) -> None:
        """Perform what no interrupt cuts short."""
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
            case due.Repair():
                await repair(work)
            case _:
                pass

    @staticmethod
    def _effect_of(work: Work, step: due.Step) -> Coroutine[Any, Any, None]:
        """Return what an interrupt may cut short."""
        match step:
            case due.CallModel():
                return call_model(work)
            case due.Compact():
                return compact(work)
            case due.RunTools(calls=calls):
                return run_tools(work, calls)
            case due.RecoverTools(calls=calls):
                return recover_tools(work, calls)
            case _:
                raise AssertionError(f"no effect: {step}")

    def _over(self, work: Work, step: due.Step) -> ErrorInfo | None:
        """Return which limit forbids the step: the turn's time, or the tree's tool calls."""
        over = overdue(work.state, self._kit.clock.now_us())
        if over is None and isinstance(step, due.RunTools):
            return work.ledger.admit(work.state.id, step.calls)
        return over

    async def _time_has_come(self, work: Work, when_us: int | None) -> bool:
        """Wait until a retry is due; False when mail, or something else that is due, came first.

        The wall clock is asked once for each retry: one that is set back later, or was set back
        while nobody worked here, makes nothing wait longer than any retry may.
        """
        monotonic = self._kit.clock.monotonic
        if when_us is None:
            return True
        now_us = self._kit.clock.now_us()
        if self._retry[0] != when_us:
            early_s = (when_us - now_us) / 1_000_000
            self._retry = (when_us, monotonic() + min(early_s, LONGEST_S))
        wait_s = self._retry[1] - monotonic()
        if wait_s <= 0:
            return True
        if end_overdue(work, self.held):
            return False
        held_s = self.held.left_s(work.state)
        left_s = min(time_left_s(work.state, now_us), math.inf if held_s is None else held_s)
        if left_s < wait_s:
            await self._wait(left_s)
            return False  # whatever ended the waiting, it is looked at first
        return not await self._wait(wait_s)

    async def _way_is_free(self, work: Work) -> bool:
        """Whether the model may be called; else wait while its provider's breaker is open. After
        the waiting it is asked anew what is due. That we wait is written down once for a call.
        """
        way, turn = way_of(work), work.state.turn
        if way.wait_s <= 0 or turn is None:
            return True
        if self._held_up != (turn.number, turn.spent.steps):
            self._held_up = (turn.number, turn.spent.steps)
            work.journal.append(e.NoteRecorded(way.because))
            await work.journal.durable()
        left_s = time_left_s(work.state, self._kit.clock.now_us())
        await self._wait(min(way.wait_s, left_s))
        return False

    async def _effectful(self, work: Work, effect: Coroutine[Any, Any, None]) -> None:
        """Perform an effect that an interrupt may cut short."""
        self._effect = asyncio.create_task(effect, name=f"effect {self._session}")
        if self._mail.arrived.is_set():
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
            while self._mail.arrived.is_set():
                await self._mail.drain(work)
            turn = work.state.turn
            if work.interrupting:
                return  # it is being stopped already, subagents and all
            if turn is not None and turn.interrupted and self._effect is not None:
                work.interrupting = True
                self._effect.cancel()
        except PerdureError:
            self._mail.arrived.set()  # the main loop will meet the same error and deal with it
        finally:
            self._drain_task = None

    async def _rest(self, work: Work) -> None:
        """Wait for people and timers. What comes due is written down by the loop, which looks at
        the wall clock now and then: the machine itself may have slept.
        """
        await work.journal.durable()
        left_s = self.held.left_s(work.state)
        await self._wait(None if left_s is None else min(left_s, _LOOK_AGAIN_S))

    async def _wait(self, seconds: float | None) -> bool:
        """Wait for mail, at most `seconds`. False when none came."""
        try:
            async with asyncio.timeout(seconds):
                await self._mail.arrived.wait()
            return True
        except TimeoutError:
            return False
