"""What must hold in trees of subagents, checked against what was written, in the order in which
it was written: each event got its number when it was made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from perdure.core import events as e
from perdure.core.agent import Rule, Verdict
from perdure.core.content import Text, ToolCall
from perdure.core.events import Event
from perdure.core.state import State
from perdure.testing import invariants
from perdure.testing.budget_checks import booked, overspent
from perdure.testing.invariants import Run

HELPER: Final = "helper"
NEVER: Final = 1 << 60
SPAWNS_NOT: Final = ("E-SUBAGENT-WIDTH", "E-SUBAGENT-DEPTH", "E-TOOL-ARGUMENTS")


class Drawn(Protocol):
    """What was drawn for an agent."""

    @property
    def rules(self) -> Sequence[Rule]: ...

    @property
    def max_depth(self) -> int: ...

    @property
    def max_children(self) -> int: ...


class TreeRun(Run, Protocol):
    """A run with subagents that has come to its end."""

    @property
    def roots(self) -> Sequence[str]: ...

    def states(self, session: str) -> list[State]: ...

    def plan_of(self, session: str) -> Drawn: ...


class Child(NamedTuple):
    """A subagent's session."""

    name: str
    parent: str
    call_id: str
    made: int  # the number of its first event, over all sessions


class Errand(NamedTuple):
    """The turn of a child that answers its parent's call. `end` is NEVER while it is open."""

    input: int = NEVER
    start: int = NEVER
    end: int = NEVER
    last: int = -1  # the last time something was begun in it
    status: str = ""
    text: str = ""


class Family:
    """All sessions of a run, as their journals say it."""

    def __init__(self, run: TreeRun) -> None:
        disk = run.world.disk
        assert disk is not None
        self.run = run
        self.order = run.world.order
        self.events = {name: run.world.events(name) for name in disk.sessions()}
        self.children = [self._child(name) for name in self.events if run.states(name)[1].parent]
        self.of_call = {(child.parent, child.call_id): child for child in self.children}

    def _child(self, name: str) -> Child:
        born = self.run.states(name)[1]
        return Child(name, born.parent, born.parent_call, self.number(self.events[name][0]))

    def number(self, event: Event) -> int:
        """Return when the event was made, among all events of the run."""
        return self.order[event.id]

    def above(self, session: str) -> list[str]:
        """Return the sessions above this one, the nearest first."""
        names: list[str] = []
        parent = self.run.states(session)[1].parent
        while parent and parent in self.events and parent not in names:
            names.append(parent)
            parent = self.run.states(parent)[1].parent
        return names

    def errand(self, child: Child) -> Errand:
        """Return the turn that answers the parent's call."""
        found, task, turn = Errand(), 0, 0
        for event in self.events[child.name]:
            match event.payload:
                case e.InputAccepted(kind="message", key=key) if key == child.call_id:
                    task = event.seq
                    found = found._replace(input=self.number(event))
                case e.TurnStarted(input=seq) if task and seq == task:
                    turn = event.turn
                    found = found._replace(start=self.number(event))
                case e.SessionClosed() if found.end == NEVER:
                    found = found._replace(end=self.number(event), status="cancelled")
                case p if turn and event.turn == turn:
                    found = self._worked(found, p, self.number(event))
                case _:
                    pass
        return found

    @staticmethod
    def _worked(found: Errand, payload: e.Payload, number: int) -> Errand:
        match payload:
            case e.ToolStarted() | e.ModelRequested():
                return found._replace(last=number)
            case e.ModelResponded(status="ok", items=items):
                text = "".join(item.text for item in items if isinstance(item, Text))
                return found._replace(text=text or found.text)
            case e.TurnEnded(status=status):
                return found._replace(end=number, status=status)
            case _:
                return found


class Ended(NamedTuple):
    """How a call of a subagent ended in its parent's journal."""

    number: int
    status: str
    code: str
    text: str


def check_trees(run: TreeRun) -> None:
    """Check every invariant on every session and every tree."""
    invariants.check_all(run)
    family = Family(run)
    for name, check in TREE_CHECKS.items():
        for finding in check(family):
            run.world.violated(name, finding)
    for root in run.roots:
        for finding in overspent(run, root, family.events):
            run.world.violated("tree budget", finding)
    for finding in booked(run, family.events):
        run.world.violated("booked", finding)


def spawned(family: Family) -> Iterator[str]:
    """A call has one child at most, and no child is without its call; each has one task."""
    met: dict[tuple[str, str], str] = {}
    for child in family.children:
        call = (child.parent, child.call_id)
        if call in met:
            yield f"{child.name} and {met[call]} answer the same call"
        met[call] = child.name
        calls = _helper_calls(family, child.parent)
        if child.call_id not in calls:
            yield f"{child.name} answers a call that {child.parent} never made"
        said = [
            ev.payload
            for ev in family.events[child.name]
            if isinstance(ev.payload, e.InputAccepted)
            and ev.payload.kind == "message"
            and ev.payload.by == f"session {child.parent}"
        ]
        if len(said) > 1:
            yield f"{child.name} was given its task {len(said)} times"


def answered(family: Family) -> Iterator[str]:
    """A call of a subagent has one result, and that is what became of the child's work."""
    for parent in family.events:
        for call_id in _helper_calls(family, parent):
            ends = _ends(family, parent, call_id)
            if len(ends) > 1:
                yield f"{parent}:{call_id} has {len(ends)} results"
            child = family.of_call.get((parent, call_id))
            if child is not None:
                if ends and not _cut_short(family, child):
                    yield from _fits(child, ends[0], family.errand(child))
            elif ends and ends[0].status == "ok":
                yield f"{parent}:{call_id} is answered, and nobody worked on it"


