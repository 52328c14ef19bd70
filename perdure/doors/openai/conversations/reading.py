"""Reading a conversation: its items, and what its session is about to do."""

from dataclasses import dataclass

from perdure.core import events as e
from perdure.core.content import ContextItem
from perdure.core.context import Transcript
from perdure.core.errors import NotFound
from perdure.core.state import State
from perdure.core.timeline import effective
from perdure.doors.documents import Documents
from perdure.doors.openai.conversations.story import Story
from perdure.doors.openai.turns.records import KIND, ResponseRecord
from perdure.engine.journal import follow
from perdure.engine.runtime import Engine
from perdure.engine.session import Session


@dataclass
class Told:
    """A conversation as it was at `state`: what clients see of it, and what the model reads."""

    story: Story
    state: State
    transcript: list[ContextItem]


async def told(engine: Engine, conversation: str, until: int | None = None) -> Told:
    """Read a conversation, up to an event. Raises `NotFound` for one that has no session."""
    events = [event async for event in Session(engine, conversation).events(until=until)]
    if not events:
        raise NotFound("E-SESSION-UNKNOWN", f"There is no session {conversation}.", "perdure ls")
    counting = effective(events)
    responses = Documents(engine.kit.store, KIND, ResponseRecord)
    records: dict[str, ResponseRecord] = {}
    for event in counting:
        if isinstance(event.payload, e.InputAccepted) and event.payload.key.startswith(_RESPONSE):
            name = event.payload.key.removeprefix(_RESPONSE)
            record = await responses.find(name)
            if record is not None:
                records[name] = record
    story, state = Story(records), State()
    seqs = {event.seq for event in counting}
    for event in events:
        before = state
        state = await follow(engine.kit.store, conversation, state, event)
        if event.seq in seqs:
            story.feed(event, before, state)
    return Told(story, state, Transcript(counting).items)


_RESPONSE = "response:"
