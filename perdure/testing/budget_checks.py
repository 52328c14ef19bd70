"""What must hold of money, tokens, steps and calls in a tree of sessions, at each event of it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from perdure.core import events as e
from perdure.core.agent import Limits
from perdure.core.events import Event
from perdure.core.state import State
from perdure.testing.world import World


class BudgetRun(Protocol):
    """A run that has come to its end."""

    @property
    def world(self) -> World: ...

    def states(self, session: str) -> list[State]: ...


class Use(NamedTuple):
    """What a session has used by itself: spent and, as far as it is in flight, reserved."""

    tokens: int
    micro_usd: int
    steps: int
    tool_calls: int


def overspent(run: BudgetRun, root: str, journals: Mapping[str, Sequence[Event]]) -> Iterator[str]:
    """At no event has a session, with all below it, used or reserved more than it may."""
    names = [name for name in journals if name == root or root in _above(run, name)]
    merged = sorted(
        ((run.world.order[event.id], name, event) for name in names for event in journals[name]),
        key=lambda each: each[0],
    )
    now: dict[str, State] = {}
    most: dict[str, Limits] = {}
    for _, name, event in merged:
        now[name] = run.states(name)[event.seq]
        most[name] = _more(most.get(name), now[name].limits)
        for top in (name, *_above(run, name)):
            if top not in now:
                yield f"{name} has events before {top}, which is above it"
                return
            for finding in _over(now, top, most[top]):
                yield f"{finding} at {name} event {event.seq} {event.type}"
                return


def _over(now: Mapping[str, State], top: str, most: Limits) -> Iterator[str]:
    below = _below(now, top)
    used = [_use(now[name]) for name in below]
    tokens, micro = sum(u.tokens for u in used), sum(u.micro_usd for u in used)
    if most.tokens is not None and tokens > most.tokens:
        yield f"{top} has used {tokens} tokens of {most.tokens}"
    if most.usd is not None and micro > most.usd * 1_000_000:
        yield f"{top} has used {micro} µUSD of {most.usd} USD"
    turn = now[top].turn
    if turn is None:
        return
    mine = [
        _use(now[name])
        for name in below
        if name != top and _born(now, name, top) == f"t{turn.number}"
    ]
    steps = turn.spent.steps + sum(u.steps for u in mine)
    calls = turn.spent.tool_calls + sum(u.tool_calls for u in mine)
    if most.steps is not None and steps > most.steps:
        yield f"{top} has made {steps} model calls in a turn, allowed are {most.steps}"
    if most.tool_calls is not None and calls > most.tool_calls:
        yield f"{top} has made {calls} tool calls in a turn, allowed are {most.tool_calls}"


def _below(now: Mapping[str, State], top: str) -> list[str]:
    """Return `top` and all below it."""
    found = [top]
    for name in found:
        found.extend(other for other, state in now.items() if state.parent == name)
    return found


def _born(now: Mapping[str, State], name: str, top: str) -> str:
    """Return the turn of `top` in which the branch that holds `name` began."""
    while now[name].parent != top:
        name = now[name].parent
    return now[name].parent_call.partition(".")[0]


def _above(run: BudgetRun, session: str) -> list[str]:
    names: list[str] = []
    parent = run.states(session)[1].parent
    while parent and parent not in names:
        names.append(parent)
        parent = run.states(parent)[1].parent
    return names


def _use(state: State) -> Use:
    call = state.turn.model if state.turn else None
    tokens = call.reserved_tokens if call else 0
    micro = (call.reserved_micro_usd or 0) if call else 0
    spent = state.spent
    return Use(spent.tokens + tokens, spent.micro_usd + micro, spent.steps, spent.tool_calls)


def _more(one: Limits | None, other: Limits) -> Limits:
    """Return what was allowed at most so far: lowering a limit does not undo what was used."""
    if one is None:
        return other

    def most(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else max(a, b)

    return Limits(
        steps=_whole(most(one.steps, other.steps)),
        tool_calls=_whole(most(one.tool_calls, other.tool_calls)),
        wall_s=None,
        tokens=_whole(most(one.tokens, other.tokens)),
        usd=most(one.usd, other.usd),
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def booked(run: BudgetRun, journals: Mapping[str, Sequence[Event]]) -> Iterator[str]:
    """What was lost is booked at its worst, and no provider billed more than was booked."""
    for name, events in journals.items():
        reserved: defaultdict[str, int | None] = defaultdict(int)
        for event in events:
            match event.payload:
                case e.ModelRequested() as p:
                    reserved["tokens"], reserved["usd"] = p.reserved_tokens, p.reserved_micro_usd
                case e.ModelResponded(status="lost", usage=usage):
                    tokens = usage.input_tokens + usage.output_tokens
                    if (tokens, usage.cost_micro_usd) != (reserved["tokens"], reserved["usd"]):
                        yield f"{name} event {event.seq}: lost, and not booked at its worst"
                case _:
                    pass
        line = [name, *_above(run, name)]
        limits = [run.states(each)[-1].limits for each in line]
        if any(each.tokens is not None or each.usd is not None for each in limits):
            use = _use(run.states(name)[-1])
            if run.world.billed_tokens[name] > use.tokens:
                yield f"{name}: billed {run.world.billed_tokens[name]} tokens, booked {use.tokens}"


def told(run: BudgetRun, session: str, event: Event) -> Iterator[str]:
    """An error at a limit names a limit that is set, says whose it is, and how to raise it."""
    assert isinstance(event.payload, e.TurnEnded)
    error = event.payload.error
    if error is None:
        yield f"{session} event {event.seq} stops at a limit, and says not at which"
        return
    if error.code == "E-PRICE-UNKNOWN":
        return
    which = error.code.removeprefix("E-LIMIT-").lower()
    line = [session, *_above(run, session)]
    named = next((name for name in line if f"resume {name} " in error.hint), session)
    if f"--limit {which}=" not in error.hint:
        yield f"{session} event {event.seq}: {error.code} says {error.hint!r}"
    limits = [run.states(named)[-1].limits]
    if named == session:
        limits = [run.states(session)[event.seq].limits]
    if getattr(limits[0], which, None) is None:
        yield f"{session} event {event.seq}: {error.code} at {named}, which has no such limit"
