"""Which facts of a journal are errors, as rows for the index over all sessions. Pure.

A call that a rule or a person denied is a decision, not an error, and a cancelled one neither.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.errors import ErrorInfo, fingerprint_of
from perdure.core.events import Event
from perdure.engine.breaker import told
from perdure.ports.store import ErrorRow

_MESSAGE_CHARS: Final = 500  # lists show the beginning; the journal has it all


def rows_of(session: str, events: Sequence[Event]) -> list[ErrorRow]:
    """Return a row for each error among the events of `session`, in order."""
    rows: list[ErrorRow] = []
    for event in events:
        row = _row(session, event)
        if row is None:
            continue
        if isinstance(event.payload, e.ToolFinished) and event.payload.status == "held":
            # Two things in one: another failed attempt, and that a person must see to it.
            rows.append(replace(row, stopped=False))
        rows.append(row)
    return rows


def info_of(event: Event) -> ErrorInfo | None:
    """Return the error that an event tells of, if it counts as one."""
    match event.payload:
        case e.ToolFinished(status="error" | "unknown" | "retry" | "held", error=info):
            return info
        case e.NoteRecorded(text=text) | e.ModelRequested(because=text):
            return told(text)
        case e.ModelResponded(error=info) | e.TurnEnded(error=info):
            return info
        case e.SessionParked(error=info) | e.EnvironmentLost(error=info):
            return info
        case _:
            return None


def unknown_outcome(tool: str) -> str:
    """Return the fingerprint of calls of that tool whose outcome nobody knows."""
    return fingerprint_of("E-TOOL-UNKNOWN", tool)


def _row(session: str, event: Event) -> ErrorRow | None:
    info = info_of(event)
    if info is None:
        return None
    subject = info.subject
    if not subject and isinstance(event.payload, e.ModelResponded):
        subject = event.payload.model
    return ErrorRow(
        fingerprint=info.fingerprint or fingerprint_of(info.code, subject, info.origin),
        session=session,
        code=info.code,
        kind=info.kind,
        message=info.message[:_MESSAGE_CHARS],
        seq=event.seq,
        first_at_us=event.at_us,
        last_at_us=event.at_us,
        subject=subject,
        origin=info.origin,
        turn=event.turn,
        stopped=_stops(event),
    )


def _stops(event: Event) -> bool:
    match event.payload:
        case e.TurnEnded() | e.SessionParked() | e.ToolFinished(status="unknown" | "held"):
            return True
        case _:
            return False
