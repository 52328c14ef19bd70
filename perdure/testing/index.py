"""What the index of errors must be: what the journals alone say, whoever died in between."""

from collections.abc import Iterable

from perdure.core.events import Event, SessionForked
from perdure.engine.errors import rows_of
from perdure.ports.store import ErrorRow


def rows_from_scratch(session: str, events: Iterable[Event]) -> list[ErrorRow]:
    """Return the rows of a session from all its events, by fingerprint. A fork's past is not its
    own: it begins with the event that says so.
    """
    own: list[Event] = []
    for event in events:
        if isinstance(event.payload, SessionForked) and event.payload.session == session:
            own.clear()
        own.append(event)
    found: dict[str, ErrorRow] = {}
    for row in rows_of(session, own):
        before = found.get(row.fingerprint)
        found[row.fingerprint] = before.followed_by(row) if before else row
    return [found[fingerprint] for fingerprint in sorted(found)]
