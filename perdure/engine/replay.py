"""Replay: run the engine's own code over a recorded journal and compare what it writes.

Free and read-only: no model is called, no tool is run, nothing is stored. What came from outside
(people, providers, tools, sandboxes, clocks, crashes) is taken from the record at the place where
it came; all that the engine decided by itself is decided anew and must be the same bytes.

A process may die, or stop in order, wherever it waits. So an event that the work in progress does
not lead to may also be what a new process would do; only if neither fits is it a divergence.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace as with_changes

import msgspec

from perdure.core import events as e, step as due
from perdure.core.agent import AgentSpec, Effect
from perdure.core.budget import Price, Prices
from perdure.core.errors import CorruptJournal
from perdure.core.events import Event
from perdure.core.state import CallState, Phase, State
from perdure.core.step import next_step
from perdure.core.timeline import left_since
from perdure.engine.driver import Driver
from perdure.engine.given import Trust, is_fact, meant, stops_outside
from perdure.engine.hub import Hub
from perdure.engine.kit import Bounds, Kit
from perdure.engine.recording import RecordedTime, Recording, Retold
from perdure.engine.stage import (
    Stage,
    ToldHeld,
    ToldPlace,
    ToldRules,
    no_store,
    told_tools,
)
from perdure.engine.told_models import ToldBreakers, ToldModels
from perdure.engine.wording import difference, due_in_words
from perdure.engine.work import Work
from perdure.ports.tool import Tool

_STILL = 24  # turns of the event loop without any activity, after which nothing more will come
_FREE = Price(0.0, 0.0)
_ANY = 1_000_000_000
_STOPPABLE = (due.CallModel, due.RunTools, due.Compact)


class Divergence(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first event that is not what the engine writes now, in words and as data."""

    seq: int
    text: str
    recorded: e.Payload | None = None
    computed: e.Payload | None = None


class ReplayReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a replay found. `events` were reproduced; `money` says whether prices were checked."""

    session: str
    events: int
    divergence: Divergence | None = None
    money: bool = False

    @property
    def identical(self) -> bool:
        """Whether every event came out the same."""
        return self.divergence is None

    def __str__(self) -> str:
        if self.divergence is not None:
            return f"{self.session} diverges at event {self.divergence.seq}: {self.divergence.text}"
        return f"{self.session}: {self.events} events, all identical"


async def replay(
    events: Sequence[Event], *, prices: Prices | None = None, agent: AgentSpec | None = None
) -> ReplayReport:
    """Run the engine over a recorded journal (or the beginning of one).

    Without `prices` the recorded costs are believed. With `agent` the decisions of that
    definition (permissions, schemas, effects, limits, retries) are compared with the recorded
    ones; its wording and its model are left out of the comparison.
    """
    replayer = _Replayer(events, prices, agent)
    divergence = await replayer.run()
    name = replayer.session
    return ReplayReport(name, replayer.recording.done, divergence, prices is not None)


class _Diverged(Exception):
    """Carries the divergence to where the replay ends."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(divergence.text)
        self.divergence = divergence


class _Hand(Driver):
    """The engine's hand: performs one step when told to, and waits for nobody."""

    def __init__(self, kit: Kit, hub: Hub, work: Work) -> None:
        super().__init__(kit, hub, lambda _spec: work.tools(), lambda _name: None, "")
        self._mail.arrived.clear()
        self._doing = work

    async def perform(self, step: due.Step) -> None:
        """Perform a step as a driver does."""
        await self._perform(self._doing, step)

    async def recover(self, attempts_max: int) -> None:
        """Count a dead owner as a driver does."""
        self._kit = with_changes(self._kit, bounds=Bounds(recoveries=attempts_max))
        await self._recover(self._doing, clean=False)

    async def _time_has_come(self, work: Work, when_us: int | None) -> bool:
        """Whether the record goes on with the attempt; clocks that were set have no say in it."""
        seq = work.state.seq
        return await super()._time_has_come(work, when_us) or work.state.seq == seq

    async def _wait(self, seconds: float | None) -> bool:
        return False


