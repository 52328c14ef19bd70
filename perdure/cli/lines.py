"""What some events say in one line of a story: a label, the words, how they look."""

from typing import Any

from perdure.cli.naps import waits_for
from perdure.cli.text import one_line
from perdure.core import events as e


def line_of(p: Any) -> tuple[str, ...]:
    """Return label, words and any styles of an event that is told in one line."""
    by = f" by {p.by}" if getattr(p, "by", "") else ""
    match p:
        case e.SessionForked():
            other = f", goes on with {p.agent.name} on {p.agent.model}" if p.agent else ""
            return "fork", one_line(f"of {p.origin} at event {p.at}{by}{other}")
        case e.SessionRewound():
            return "rewind", one_line(f"back to event {p.to}{by}"), "yellow"
        case e.SignalReceived():
            return "event", one_line(f"{p.name!r}{by}: {p.text}"), "cyan"
        case e.TimerSet():
            return "tool", one_line(waits_for(p))
        case _:
            raise AssertionError(f"not told in one line: {p}")
