"""Sessions as a family: what a subagent's session is called, and the rows of a tree."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from perdure.core import step as due
from perdure.core.agent import AgentSpec
from perdure.core.state import CallState, Phase, State
from perdure.core.step import next_step
from perdure.engine.journal import load
from perdure.ports.store import SessionRow, Store

SOURCE: Final = "subagent:"
_NAME_MAX: Final = 120


class Tree(msgspec.Struct, frozen=True):
    """A session with all below it: the rows, each followed by its children, and their sums.

    `waiting` counts decisions that people owe anywhere in the tree.
    """

    rows: tuple[SessionRow, ...]
    steps: int
    tokens: int
    micro_usd: int
    unpriced: int
    waiting: int


def child_name(parent: str, call_id: str) -> str:
    """Return the id of the session that answers a call: always the same one for that call."""
    name = f"{parent}.{call_id}"
    if len(name) <= _NAME_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:24]
    return f"{parent[:60]}~{digest}"


def has_subagents(spec: AgentSpec) -> bool:
    """Whether sessions of this agent may have children."""
    return any(tool.source.startswith(SOURCE) for tool in spec.tools)


def open_errands(state: State) -> list[CallState]:
    """Return the subagent calls of `state` that have left and have no result yet."""
    if state.turn is None or not has_subagents(state.spec):
        return []
    return [call for call in state.open_calls if _is_errand(state.spec, call)]


def _is_errand(spec: AgentSpec, call: CallState) -> bool:
    tool = spec.tool(call.call.tool)
    return call.phase is Phase.STARTED and tool is not None and tool.source.startswith(SOURCE)


async def stuck(store: Store, state: State) -> str:
    """Return why only a person can move the session on (waiting, paused, parked), else "".

    A session whose subagents all wait for people waits with them.
    """
    match next_step(state):
        case due.Rest(why) if why in ("paused", "parked"):
            return why
        case due.Ask():
            return "waiting"
        case due.RecoverTools():
            return await _stuck_below(store, state)
        case _:
            return ""


async def _stuck_below(store: Store, state: State) -> str:
    errands = open_errands(state)
    asked = {action.call_id for action in state.actions.values()}
    names = {call.call.id for call in errands}
    if not errands or any(call.call.id not in names | asked for call in state.open_calls):
        return ""
    for call in errands:
        child = child_name(state.id, call.call.id)
        below, _, _ = await load(store, child)
        if below.seq == 0 or not await stuck(store, below) or await store.inbox(child):
            return ""  # what lies in its inbox may be what moves it on
    return "waiting"


class Asleep(NamedTuple):
    """That a session sleeps: until when (None: no time will wake it), and which events would
    wake it.
    """

    until_us: int | None
    events: tuple[str, ...]


async def asleep(store: Store, state: State) -> Asleep | None:
    """Return until when nothing is due in a session and its subagents; None where something is,
    or where a person is waited for.
    """
    match next_step(state):
        case due.Sleep(timers=timers, until_us=until_us):
            return Asleep(until_us, tuple(t.signal for t in timers if t.signal))
        case due.RecoverTools():
            return await _asleep_below(store, state)
        case _:
            return None


async def _asleep_below(store: Store, state: State) -> Asleep | None:
    errands = open_errands(state)
    names = {call.call.id for call in errands}
    busy = [c for c in state.open_calls if c.call.id not in names and c.phase is not Phase.SLEEPING]
    if not errands or busy:
        return None
    times = [timer.due_us for timer in state.timers.values()]
    events = [timer.signal for timer in state.timers.values() if timer.signal]
    for call in errands:
        below, _, _ = await load(store, child_name(state.id, call.call.id))
        under = await asleep(store, below) if below.seq else None
        if under is None:
            return None
        times.append(under.until_us)
        events.extend(under.events)
    return Asleep(min((t for t in times if t is not None), default=None), tuple(events))


def tree_of(rows: Iterable[SessionRow], root: str) -> list[SessionRow]:
    """Return the row of `root` and those of all sessions below it: each one followed by its
    children, the oldest first.
    """
    children: dict[str, list[SessionRow]] = {}
    left: list[SessionRow] = []
    for row in rows:
        if row.id == root:
            left.append(row)
        elif row.parent:
            children.setdefault(row.parent, []).append(row)
    found: list[SessionRow] = []
    while left:
        row = left.pop()
        found.append(row)
        below = sorted(children.get(row.id, ()), key=lambda r: (r.created_at_us, r.id))
        left.extend(reversed(below))
    return found


def summed(rows: Sequence[SessionRow]) -> Tree:
    """Return `rows` with their totals."""
    return Tree(
        rows=tuple(with_waiting(rows)),
        steps=sum(row.steps for row in rows),
        tokens=sum(row.tokens for row in rows),
        micro_usd=sum(row.micro_usd for row in rows),
        unpriced=sum(row.unpriced for row in rows),
        waiting=sum(row.waiting for row in rows),
    )


def with_waiting(rows: Sequence[SessionRow]) -> list[SessionRow]:
    """Return `rows` in their order; one that works while a subagent below it waits for a person
    waits too, and counts what is owed below it. One whose subagents at work all sleep sleeps.
    """
    rows = _with_sleeping(rows)
    by_id = {row.id: row for row in rows}
    below: dict[str, int] = {}
    for row in rows:
        if row.parent and row.status == "waiting":
            for above in _above(by_id, row):
                below[above] = below.get(above, 0) + row.waiting
    return [_waits(row, below[row.id]) if row.id in below else row for row in rows]


def _with_sleeping(rows: Sequence[SessionRow]) -> list[SessionRow]:
    by_id = {row.id: row for row in rows}
    below: dict[str, list[str]] = {}
    for row in rows:
        if row.parent and row.status in ("running", "sleeping", "waiting"):
            below.setdefault(row.parent, []).append(row.id)
    # The deepest first: a row sleeps when all below it do.
    depth = {row.id: len(_above(by_id, row)) for row in rows}
    for name in sorted(below, key=lambda each: -depth.get(each, 0)):
        under = [by_id[each] for each in below[name]]
        above = by_id.get(name)
        if above and above.status == "running" and all(u.status == "sleeping" for u in under):
            wake_us = min((u.wake_at_us for u in under if u.wake_at_us), default=0)
            by_id[name] = replace(above, status="sleeping", wake_at_us=wake_us)
    return [by_id[row.id] for row in rows]


def _above(by_id: Mapping[str, SessionRow], row: SessionRow) -> list[str]:
    """Return the ids of those above `row` that are in the middle of a turn."""
    names: list[str] = []
    parent = by_id.get(row.parent)
    while parent is not None and parent.status in ("running", "sleeping", "waiting"):
        if parent.id in names:
            break
        names.append(parent.id)
        parent = by_id.get(parent.parent)
    return names


def _waits(row: SessionRow, count: int) -> SessionRow:
    return replace(row, status="waiting", waiting=row.waiting + count)
