"""A recorded journal that the engine's own code is run against.

`Retold` stands in the engine's hands where a `Journal` would: what is appended to it is compared
with what was recorded, and the state moves on with the record. Nothing is written anywhere.
"""

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.content import ContextItem
from perdure.core.context import Transcript
from perdure.core.errors import CorruptJournal
from perdure.core.events import Event, Payload
from perdure.core.evolve import evolve, fold
from perdure.core.grants import Grant
from perdure.core.journal import GENESIS
from perdure.core.state import State
from perdure.core.timeline import effective, rewound
from perdure.engine.given import Trust, redefined, with_facts
from perdure.engine.journal import Journal
from perdure.engine.kit import Kit
from perdure.ports.store import Claim

LOOKED_US: Final = 1_000_000  # between looking at the clock and the time an event got


class Recording:
    """The recorded events, and how many of them are accounted for."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.done = 0

    def ahead(self, steps: int = 0) -> Event | None:
        """Return the event that is due, or one that many events after it."""
        at = self.done + steps
        return self.events[at] if at < len(self.events) else None

    @property
    def previous(self) -> Event | None:
        """Return the event before the one that is due."""
        return self.events[self.done - 1] if self.done else None

    def granted(self, call_id: str) -> Grant | None:
        """Return what had allowed a call, if it was something that a person had granted before."""
        for event in reversed(self.events[: self.done + 1]):
            if isinstance(event.payload, e.ToolRequested) and event.payload.call_id == call_id:
                return event.payload.grant
        return None

    def next_of(self, call_id: str) -> Payload | None:
        """Return what is recorded next of a call, up to the end of its turn."""
        for event in islice(self.events, self.done, None):
            if getattr(event.payload, "call_id", "") == call_id:
                return event.payload
            if isinstance(event.payload, e.TurnEnded | e.SessionRewound | e.SessionForked):
                break
        return None

    def began(self, call_id: str) -> int:
        """Return how many events from now a call begins to run or to wait; at the end of the
        journal when it does not in its turn.
        """
        for steps, event in enumerate(islice(self.events, self.done, None)):
            match event.payload:
                case e.ToolStarted(call_id=name) | e.TimerSet(call_id=name) if name == call_id:
                    return steps
                case e.TurnEnded() | e.SessionRewound() | e.SessionForked():
                    break
                case _:
                    pass
        return len(self.events)

    @property
    def due(self) -> Payload | None:
        """What the event that is due says."""
        event = self.ahead()
        return event.payload if event else None


class RecordedTime:
    """Clock and ids that say again what they said then."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.stamp: Event | None = None  # the event being made
        self.looked_at_us: int | None = None  # what a performer reads that looks at the clock once

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        if self.looked_at_us is not None:
            looked, self.looked_at_us = self.looked_at_us, None
            return looked
        if self.stamp is not None:
            return self.stamp.at_us
        event = self._recording.ahead()
        return self._looked_at(event) if event else 0

    def _looked_at(self, event: Event) -> int:
        """Return when the engine looked before it wrote an event: at most that event's time.

        A grant may have ended between the look and the event.
        """
        call_id = getattr(event.payload, "call_id", "")
        grant = self._recording.granted(call_id) if call_id else None
        end = grant.until_us if grant else None
        early = end is not None and end <= event.at_us < end + LOOKED_US
        return end - 1 if end is not None and early else event.at_us

    def monotonic(self) -> float:
        """See `Clock.monotonic`. Nothing is waited for."""
        return 0.0

    def event(self, at_us: int) -> str:
        """See `Ids.event`."""
        return self.stamp.id if self.stamp else ""

    def session(self) -> str:
        """See `Ids.session`: a replay makes none."""
        raise AssertionError("a replay begins no session")

    def random(self) -> float:
        """See `Ids.random`. What the dice said is read back from the time of the retry."""
        return 0.0


class _Ahead(NamedTuple):
    """Something the engine wrote that the record has not come to yet."""

    task: object
    burst: int
    event: Event