class _Replayer:
    def __init__(
        self, events: Sequence[Event], prices: Prices | None, agent: AgentSpec | None
    ) -> None:
        self.recording = Recording(events)
        self._trust = Trust(money=prices is not None, agent=agent)
        self._time = RecordedTime(self.recording)
        self._stage = Stage(self.recording)
        self._kit = Kit(
            store=no_store(),
            clock=self._time,
            ids=self._time,
            models=ToldModels(self._stage),
            prices={"*": _FREE} if prices is None else prices,
            bounds=Bounds(parallel_reads=_ANY),
            breakers=ToldBreakers(self._stage),
        )
        self._hub = Hub(1)
        self._journal = Retold(self._kit, self.recording, self._time, self._trust)
        self._stage.journal = self._journal
        self._place = ToldPlace(self._kit, self._journal, self._stage)
        self._doing: asyncio.Task[None] | None = None
        self._suspect: Event | None = None  # what was written in the place of the event due
        self._failure: BaseException | None = None  # what the work in progress died of

    @property
    def session(self) -> str:
        """The session's id as far as it is known."""
        return self._journal.kept.id or "the journal"

    async def run(self) -> Divergence | None:
        """Account for every event; return the first that cannot be accounted for."""
        try:
            while (event := self.recording.ahead()) is not None:
                self._suspect = self._failure = None
                done = self.recording.done
                await self._account_for(event)
                if self.recording.done == done:  # only a journal that no engine can have written
                    text = "the record says again what it has said already"
                    return Divergence(done + 1, text, event.payload)
        except _Diverged as diverged:
            return diverged.divergence
        except CorruptJournal as error:
            seq = self.recording.done + 1
            return Divergence(seq, error.message, self.recording.due)
        finally:
            await self._abandon()
        return None

    async def _account_for(self, event: Event) -> None:
        if self._journal.take():
            return
        if is_fact(event, self.recording.previous):
            await self._accept(event)
            return
        for fresh in (False, True, True):
            if fresh and not self._begin(event):
                break
            if self._doing is not None and await self._arrives(event):
                return
            self._suspect = self._suspect or self._journal.first_ahead
            self._check_torn(event)
            await self._abandon()
        raise _Diverged(self._divergence(event))

    async def _accept(self, event: Event) -> None:
        """Take what came from outside. Work in progress ends where the record says so."""
        match event.payload:
            case e.SessionForked():
                await self._abandon()
            case e.NoteRecorded(imported=int() as many) if many:
                await self._abandon()  # what was in flight stayed where the journal came from
            case e.EnvironmentOpened() if _in_sandbox(self._journal.kept):
                await self._abandon()  # whoever had it open is gone: this is another process
            case e.SessionParked() | e.SessionRewound():
                self._check_torn(event)
                await self._abandon()
            case e.InputAccepted() | e.SessionUpdated() | e.SignalReceived() if self._just_opened:
                if self._doing is None:
                    self._begin(event)  # who opened it had begun, whatever the letter says
            case _:
                self._check_torn(event)
        self._check_fact(event)
        self._journal.accept(event)

    @property
    def _just_opened(self) -> bool:
        """Whether the last thing that happened is that somebody opened the environment."""
        before = self.recording.previous
        return before is not None and isinstance(before.payload, e.EnvironmentOpened)

    def _check_fact(self, event: Event) -> None:
        """Compare what the engine makes of a letter, where that is not plain."""
        state = self._journal.kept
        turn = state.turn.number if state.turn else 0
        expected = meant(event.payload, state)
        if isinstance(event.payload, e.SessionRewound):
            to = event.payload.to
            later = self.recording.events[to : event.seq - 1]
            unsafe = tuple(left_since(self._journal.past(to), later))
            expected = (e.SessionRewound(to, event.payload.by, unsafe),)
        for place, payload in enumerate(expected):
            recorded = self.recording.ahead(place)
            made = Event(event.seq + place, event.id, event.at_us, turn, payload)
            if recorded is None or not self._journal.same(made, recorded):
                self._suspect = made
                raise _Diverged(self._divergence(recorded or event))

    def _begin(self, event: Event) -> bool:
        """Begin what is due in the state now; False when nothing is that could lead to an event."""
        self._journal.deaf = False
        work = Work(
            self._kit, self._hub, self._journal, self._place, self._tools, lambda _name: None,
            rules=ToldRules(self._stage),
        )  # fmt: skip
        self._stage.work = work
        hand = _Hand(self._kit, self._hub, work)
        hand.held = ToldHeld(self._stage, self._time)
        if isinstance(event.payload, e.SessionRecovered):
            self._doing = asyncio.create_task(hand.recover(self._patience(event.payload)))
            return True
        step = next_step(self._journal.kept)
        if isinstance(step, due.Rest):
            return False
        if isinstance(step, due.RunTools):
            step = due.RunTools(_as_begun(step.calls, self.recording), step.not_before_us)
        ended = self._ending()
        error = ended.error if ended and isinstance(step, _STOPPABLE) else None
        if stops_outside(error, self._journal.kept, self._trust):
            step = due.EndTurn("budget", error)
        self._time.looked_at_us = self._looked_at(event, ended)
        self._doing = asyncio.create_task(hand.perform(step))
        return True

    def _patience(self, recovered: e.SessionRecovered) -> int:
        """Return how many dead owners were allowed then."""
        after = self.recording.ahead(1)
        parked = after.payload if after else None
        if isinstance(parked, e.SessionParked) and parked.error.code == "E-SESSION-POISON":
            return recovered.attempt - 1
        return recovered.attempt

    def _looked_at(self, event: Event, ended: e.TurnEnded | None) -> int:
        """Return when the engine looked whether the turn had used up its time.

        That was some time between the last event and the next; whichever of the two agrees.
        """
        before = self._journal.kept.updated_at_us
        why = ended.error if ended else None
        if why is not None and why.code == due.limit_reached("wall_s", "").code:
            return max(before, event.at_us)
        return min(before, event.at_us)

    def _ending(self) -> e.TurnEnded | None:
        """Return the end of the turn, if that is what comes next; open calls are closed first."""
        event, steps = self.recording.ahead(), 0
        while event is not None and isinstance(
            event.payload, e.ToolFinished | e.EnvironmentRestored
        ):
            steps += 1
            event = self.recording.ahead(steps)
        payload = event.payload if event else None
        return payload if isinstance(payload, e.TurnEnded) else None

    async def _tools(self) -> Mapping[str, Tool]:
        await asyncio.sleep(0)
        return told_tools(self._stage)

    async def _arrives(self, event: Event) -> bool:
        """Let the work in progress go on until the event is written, or until it stands still."""
        still = 0
        while self.recording.done < event.seq:
            seen = self._journal.activity
            patience = still > _STILL // 2
            if self._journal.take() or self._stage.open(patience=patience):
                still = 0
            over = self._doing is None or self._doing.done()
            self._journal.burst += 1
            await asyncio.sleep(0)
            still = still + 1 if self._journal.activity == seen else 0
            if still and over and not self._journal.take():
                return self.recording.done >= event.seq
            if still > _STILL:
                return False
        return True

    def _check_torn(self, event: Event) -> None:
        """Nothing comes between two events of one breath, not even a crash."""
        torn = self._journal.torn
        if torn is not None:
            self._suspect = self._suspect or torn
            raise _Diverged(self._divergence(event))

    async def _abandon(self) -> None:
        """Let the work in progress die where it is, like a process that was killed."""
        self._journal.deaf = True
        self._journal.drop_ahead()
        doing, self._doing = self._doing, None
        if doing is not None:
            self._stage.abandon()
            doing.cancel()
            await asyncio.wait({doing})
            self._stage.leaving = False
            if not doing.cancelled() and doing.exception() is not None:
                self._failure = doing.exception()

    def _divergence(self, event: Event) -> Divergence:
        """Say in words what was recorded and what the engine would do now."""
        made = self._suspect
        if made is None:
            text = f"recorded was {due_in_words(event)}, but now {self._instead()}"
            return Divergence(event.seq, text, event.payload)
        return Divergence(event.seq, difference(event, made), event.payload, made.payload)

    def _instead(self) -> str:
        if self._failure is not None:
            return f"the engine fails: {type(self._failure).__name__}: {self._failure}"
        match next_step(self._journal.kept) if self._journal.kept.seq else due.Rest("empty"):
            case due.Rest(why):
                return f"nothing is due: the session is {why}"
            case due.Ask():
                return "the session waits for a person"
            case due.Sleep():
                return "the session sleeps"
            case step:
                return f"what is due is {type(step).__name__}"


def _as_begun(calls: tuple[CallState, ...], recording: Recording) -> tuple[CallState, ...]:
    """Return the calls that are to run, in the order in which they began where that was open:
    reads run side by side, and what a person allowed while others were about to run came later.
    """
    began = {call.call.id: recording.began(call.call.id) for call in calls}
    free = [c for c in calls if c.effect is Effect.READ or c.approved]
    if not free:
        return calls
    bound = [began[c.call.id] for c in calls if c not in free]
    if bound != sorted(bound):
        return calls  # these have an order of their own: whoever broke it is to be seen
    return tuple(sorted(calls, key=lambda c: began[c.call.id]))


def _in_sandbox(state: State) -> bool:
    """Whether a call has left that works in the environment, and nobody else was there since: its
    process has the environment open.
    """
    tools = {tool.name for tool in state.spec.tools if tool.environment}
    newest = max((call.epoch for call in state.open_calls), default=0)
    left = [c for c in state.open_calls if c.phase is Phase.STARTED and c.call.tool in tools]
    return any(call.epoch == newest for call in left)
