"""Time that was taken back: which events of a journal still count, and what a cut leaves behind.

Pure. A rewind never deletes: it is an event that says from where on the past no longer counts.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Effect
from perdure.core.errors import CorruptJournal
from perdure.core.events import Event
from perdure.core.state import CallState, Phase, Spent, State

_IMPORTED: Final = " (imported)"  # behind the name of whoever decided elsewhere
_OPEN: Final = (Phase.PROPOSED, Phase.READY, Phase.ASKING, Phase.REFUSED, Phase.STARTED)


def effective(events: Iterable[Event]) -> list[Event]:
    """Return the events that still count, each rewind at the place where it left them.

    Letters that waited unread when their time was taken back still count. Going back to an event
    that was itself taken back makes its past count again.
    """
    kept: list[Event] = []
    ends: list[tuple[int, list[Event]]] = []  # what counted before each rewind, and its seq
    for event in events:
        if isinstance(event.payload, e.SessionRewound):
            to = event.payload.to
            ends.append((event.seq, kept))
            past = next(before for seq, before in ends if seq > to)
            kept = [k for k in past if k.seq <= to] + _unread(kept, to)
        kept.append(event)
    return kept


def _unread(kept: Sequence[Event], to: int) -> list[Event]:
    """Return the letters after event `to` that nothing in `kept` has read."""
    read: set[int] = set()
    for event in kept:
        match event.payload:
            case e.TurnStarted(input=seq):
                read.add(seq)
            case e.ModelRequested(steers=steers):
                read.update(steers)
            case _:
                pass
    return [k for k in kept if k.seq > to and _is_letter(k) and k.seq not in read]


def _is_letter(event: Event) -> bool:
    said = event.payload
    return isinstance(said, e.InputAccepted) and said.kind in ("message", "steer")


def rewound(base: State, now: State, event: Event) -> State:
    """Return the state after a rewind: `base` is the state at its `to`, `now` the one before it.

    Money stays spent, turn numbers and action ids are not used again, letters that wait still
    wait. Where the workspace had not been opened yet it becomes what it was at its beginning.
    """
    p = event.payload
    assert isinstance(p, e.SessionRewound)
    if now.turn or not base.seq == p.to > 0 or event.seq != now.seq + 1:
        raise CorruptJournal(
            "E-JOURNAL-ORDER",
            f"Event {event.seq} (session.rewound) cannot follow: a turn is open, or {p.to} is not"
            " in its past.",
        )
    later = tuple(q for q in now.queue if q.seq > p.to)
    signals = tuple(s for s in now.signals if s.seq > p.to)
    # What was allowed since is taken back with its time; what was revoked stays revoked.
    grants = {k: now.grants[k] for k in base.grants if k in now.grants}
    known = {q.seq for q in base.queue}
    snapshot = base.snapshot or now.first_snapshot
    return replace(
        _carried(_branched(base, p.unsafe), base.id if base.id != now.id else ""),
        seq=event.seq,
        # Before its own fork a session was another one; its past is taken over, not its name.
        id=now.id,
        created_at_us=now.created_at_us,
        parent=now.parent,
        parent_call=now.parent_call,
        snapshot=snapshot,
        first_snapshot=now.first_snapshot,
        restore_due=bool(snapshot),
        updated_at_us=event.at_us,
        turns=now.turns,
        spent=now.spent,
        next_action=now.next_action,
        next_timer=now.next_timer,
        decided=now.decided,
        grants=grants,
        signals=(*base.signals, *signals),
        generation=now.generation + 1,
        queue=(*base.queue, *(q for q in later if q.seq not in known)),
        agent=now.agent,
        version=now.version,
        asked=now.asked,
        paused=True,
        parked=None,
        closed=now.closed,
        last_tokens_seq=0,
        imported=now.imported,
        imported_by=now.imported_by,
    )


def forked(base: State, event: Event, p: e.SessionForked) -> State:
    """Return the state of a fork: that of its origin, under its own name, and paused."""
    agent = p.agent or base.spec
    state = _carried(_branched(base, p.unsafe), base.id)
    return replace(
        state,
        id=p.session,
        agent=agent,
        version=p.agent.version if p.agent else base.version,
        turn=replace(state.turn, interrupted=False) if state.turn else None,
        generation=base.generation + 1,
        paused=True,
        parked=None,
        closed=False,
        recoveries=0,
        spent=Spent(),
        last_tokens_seq=base.last_tokens_seq if p.agent is None else 0,
        created_at_us=event.at_us,
        # A fork is nobody's subagent: it keeps the rights and limits that were pinned for it.
        parent="",
        parent_call="",
        asked=None,
    )


def imported(state: State, event: Event, p: e.NoteRecorded | e.SessionForked) -> State:
    """Return the state of a session whose first `imported` events came from elsewhere, if `p` says
    so: who decided there is what that journal says, and not what this store knows.
    """
    if not p.imported:
        return state
    if not 0 < p.imported < event.seq:
        raise CorruptJournal(
            "E-JOURNAL-ORDER",
            f"Event {event.seq} ({event.type}) cannot follow: so many events were not imported.",
        )
    return replace(
        state,
        imported=p.imported,
        imported_by=p.imported_by,
        decided=tuple(replace(each, by=as_imported(each.by)) for each in state.decided),
        grants={k: replace(g, by=as_imported(g.by)) for k, g in state.grants.items()},
    )


def as_imported(by: str) -> str:
    """Return the name of somebody who decided elsewhere, as it is told here."""
    return by if by.endswith(_IMPORTED) else by + _IMPORTED


def _branched(base: State, unsafe: Sequence[str]) -> State:
    """Make `base` a place to go on from: calls that left in the other future are in question."""
    state = replace(base, restore_due=bool(base.snapshot))
    if state.turn is None:
        return state
    # A model call that was in flight belongs to the other future, and so does its bill.
    calls = {
        k: _questioned(c) if k in unsafe else _undecided(c) for k, c in state.turn.calls.items()
    }
    actions = {k: a for k, a in state.actions.items() if a.call_id not in unsafe}
    return replace(state, turn=replace(state.turn, calls=calls, model=None), actions=actions)


def _questioned(call: CallState) -> CallState:
    return replace(
        call, phase=Phase.UNKNOWN, attempt=max(call.attempt, 1), effect=Effect.ONCE, approved=""
    )


def _undecided(call: CallState) -> CallState:
    """Take a decision to run back: it was given for one future, and is not spent in two."""
    if call.phase is not Phase.READY:
        return call
    if call.attempt and call.effect is Effect.ONCE:
        return _questioned(call)
    return replace(call, phase=Phase.PROPOSED, approved="", digest="")


def _carried(state: State, origin: str) -> State:
    """Mark the open calls as first requested in `origin`, where they leave its journal.

    One that may happen once and was in flight stays in question: its owner there may be alive.
    """
    if state.turn is None or not origin:
        return state
    calls = {k: replace(c, session=c.session or origin) for k, c in state.turn.calls.items()}
    for name, call in calls.items():
        if call.phase is Phase.STARTED and call.effect is Effect.ONCE:
            calls[name] = _questioned(call)
    return replace(state, turn=replace(state.turn, calls=calls))


def left_since(base: State, later: Iterable[Event]) -> dict[str, e.ToolFinished | None]:
    """Return the calls open in `base` that left in `later` and may not simply be run again, each
    with how it ended there, if it did.
    """
    open_calls = {c.call.id: c for c in base.open_calls if c.phase in _OPEN}
    found: dict[str, e.ToolFinished | None] = {}
    effects = {k: c.effect for k, c in open_calls.items()}
    for event in later:
        match event.payload:
            case e.ToolRequested(call_id=call_id, effect=effect) if call_id in open_calls:
                effects[call_id] = effect
            case e.ToolStarted(call_id=call_id) if call_id in open_calls:
                if effects[call_id] is Effect.ONCE:
                    found.setdefault(call_id, None)
            case e.ToolFinished(call_id=call_id) as done if call_id in found:
                found[call_id] = done
            case e.SessionForked(unsafe=unsafe) | e.SessionRewound(unsafe=unsafe):
                # They left in a future that this journal does not hold.
                found.update({k: None for k in unsafe if k in open_calls and k not in found})
            case _:
                pass
    return found
