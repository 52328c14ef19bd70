"""Reading a session: as it is now, as turns and items, or as a stream."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from perdure.core.state import State
from perdure.doors.openai.agents import records
from perdure.doors.openai.agents.records import SessionRecord
from perdure.doors.openai.agents.rendering import Place, Rendering, place_of
from perdure.doors.openai.agents.story import Story, TurnView
from perdure.doors.openai.agents.views import session_json, status_of
from perdure.doors.openai.following import followed
from perdure.doors.openai.problems import Wording
from perdure.engine.journal import follow
from perdure.engine.runtime import Engine
from perdure.engine.session import Session

Json = dict[str, Any]

START: Final[Place] = (1, -1)
_ENDS: Final = ("agent.session.idle", "agent.session.failed", "agent.session.budget_reached")


@dataclass(frozen=True)
class Told:
    """A session's story so far, and the state it has come to."""

    story: Story
    state: State

    def turn_json(self, turn: TurnView) -> Json:
        """Return a turn; one that is open waits where the session does."""
        waits = turn.completed_at is None and status_of(self.state) == "requires_action"
        return self.story.turn_json(turn, "waiting" if waits else None)


class Reader:
    """Reads the sessions of one project."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def record(self, name: str) -> SessionRecord:
        """Return what is kept of a session. Raises `Wording` (404)."""
        record = await records.sessions(self._engine.kit.store).find(name)
        if record is None:
            raise Wording(404, f"No session found with id '{name}'.", param="session_id")
        return record

    async def now(self, record: SessionRecord) -> Json:
        """Return a session as it is now, and see to it that somebody works on it."""
        state = await Session(self._engine, record.id).state()
        if status_of(state) == "in_progress":
            self._engine.wake(record.id)
        return session_json(record, state)

    async def told(self, record: SessionRecord, subagent: str = "") -> Told:
        """Return the story of a session, or of one of its subagents. Raises `Wording` (404)."""
        name = subagent or record.id
        if subagent and await self._is_missing(record, subagent):
            raise Wording(404, f"No subagent found with id '{subagent}'.", param="subagent_id")
        session = Session(self._engine, name)
        state = await session.state()
        story = Story(record, subagent)
        async for event in session.events(until=state.seq):
            story.feed(event)
        return Told(story, state)

    async def place(self, record: SessionRecord, last: str) -> Place:
        """Return where a reader begins who has seen the event `last`; "" for: now.

        Raises `Wording` (400) for an event that is none of the session's.
        """
        state = await Session(self._engine, record.id).state()
        if not last:
            return state.seq + 1, -1
        place = place_of(last)
        if place[0] > state.seq:
            raise Wording(400, f"{last!r} is no event of this stream.", param="Last-Event-ID")
        return place

    async def stream(
        self, record: SessionRecord, place: Place, *, until_rest: bool = False
    ) -> AsyncIterator[Json]:
        """Yield the session's events behind `place`; with `until_rest` until a turn is over and
        nothing more is due.
        """
        seq, number = place
        session, rendering = Session(self._engine, record.id), Rendering(record)
        state = await session.state(seq - 1) if seq > 1 else State()
        if seq > 1:
            async for event in session.events(until=seq - 1):
                rendering.recall(event)
        async with aclosing(followed(self._engine, record.id, seq - 1)) as events:
            async for event in events:
                before = state
                state = await follow(self._engine.kit.store, record.id, before, event)
                for made in rendering.feed(event, before, state):
                    if event.seq > seq or int(made["event_id"].partition(".")[2]) > number:
                        yield made
                    if until_rest and made["type"] in _ENDS:
                        return

    async def _is_missing(self, record: SessionRecord, subagent: str) -> bool:
        row = await self._engine.kit.store.session(subagent)
        while row is not None and row.parent and row.parent != record.id:
            row = await self._engine.kit.store.session(row.parent)
        return row is None or not row.parent
