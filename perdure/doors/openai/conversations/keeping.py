"""Conversations of one project: made, changed, added to and taken from."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from perdure.core import events as e
from perdure.core.errors import Conflict, NotFound
from perdure.core.events import Event
from perdure.core.inbox import NOT_EDITED, AddItems, DropItem
from perdure.doors.documents import Documents
from perdure.doors.http import Call
from perdure.doors.openai.conversations import entering
from perdure.doors.openai.conversations.reading import Told, told
from perdure.doors.openai.conversations.records import (
    KIND,
    NOBODY,
    ConversationRecord,
)
from perdure.doors.openai.conversations.story import Entry
from perdure.doors.openai.problems import Wording
from perdure.doors.openai.turns.rendering import waits_for_client
from perdure.doors.repeats import Repeat
from perdure.engine.session import Session

Json = dict[str, Any]

ITEMS_MAX: Final = 20  # in one request
_METADATA_MAX: Final = 16
_KEY_CHARS: Final = 64
_VALUE_CHARS: Final = 512


class Conversations:
    """The conversations that one caller may see."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._engine = call.engine
        self._by = call.principal.id
        self._records = Documents(call.engine.kit.store, KIND, ConversationRecord)

    async def make(self, metadata: object, items: Sequence[Json]) -> ConversationRecord:
        """Begin a conversation with these items. Raises `Wording` (400)."""
        repeat = Repeat(self._call, "conversations", [metadata, list(items)])
        async with repeat.alone():
            name = await repeat.before()
            if name and (there := await self._records.find(name)):
                return there
            name = name or self._call.services.new_id("conv_").lower()
            described(metadata)  # refused here, a request has not used its key
            entering.prepared(_few(items), name.removeprefix("conv_"), set())
            await repeat.makes(name)
            return await self.make_as(name, metadata, items)

    async def make_as(
        self, name: str, metadata: object, items: Sequence[Json]
    ) -> ConversationRecord:
        """Begin a conversation under a given id."""
        record = ConversationRecord(name, self._call.services.seconds(), described(metadata))
        ready = entering.prepared(_few(items), name.removeprefix("conv_"), set())
        await self._engine.create(e.SessionCreated(name, NOBODY))
        if ready:
            await self._bring(name, 1, ready, None, "items:first")
        await self._records.put(name, record)
        return record

    async def get(self, name: str) -> ConversationRecord:
        """Return a conversation. Raises `Wording` (404)."""
        record = await self._records.find(name)
        if record is None:
            said = f"Conversation with id '{name}' not found."
            raise Wording(404, said, param="conversation_id")
        return record

    async def describe(self, name: str, metadata: object) -> ConversationRecord:
        """Put other metadata in the place of a conversation's."""
        known = await self.get(name)
        record = ConversationRecord(name, known.created_at, described(metadata))
        await self._records.put(name, record)
        return record

    async def delete(self, name: str) -> None:
        """Delete a conversation for good. A response that is being made in it is cancelled."""
        await self.get(name)
        session = Session(self._engine, name)
        with contextlib.suppress(Conflict, NotFound):
            await session.close(by=self._by)
        await self._records.delete(name)

    async def told(self, name: str, until: int | None = None) -> Told:
        """Read a conversation, up to an event. Raises `Wording` (404)."""
        await self.get(name)
        return await told(self._engine, name, until)

    async def entry(self, name: str, item: str) -> tuple[Told, Entry]:
        """Return one item. Raises `Wording` (404)."""
        found = await self.told(name)
        for entry in found.story.entries:
            if entry.id == item:
                return found, entry
        raise Wording(404, f"Item with id '{item}' not found.", param="item_id")

    async def add(self, name: str, items: Sequence[Json]) -> list[Json]:
        """Add items; return them as they are listed. Raises `Wording` (400, 404, 409)."""
        if not items:
            raise Wording(400, "There are no items to add.", param="items")
        repeat = Repeat(self._call, f"items\0{name}", list(_few(items)))
        async with repeat.alone():
            return await self._add(name, items, repeat)

    async def _add(self, name: str, items: Sequence[Json], repeat: Repeat) -> list[Json]:
        found = await self.told(name)
        before = await repeat.before()
        ids = before or self._call.services.new_id().lower()  # what new ids are made from
        if f"items:{ids}" in found.story.added:  # the request came again
            return [entry.item for entry in found.story.added[f"items:{ids}"]]
        if found.state.turn is not None:
            raise locked(retry=not waits_for_client(found.state))
        ready = entering.prepared(items, ids, {entry.id for entry in found.story.entries})
        await repeat.makes(ids)
        try:
            await self._bring(name, found.state.seq, ready, found, f"items:{ids}")
        except Wording:
            await repeat.forget()  # they did not come in: the next try is a first one
            raise
        return ready

    async def drop(self, name: str, item: str) -> None:
        """Take one item out. Raises `Wording` (404, 409)."""
        found, entry = await self.entry(name, item)
        if found.state.turn is not None:
            raise locked(retry=not waits_for_client(found.state))
        session, after = Session(self._engine, name), found.state.seq
        for entered, index in found.story.addresses(entry):
            await session.post(DropItem(entered, index, self._by))
            dropped = e.ContextDropped(entered, index, self._by)
            await self._until(session, after, dropped.__eq__)

    async def _bring(
        self, name: str, after: int, ready: list[Json], found: Told | None, key: str
    ) -> None:
        session = Session(self._engine, name)
        await session.post(AddItems(by=self._by, brought=entering.brought(ready, found)), key)
        # They come in together: the first is the sign for all.
        await self._until(session, after, lambda p: isinstance(p, e.ContextAdded) and p.key == key)

    async def _until(self, session: Session, after: int, sign: Callable[[object], bool]) -> None:
        """Wait until the letter was taken. Raises `Wording` (409) when it was refused."""
        async for item in session.follow(after):
            if not isinstance(item, Event):
                continue
            if sign(item.payload):
                return
            if item.payload == e.NoteRecorded(NOT_EDITED):
                raise locked(retry=True)


def locked(*, retry: bool) -> Wording:
    """Return the refusal of what waits for a response to end; `retry` if it ends by itself."""
    said = (
        "Another response is being made in this conversation. Please retry in a few seconds."
        if retry
        else "A response in this conversation waits for the results of its tool calls. Create the"
        " response that brings them first."
    )
    return Wording(409, said, code="conversation_locked", retry=retry)


def described(metadata: object) -> dict[str, str]:
    """Return metadata as they are kept. Raises `Wording` (400)."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise Wording(400, "metadata is an object.", param="metadata")
    if len(metadata) > _METADATA_MAX:
        raise Wording(400, f"At most {_METADATA_MAX} keys are kept.", param="metadata")
    for key, value in metadata.items():
        where = f"metadata.{key}"
        if not isinstance(value, str) or len(value) > _VALUE_CHARS or len(key) > _KEY_CHARS:
            said = f"A key has at most {_KEY_CHARS} characters, a text of {_VALUE_CHARS} behind it."
            raise Wording(400, said, param=where)
    return dict(metadata)


def _few(items: Sequence[Json]) -> Sequence[Json]:
    if len(items) > ITEMS_MAX:
        said = (
            f"Invalid 'items': array too long. Expected an array with maximum length {ITEMS_MAX}, "
            f"but got an array with length {len(items)} instead."
        )
        raise Wording(400, said, code="array_above_max_length", param="items")
    return items
