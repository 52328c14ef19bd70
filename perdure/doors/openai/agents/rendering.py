"""A session's stream: a pure function of its journal, numbered by the journal's own events.

The `n`-th thing that event `seq` tells is `{seq}.{n}`, whoever asks and whenever: so a reader can
go on behind any of them, with nothing missing and nothing twice, after a restart as well.
"""

from typing import Any, Final

from perdure.core import events as e
from perdure.core.events import Event
from perdure.core.state import State
from perdure.doors.openai.agents.records import SessionRecord
from perdure.doors.openai.agents.story import Story
from perdure.doors.openai.agents.views import actions_of, session_json, status_of
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]
Place = tuple[int, int]
_ID_MAX: Final = 40


def place_of(id: str) -> Place:
    """Return the place in the stream that an event's id names. Raises `Wording` (400)."""
    seq, dot, number = id.partition(".")
    known = len(id) <= _ID_MAX and dot and seq.isdecimal() and number.isdecimal()
    if not known or int(seq) < 1:
        raise Wording(400, f"{id!r} is no event of this stream.", param="Last-Event-ID")
    return int(seq), int(number)


class Rendering:
    """One reader's stream. `recall` the events before the place it begins at, `feed` the others,
    each with the states before and behind it.
    """

    def __init__(self, record: SessionRecord) -> None:
        self._record = record
        self._story = Story(record)

    def recall(self, event: Event) -> None:
        """Take an event that the reader knows about."""
        self._story.feed(event)

    def feed(self, event: Event, before: State, after: State) -> list[Json]:
        """Return what an event adds to the stream."""
        told = self._story.feed(event)
        if isinstance(event.payload, e.SessionCreated):
            told.append(self._session("created", after))
        now = status_of(after)
        changed = before.seq > 0 and now != status_of(before)
        if changed or (now == "requires_action" and self._asks_else(before, after)):
            told.append(self._session(now, after))
        return [{**each, "event_id": f"{event.seq}.{n}"} for n, each in enumerate(told)]

    def _asks_else(self, before: State, after: State) -> bool:
        return actions_of(self._record, before) != actions_of(self._record, after)

    def _session(self, what: str, state: State) -> Json:
        return {"type": f"agent.session.{what}", "session": session_json(self._record, state)}
