"""What must hold where sessions were forked and taken back, checked against the world's record.

Which part of a past counts is worked out here once more, in another way than the engine's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from perdure.core import events as e
from perdure.core.agent import Effect, Verdict
from perdure.core.content import Text, ToolCall
from perdure.core.events import Event
from perdure.core.journal import Record
from perdure.core.state import Phase, State
from perdure.core.step import next_step
from perdure.core.timeline import effective
from perdure.testing import invariants
from perdure.testing.invariants import Run
from perdure.testing.sim_tools import spec_of


class Line(NamedTuple):
    """What counts at an event: letters that were written, letters that were read, calls."""

    letters: frozenset[int] = frozenset()
    read: frozenset[int] = frozenset()
    calls: frozenset[str] = frozenset()


class Lines:
    """The line of time that ends at each event of a journal."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self._calls: set[str] = set()
        self._lines = [Line()]

    def read(self, events: Sequence[Event]) -> "Lines":
        """Take the events that came since."""
        for event in events[len(self._lines) - 1 :]:
            self._lines.append(self._after(event))
        return self

    def undone_texts(self) -> set[str]:
        """Return what was written and counts no more."""
        return {text for text, seq in self.texts.items() if seq not in self._lines[-1].letters}

    def read_texts(self) -> set[str]:
        """Return what the model has been given to read, and still counts."""
        line = self._lines[-1]
        return {text for text, seq in self.texts.items() if seq in line.letters & line.read}

    def undone_calls(self) -> set[str]:
        """Return the calls that were made and count no more."""
        return self._calls - self._lines[-1].calls

    def _after(self, event: Event) -> Line:
        line = self._lines[-1]
        match event.payload:
            case e.SessionRewound(to=to):
                base = self._lines[to]
                waiting = {seq for seq in line.letters - line.read if seq > to}
                return base._replace(letters=base.letters | waiting)
            case e.InputAccepted(kind="message" | "steer", content=(Text(text=text), *_)):
                self.texts[text] = event.seq
                return line._replace(letters=line.letters | {event.seq})
            case e.TurnStarted(input=seq):
                return line._replace(read=line.read | {seq})
            case e.ModelRequested(steers=steers):
                return line._replace(read=line.read | set(steers))
            case e.ModelResponded(status="ok", items=items):
                made = {item.id for item in items if isinstance(item, ToolCall)}
                self._calls |= made
                return line._replace(calls=line.calls | made)
            case _:
                return line


class Cut(Protocol):
    """Where a fork was made."""

    @property
    def origin(self) -> str: ...

    @property
    def asked(self) -> int: ...

    @property
    def records(self) -> Sequence[Record]: ...


class BranchRun(Run, Protocol):
    """A run with forks that has come to its end."""

    @property
    def cuts(self) -> Mapping[str, Cut]: ...

    def states(self, session: str) -> list[State]: ...

    def lines(self, session: str) -> Lines: ...


Check = Callable[[BranchRun, str, list[Event]], Iterator[str]]


def check_branches(run: BranchRun) -> None:
    """Check every invariant on every session; findings go to the world's list of violations."""
    for session in run.sessions:
        events = run.world.events(session)
        for name, check in CHECKS.items():
            for finding in check(run, session, events):
                run.world.violated(name, f"{session}: {finding}")
        # What a line of time says is what a session without rewinds would say.
        for name, plain in PLAIN.items():
            for finding in plain(run, session, effective(events)):
                run.world.violated(name, f"{session}: {finding}")
    for finding in keys(run):
        run.world.violated("keys", finding)


def begun(run: BranchRun, session: str, events: list[Event]) -> int:
    """Return the seq from which on the events are the session's own."""
    for event in events:
        if isinstance(event.payload, e.SessionForked) and event.payload.session == session:
            return event.seq
    return 1


def whole(run: BranchRun, session: str, events: list[Event]) -> Iterator[str]:
    """A fork holds the past of its origin, byte for byte, and its origin is what it was."""
    cut, disk = run.cuts.get(session), run.world.disk
    if cut is None:
        return
    assert disk is not None
    at = begun(run, session, events) - 1
    if at not in (cut.asked, cut.asked + 1):
        yield f"it was asked for at {cut.asked} and begins at {at}"
    now = disk.records(cut.origin, 0)
    if now[: len(cut.records)] != list(cut.records):
        yield f"its origin {cut.origin} was changed"
    if disk.records(session, 0)[:at] != now[:at]:
        yield f"its past is not that of {cut.origin}"


def folds(run: BranchRun, session: str, events: list[Event]) -> Iterator[str]:
    """Every prefix has a next step, nothing that was spent comes back, limits hold."""
    states, first = run.states(session), begun(run, session, events)
    for event in events[first:]:
        before, after = states[event.seq - 1], states[event.seq]
        next_step(after)
        if after.spent.tokens < before.spent.tokens or after.spent.steps < before.spent.steps:
            yield f"event {event.seq} gives back what was spent"
        limit = _most(states[first : event.seq + 1])
        if after.spent.tokens > limit:
            yield f"event {event.seq}: spent {after.spent.tokens} tokens, allowed {limit}"
            return
    if run.world.billed_tokens[session] > _most(states[first:]):
        yield f"billed {run.world.billed_tokens[session]}, allowed {_most(states[first:])}"


