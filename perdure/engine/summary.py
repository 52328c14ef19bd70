"""A session as one row of a list, computed from its state and its newest event."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from perdure.core import events as e, step as due
from perdure.core.compacting import HEAD
from perdure.core.content import Text, ToolCall, text_of
from perdure.core.events import Event
from perdure.core.state import State
from perdure.core.step import next_step, status
from perdure.ports.store import SessionRow

_SILENT: Final = (
    e.EnvironmentOpened,
    e.EnvironmentSnapshotted,
    e.ModelDelta,
    e.ModelRequested,
    e.ToolRequested,
    e.ToolStarted,
    e.TurnStarted,
)
_WIDTH = 80
_LOOKED_AT = 4096  # what comes after so many characters no line of a list shows


def row_of(state: State, newest: Event | None, *, left: bool = False, last: str = "") -> SessionRow:
    """Return the row of a session whose newest event is `newest` (None: none tells a person more
    than `last`, what the row said before).

    What is due in a session that is `left` to others is due at once.
    """
    error = state.parked or state.last_error
    return SessionRow(
        id=state.id,
        agent=state.spec.name,
        version=state.version,
        status=status(state),
        model=state.spec.model,
        last=describe(newest) if newest else last,
        seq=state.seq,
        turns=state.turns,
        steps=state.spent.steps,
        tokens=state.spent.tokens,
        micro_usd=state.spent.micro_usd,
        unpriced=state.spent.unpriced,
        waiting=len(state.actions),
        error=error.code if error else "",
        fingerprint=error.fingerprint if error else "",
        source=state.source,
        parent=state.parent,
        created_at_us=state.created_at_us,
        updated_at_us=state.updated_at_us,
        wake_at_us=wakes_at(state, left=left),
    )


def wakes_at(state: State, *, left: bool = False) -> int:
    """Return when something comes due in a session by itself: a timer, the end of a question,
    another attempt; 0: never. In one that is `left` to others, all that is due is.
    """
    match next_step(state):
        case due.Ask(until_us=when) | due.Sleep(until_us=when):
            return when or 0
        case (
            due.CallModel(not_before_us=int() as when)
            | due.Compact(not_before_us=int() as when)
            | due.RunTools(not_before_us=int() as when)
        ):
            other = due.next_wake_us(state)
            return when if other is None else min(when, other)
        case due.Rest():
            return 0
        case _:
            return state.updated_at_us if left else 0


def telling(events: Sequence[Event]) -> Event | None:
    """Return the newest of `events` that tells a person something, if one does."""
    for event in reversed(events):
        if not isinstance(event.payload, _SILENT) and event.payload != e.TurnEnded("completed"):
            return event
    return None


def describe(event: Event) -> str:
    """Return what an event says, in one line of at most 80 characters."""
    return _short(_describe(event))


def _describe(event: Event) -> str:
    match event.payload:
        case e.InputAccepted(kind=kind, content=content):
            return f"{kind}: {text_of(content)}" if content else kind
        case e.ModelResponded(status="ok", items=items):
            calls = [f"{i.tool}({i.arguments})" for i in items if isinstance(i, ToolCall)]
            texts = [i.text for i in items if isinstance(i, Text)]
            return "; ".join(calls) or " ".join(texts) or "(empty reply)"
        case e.ModelResponded(status=status, error=error):
            return f"model {status}: {error.message if error else ''}"
        case e.ToolRequested(tool=tool, verdict=verdict):
            return f"{tool}: {verdict.value}"
        case e.ToolFinished(call_id=call_id, status=status, text=text):
            return f"{call_id} {status}: {text}"
        case e.ActionRequested(question=question):
            return question
        case e.ActionResolved(decision=decision, by=by, grant=grant):
            beyond = f"; from now on {grant.shown}" if grant else ""
            return f"{decision} by {by or 'nobody'}{beyond}"
        case e.GrantRevoked(name=name, by=by):
            return f"grant {name} revoked by {by or 'nobody'}"
        case e.SessionParked(error=error) | e.EnvironmentLost(error=error):
            return error.message
        case e.TurnEnded(status=status, error=error):
            return f"turn {status}" + (f": {error.message}" if error else "")
        case e.NoteRecorded(text=text):
            return text
        case _:
            return _describe_branch(event)


def _describe_branch(event: Event) -> str:
    match event.payload:
        case e.SessionForked(origin=origin, at=at):
            return f"fork of {origin} at event {at}"
        case e.SessionRewound(to=to):
            return f"back to event {to}"
        case e.ContextCompacted(summary="", items=items, elided=most):
            return f"{items} results cut to {most} characters"
        case e.ContextCompacted(items=items, summary=summary):
            return f"{items} items in {len(summary)} characters: {summary[len(HEAD) :].strip()}"
        case e.ContextRepaired(why=why):
            return f"made plain: {why}"
        case e.ContextCompactAsked(by=by):
            return f"asked for by {by}" if by else event.type
        case e.TimerSet(due_us=due_us, signal=signal):
            until = f"until {moment(due_us)}" if due_us is not None else ""
            return " ".join(["sleeps"] + [f"for event {signal!r}"] * bool(signal) + [until]).strip()
        case e.TimerFired(text=text):
            return f"wakes: {text}"
        case e.SignalReceived(name=name, text=text):
            return f"event {name!r}: {text}"
        case _:
            return event.type


def moment(at_us: int) -> str:
    """Return a moment in UTC, to the second."""
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _short(text: str) -> str:
    flat = " ".join(text[:_LOOKED_AT].split())
    return flat if len(flat) <= _WIDTH else flat[: _WIDTH - 1] + "…"