class Retold(Journal):
    """The journal of a replay. `state` is the recorded state plus what was written ahead of it."""

    def __init__(self, kit: Kit, recording: Recording, time: RecordedTime, trust: Trust) -> None:
        super().__init__(kit, Claim("", 0, 0, GENESIS, clean=True), State(), 0)
        self.activity = 0  # grows with everything that happens, so that standstill can be seen
        self.burst = 0  # one number for all that a task writes without letting others run
        self.deaf = False  # what is abandoned writes nothing more
        self._recording = recording
        self._time = time
        self._trust = trust
        self._kept = State()
        self._read = Transcript()
        self._ahead: list[_Ahead] = []
        self._bursts: dict[object, int] = {}

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Compare with the record, or keep until the record has come so far."""
        if self.deaf:
            return
        self.activity += 1
        for payload in payloads:
            event = self._made(payload)
            task = asyncio.current_task()
            due = self._recording.ahead()
            if not self._ahead and due is not None and self.same(event, due):
                self._bursts[task] = self.burst
                self._keep(due)
            else:
                self._ahead.append(_Ahead(task, self.burst, event))
                self._guess()

    def take(self) -> bool:
        """Account for the event that is due with something written ahead, if it is there."""
        due = self._recording.ahead()
        firsts: set[object] = set()
        for place, each in enumerate(self._ahead):
            if each.task in firsts:
                continue  # what one task writes comes in its order; tasks may overtake each other
            firsts.add(each.task)
            if due is not None and self.same(each.event, due):
                del self._ahead[place]
                self._bursts[each.task] = each.burst
                self._keep(due)
                return True
        return False

    def accept(self, event: Event) -> None:
        """Go on with an event that came from outside, as it was recorded."""
        self._keep(event)

    def same(self, made: Event, recorded: Event) -> bool:
        """Whether the engine wrote what was recorded, byte for byte."""
        payload = with_facts(made.payload, recorded, self._kept, self._trust)
        return made.turn == recorded.turn and encode(payload) == encode(recorded.payload)

    def drop_ahead(self) -> None:
        """Forget what was written ahead: it never reached the disk."""
        self._ahead.clear()
        self._bursts.clear()
        self._guess()

    @property
    def torn(self) -> Event | None:
        """Something that was written in one breath with a recorded event, but is not recorded.

        No crash can cut there: such events reach the disk together.
        """
        return next((a.event for a in self._ahead if self._bursts.get(a.task) == a.burst), None)

    @property
    def first_ahead(self) -> Event | None:
        """What the engine wrote instead of the event that is due."""
        due = self._recording.ahead()
        alike = [a.event for a in self._ahead if due is not None and a.event.type == due.type]
        return next(iter(alike or [a.event for a in self._ahead]), None)

    @property
    def kept(self) -> State:
        """The state of what is accounted for."""
        return self._kept

    def past(self, until: int | None = None) -> State:
        """Return the state at event `until`, under the definitions this replay uses."""
        events = self._recording.events[:until]
        return fold(redefined(event, self._trust) for event in events)

    async def durable(self) -> None:
        """Let others run, as a disk would."""
        await asyncio.sleep(0)

    async def transcript(self) -> Transcript:
        """Return what the model reads."""
        await asyncio.sleep(0)
        return self._read

    def items(self) -> list[ContextItem]:
        """See `Journal.items`."""
        return self._read.items

    def _made(self, payload: Payload) -> Event:
        events = self._recording.events
        self._time.stamp = events[min(self.state.seq, len(events) - 1)]
        try:
            return self._event(payload)
        finally:
            self._time.stamp = None

    def _keep(self, recorded: Event) -> None:
        event = redefined(recorded, self._trust)
        self._recording.done += 1
        self.activity += 1
        if isinstance(event.payload, e.SessionRewound):
            self._kept = rewound(self.past(event.payload.to), self._kept, event)
            self._read = Transcript(effective(self._recording.events[: self._recording.done]))
        else:
            self._kept = evolve(self._kept, event)
            self._read.apply(event)
        self._guess()

    def _guess(self) -> None:
        """Let the state be what is accounted for and what was written ahead of it."""
        self.state = self._kept
        for each in self._ahead:
            self.state = _guessed(self.state, each.event)
        self.noted(self.state)


def _guessed(state: State, event: Event) -> State:
    """Fold what may turn out wrong; where it cannot follow, the comparison will say so."""
    try:
        return evolve(state, Event(state.seq + 1, event.id, event.at_us, event.turn, event.payload))
    except CorruptJournal:
        return state