def _most(states: Sequence[State]) -> float:
    limits = [state.limits.tokens for state in states]
    return float("inf") if None in limits else max(n for n in limits if n is not None)


def once(run: BranchRun, session: str, events: list[Event]) -> Iterator[str]:
    """A call that may happen once left once for each decision, over all lines of time: a rule
    decides once, and not at all where it had left when the fork was made.
    """
    first = begun(run, session, events)
    ruled, people = _decisions(events, first)
    carried = _gone(run, session, first)
    for (name, call_id), entered in run.world.entered.items():
        if name != session or spec_of(entered[0].tool).effect is not Effect.ONCE:
            continue
        by_rule = 1 if call_id in ruled and call_id not in carried else 0
        allowed = by_rule + people.get(call_id, 0) + run.world.denied_probes[session, call_id]
        if len(entered) > allowed:
            yield f"{call_id} left {len(entered)} times, decided {allowed}"


def _decisions(events: list[Event], first: int) -> tuple[set[str], dict[str, int]]:
    """Return which calls a rule let run, and how often people did, from event `first` on."""
    ruled: set[str] = set()
    people: dict[str, int] = {}
    actions: dict[str, str] = {}
    for event in events:
        match event.payload:
            case e.ActionRequested(action_id=action, call_id=call_id):
                actions[action] = call_id
            case e.ToolRequested(call_id=call_id, verdict=Verdict.ALLOW) if event.seq >= first:
                ruled.add(call_id)
            case e.ActionResolved(action_id=action, decision="allow" | "rerun"):
                if event.seq >= first:
                    people[actions[action]] = people.get(actions[action], 0) + 1
            case _:
                pass
    return ruled, people


def _gone(run: BranchRun, session: str, first: int) -> set[str]:
    """Return the calls that had left their origin when this fork of it was made."""
    cut = run.cuts.get(session)
    if cut is None:
        return set()
    at = run.states(session)[first - 1]
    gone = {c.call.id for c in at.open_calls if c.phase in (Phase.STARTED, Phase.UNKNOWN)}
    for event in run.world.events(cut.origin)[first - 1 : len(cut.records)]:
        if isinstance(event.payload, e.ToolStarted):
            gone.add(event.payload.call_id)
    mine = _made_since(run, session, first)
    return {name for name in gone if name not in mine}


def _made_since(run: BranchRun, session: str, first: int) -> set[str]:
    made: set[str] = set()
    for event in run.world.events(session)[first:]:
        if isinstance(event.payload, e.ModelResponded):
            made |= {i.id for i in event.payload.items if isinstance(i, ToolCall)}
    return made


def ids(run: BranchRun, session: str, events: list[Event]) -> Iterator[str]:
    """No call has the id of another, not even of one that was taken back."""
    met: set[str] = set()
    for event in events:
        if isinstance(event.payload, e.ModelResponded) and event.payload.status == "ok":
            for item in event.payload.items:
                if isinstance(item, ToolCall):
                    if item.id in met:
                        yield f"event {event.seq}: {item.id} was another call's"
                    met.add(item.id)


def keys(run: BranchRun) -> Iterator[str]:
    """An idempotency key stands for one call with one set of arguments, in the whole family."""
    meant: dict[str, tuple[str, str]] = {}
    for (session, call_id), entered in run.world.entered.items():
        for each in entered:
            if spec_of(each.tool).effect is Effect.READ:
                continue
            what = (call_id, each.arguments)
            if meant.setdefault(each.key, what) != what:
                yield f"{session}: the key of {what} stood for {meant[each.key]} before"


def obedient(run: BranchRun, session: str, events: list[Event]) -> Iterator[str]:
    """After an interrupt, a pause, a fork or a rewind nothing is started before somebody asks."""
    for event in events:
        state = run.states(session)[event.seq - 1]
        stopped = state.paused or (state.turn is not None and state.turn.interrupted)
        if stopped and isinstance(event.payload, e.ToolStarted | e.ModelRequested):
            yield f"event {event.seq} {event.type} came after a stop"


def decided(run: BranchRun, session: str, events: list[Event]) -> Iterator[str]:
    """Nobody decides in a person's name, nor twice by what a person said of another line."""
    own = [event for event in events if event.seq >= begun(run, session, events)]
    yield from invariants.decided(run, session, own)


def owned(run: BranchRun, session: str, events: list[Event]) -> Iterator[str]:
    """Once a new owner has written, an old one never does again."""
    own = [event for event in events if event.seq >= begun(run, session, events)]
    yield from invariants.owned(run, session, own)


CHECKS: Final[Mapping[str, Check]] = {
    "chain": invariants.chain,
    "acknowledged": invariants.acknowledged,
    "follower": invariants.followed,
    "index": invariants.indexed,
    "origin": whole,
    "folds": folds,
    "once": once,
    "ids": ids,
    "obedience": obedient,
    "decisions": decided,
    "ownership": owned,
}
PLAIN: Final[Mapping[str, Check]] = {
    "workspace": invariants.workspace,
    "transcript": invariants.transcript,
}
