"""What some events say in one line of a story: a label, the words, how they look."""

from typing import Any

import msgspec

from perdure.cli.naps import waits_for
from perdure.cli.text import one_line
from perdure.core import events as e
from perdure.core.state import State
from perdure.core.timeline import as_imported


def line_of(p: Any) -> tuple[str, ...]:
    """Return label, words and any styles of an event that is told in one line."""
    by = f" by {p.by}" if getattr(p, "by", "") else ""
    match p:
        case e.SessionForked():
            other = f", goes on with {p.agent.name} on {p.agent.model}" if p.agent else ""
            brought = f", {p.imported} events imported by {p.imported_by}" if p.imported else ""
            return "fork", one_line(f"of {p.origin} at event {p.at}{by}{other}{brought}")
        case e.SessionRewound():
            return "rewind", one_line(f"back to event {p.to}{by}"), "yellow"
        case e.SignalReceived():
            return "event", one_line(f"{p.name!r}{by}: {p.text}"), "cyan"
        case e.TimerSet():
            return "tool", one_line(waits_for(p))
        case _:
            raise AssertionError(f"not told in one line: {p}")


def imported(state: State) -> str:
    """Return who brought a session's first events here, or ""."""
    if not state.imported:
        return ""
    return f"events 1 to {state.imported} imported by {one_line(state.imported_by)}"


def as_told(event: e.Event, state: State) -> e.Event:
    """Return an event with the name in it marked, if that is hearsay: it came with an import."""
    by = getattr(event.payload, "by", "")
    if event.seq > state.imported or not by:
        return event
    payload: Any = event.payload
    marked = msgspec.structs.replace(payload, by=as_imported(by))
    return msgspec.structs.replace(event, payload=marked)
