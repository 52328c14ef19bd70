"""Events in words, for reports that compare what was with what would be."""

from collections.abc import Iterator
from typing import Any

import msgspec

from perdure.core.events import Event
from perdure.engine.summary import describe

_LONG = 160


def due_in_words(event: Event) -> str:
    """Return an event's type and what it says."""
    said = describe(event)
    return event.type if said == event.type else f"{event.type} ({said})"


def difference(recorded: Event, made: Event) -> str:
    """Return what differs between a recorded event and the one written in its place."""
    if recorded.type != made.type:
        return f"recorded was {due_in_words(recorded)}, but now comes {due_in_words(made)}"
    then, now = fields(recorded.payload), fields(made.payload)
    if recorded.turn != made.turn:
        then, now = {**then, "turn": recorded.turn}, {**now, "turn": made.turn}
    changes = [f"{n} was {_shown(a)}, now {_shown(b)}" for n, a, b in changed(then, now)]
    return f"{recorded.type}: " + "; ".join(changes)


def changed(then: object, now: object, name: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield the name and both values of everything that differs between two plain values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            yield from changed(then.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif then != now:
        yield name, then, now


def fields(payload: Any) -> dict[str, Any]:
    """Return an event's fields as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins(payload, builtin_types=(msgspec.Raw,))
    return plain


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"
