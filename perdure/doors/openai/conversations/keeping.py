"""Conversations of one project: made, changed, added to and taken from."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from perdure.core import events as e
from perdure.core.codec import encode
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
    TRIES,
    ConversationRecord,
    Try,
)
from perdure.doors.openai.conversations.story import Entry
from perdure.doors.openai.problems import Wording
from perdure.doors.openai.turns.rendering import waits_for_client
from perdure.engine.session import Session

Json = dict[str, Any]

ITEMS_MAX: Final = 20  # in one request
_METADATA_MAX: Final = 16
_KEY_CHARS: Final = 64
_VALUE_CHARS: Final = 512
_AGAIN_S: Final = 600  # for so long a request that comes again is taken for the same


class Conversations:
    """The conversations that one caller may see."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._engine = call.engine
        self._by = call.principal.id
        self._records = Documents(call.engine.kit.store, KIND, ConversationRecord)
        self._tries = Documents(call.engine.kit.store, TRIES, Try)

    async def make(self, metadata: object, items: Sequence[Json]) -> ConversationRecord:
        """Begin a conversation with these items. Raises `Wording` (400)."""
        return await self.make_as(self._call.services.new_id("conv_").lower(), metadata, items)

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
        found = await self.told(name)
        ids = await self._ids(name, _few(items))
        if f"items:{ids}" in found.story.added:  # the request came again
            return [entry.item for entry in found.story.added[f"items:{ids}"]]
        if found.state.turn is not None:
            raise locked(retry=not waits_for_client(found.state))
        ready = entering.prepared(items, ids, {entry.id for entry in found.story.entries})
        await self._bring(name, found.state.seq, ready, found, f"items:{ids}")
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

    async def _ids(self, name: str, items: Sequence[Json]) -> str:
        """Return what new ids are made from: the same when a request comes again.

        One with an Idempotency-Key is known by it. Without a key a request counts as sent again
        when it says so, and the same body came a short time ago.
        """
        key = self._call.header("idempotency-key")
        told_again = self._call.header("x-stainless-retry-count") not in ("", "0")
        digest = key or hashlib.sha256(encode(list(items))).hexdigest()
        once = hashlib.sha256(f"{self._by}\0{name}\0{digest}".encode()).hexdigest()
        async with self._call.services.turns.of(once if key else ""):
            return await self._ids_of(once, again=bool(key or told_again))

    async def _ids_of(self, once: str, *, again: bool) -> str:
        now = self._call.services.seconds()
        before = await self._tries.find(once)
        if before is not None and again and now <= before.at + _AGAIN_S:
            return before.ids
        ids = self._call.services.new_id().lower()
        await self._tries.put(once, Try(ids, now))
        return ids


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