def _cut_short(family: Family, child: Child) -> bool:
    """Whether the parent was interrupted meanwhile: then it need not know how its child ended."""
    number = int(child.call_id.partition(".")[0].removeprefix("t"))
    return any(
        isinstance(ev.payload, e.InputAccepted)
        and ev.payload.kind == "interrupt"
        and ev.turn == number
        for ev in family.events[child.parent]
    )


def _fits(child: Child, end: Ended, errand: Errand) -> Iterator[str]:
    name = f"{child.parent}:{child.call_id}"
    if end.status == "ok" and (errand.status, errand.text) != ("completed", end.text):
        yield f"{name} says {end.text!r}; its child {errand.status or 'began not'}: {errand.text!r}"
    if end.code in SPAWNS_NOT:
        yield f"{name} was refused with {end.code}, and there is {child.name}"
    fitting = {
        "E-SUBAGENT-BUDGET": ("budget",),
        "E-SUBAGENT-FAILED": ("failed",),
        "E-SUBAGENT-CANCELLED": ("cancelled",),
    }.get(end.code)
    if fitting and errand.status not in (*fitting, "" if "CANCELLED" in end.code else "-"):
        yield f"{name} ended with {end.code}, its child {errand.status or 'began not'}"


def orphaned(family: Family) -> Iterator[str]:
    """No child works for a call that has its result, or whose turn is over."""
    for child in family.children:
        ends = _ends(family, child.parent, child.call_id)
        if not ends:
            continue
        over, errand = ends[0].number, family.errand(child)
        if child.made > over:
            yield f"{child.name} was made when its call had a result"
        elif errand.last > over:
            yield f"{child.name} works on after its call was answered"
        elif errand.start < NEVER and errand.end > over:
            yield f"{child.name} was at work when its call was answered"


def rights(family: Family) -> Iterator[str]:
    """What a rule forbids, or asks about, above a session holds in it, too."""
    for (session, call_id), entered in family.run.world.entered.items():
        allowed = _allowed(family.events.get(session, []))
        for above in family.above(session):
            for rule in family.run.plan_of(above).rules:
                for each in entered:
                    if rule.tool != each.tool or not _met(rule, each.arguments):
                        continue
                    if rule.verdict is Verdict.DENY:
                        yield f"{session}:{call_id} ran {each.tool}, which {above} may not"
                    elif call_id not in allowed:
                        yield f"{session}:{call_id} ran {each.tool} unasked, not so in {above}"


def bounded(family: Family) -> Iterator[str]:
    """There are no more children at once, nor levels of them, than what is above allows."""
    run = family.run
    for child in family.children:
        above = family.above(child.name)
        deepest = min(run.plan_of(name).max_depth + len(above[:at]) for at, name in
                      enumerate(reversed(above)))  # fmt: skip
        if len(above) > deepest:
            yield f"{child.name} is on level {len(above)}, allowed are {deepest}"
        most = min(run.plan_of(name).max_children for name in above)
        beside = [c for c in family.children if c.parent == child.parent and c.made <= child.made]
        at_once = [c for c in beside if _over(family, c) > child.made]
        if len(at_once) > most:
            yield f"{child.name} is one of {len(at_once)} at once, allowed are {most}"


def _over(family: Family, child: Child) -> int:
    ends = _ends(family, child.parent, child.call_id)
    return ends[0].number if ends else NEVER


def relayed(family: Family) -> Iterator[str]:
    """When a session is paused while its subagents work, they are told so."""
    for child in family.children:
        over = min(_over(family, child), family.errand(child).end)
        told = [
            family.number(ev)
            for ev in family.events[child.name]
            if isinstance(p := ev.payload, e.InputAccepted)
            and p.kind == "pause"
            and p.by == f"session {child.parent}"
        ]
        asked = sum(
            1
            for ev in family.events[child.parent]
            if isinstance(ev.payload, e.InputAccepted)
            and ev.payload.kind == "pause"
            and family.errand(child).input < family.number(ev) < over
        )
        closed = isinstance(family.events[child.name][-1].payload, e.SessionClosed)
        if len(told) < asked and not (closed and over == NEVER):
            yield f"{child.name} was told of {len(told)} pauses of {asked}"


def _helper_calls(family: Family, parent: str) -> set[str]:
    return {
        item.id
        for event in family.events.get(parent, [])
        if isinstance(event.payload, e.ModelResponded) and event.payload.status == "ok"
        for item in event.payload.items
        if isinstance(item, ToolCall) and item.tool == HELPER
    }


def _ends(family: Family, parent: str, call_id: str) -> list[Ended]:
    return [
        Ended(family.number(event), p.status, p.error.code if p.error else "", p.text)
        for event in family.events.get(parent, [])
        if isinstance(p := event.payload, e.ToolFinished)
        and p.call_id == call_id
        and p.status not in ("unknown", "retry", "held")
    ]


def _allowed(events: list[Event]) -> set[str]:
    calls = {
        ev.payload.action_id: ev.payload.call_id
        for ev in events
        if isinstance(ev.payload, e.ActionRequested)
    }
    return {
        calls[ev.payload.action_id]
        for ev in events
        if isinstance(ev.payload, e.ActionResolved) and ev.payload.decision == "allow"
    }


def _met(rule: Rule, arguments: str) -> bool:
    number = rule.when.removeprefix("n == ")
    return f'"n": {number},' in arguments or f'"n": {number}}}' in arguments


TreeCheck = Callable[[Family], Iterator[str]]
TREE_CHECKS: Final[Mapping[str, TreeCheck]] = {
    "spawn": spawned,
    "answer": answered,
    "orphan": orphaned,
    "rights": rights,
    "bounds": bounded,
    "relay": relayed,
}
