"""A store's content as a stream, while others go on writing to it.

Each session is as it was at one moment, with its inbox and its row; two sessions may be seen at
different moments. Journals only grow, so what is read up to a known end is what was there then.
"""

import re
from collections.abc import AsyncIterator, Set as AbstractSet
from typing import Final, NamedTuple, Protocol

from perdure.core.errors import CorruptJournal, InvalidRequest
from perdure.core.journal import GENESIS, Record, aside, check
from perdure.ports.carrying import Carriable, Kept
from perdure.ports.store import Store
from perdure.stores.carrying.entries import (
    Blob,
    Ends,
    Entry,
    Events,
    Summary,
    begins,
    document,
)  # fmt: skip

MARK: Final = "carried"  # the documents that say where a store's content came from
_PAGE: Final = 200
# Only a whole string of JSON is a name: what a text quotes has backslashes before its marks.
_NAME: Final = re.compile(rb'"([0-9a-f]{64})"')
_ASIDE: Final = b'{"$blob":'
_FULL: Final = re.compile(rb'"full":"([0-9a-f]{64})"')


class CarriableStore(Store, Carriable, Protocol):
    """A store that can be carried."""


def carriable(store: Store) -> CarriableStore:
    """Return the store as what can be carried. Raises `InvalidRequest` (E-STORE-CARRY)."""
    if not isinstance(store, Carriable):
        raise InvalidRequest(
            "E-STORE-CARRY",
            f"A {type(store).__name__} cannot be copied or moved. Nothing was done.",
            "Name the store itself: sqlite:///path/to/file.db, or the database's address.",
        )
    return store


class _Home(NamedTuple):
    """Where in the stream a holder's first events are: up to `until` in `session`."""

    session: str
    until: int
    first: bytes  # the hash of its first event, by which it is known under any name


class Reading:
    """One reading of a store. `sessions` are the names that have gone by."""

    def __init__(self, store: CarriableStore) -> None:
        self._store = store
        self._homes: dict[str, _Home] = {}
        self._blobs: dict[str, bool] = {}
        self.sessions: set[str] = set()
        self.summary = Summary()

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield all that the store keeps. Raises `CorruptJournal` for what is not what was
        written, and for a payload that is missing.
        """
        # Documents first: a session that no document names yet is only not found by that way.
        async for entry in self._documents():
            yield entry
        for row in await self._store.sessions():
            async for entry in self._session(row.id):
                yield entry

    async def _documents(self) -> AsyncIterator[Entry]:
        after: tuple[str, str] | None = None
        while page := await self._store.kept_docs(after):
            for doc in page:
                if doc.kind == MARK:
                    continue
                async for blob in self._named(doc.data or b""):
                    yield blob
                yield self._counted(document(doc))
            after = page[-1][:2]

    async def _session(self, name: str) -> AsyncIterator[Entry]:
        """Yield a session, and before it those that it shares events with."""
        kept = None if name in self.sessions else await self._store.kept(name)
        if kept is None:
            return
        for stretch in kept.past[:-1]:
            if not stretch.holder.startswith("\0"):
                async for entry in self._session(stretch.holder):
                    yield entry
        first = await self._hash(name, 1)
        home = self._shared(kept, first)
        base = await self._hash(name, home.until) if home.until else GENESIS
        self.sessions.add(name)
        yield self._counted(begins(kept, home.session, home.until, base))
        try:
            async for entry in self._events(kept, home.until, base):
                yield entry
        except CorruptJournal:
            if not await self._is_gone(kept, first):
                raise
            self.sessions.discard(name)
            yield self._counted(Ends(dropped=True))
            return
        self._settle(kept, first)
        yield self._counted(Ends())

    def _shared(self, kept: Kept, first: bytes) -> _Home:
        """Return up to where an earlier session of the stream has the same events."""
        for stretch in reversed(kept.past[:-1]):
            home = self._homes.get(stretch.holder)
            if home is not None and home.first == first:
                return home._replace(until=min(stretch.until, home.until))
        return _Home("", 0, first)

    def _settle(self, kept: Kept, first: bytes) -> None:
        """Remember whose events this session has brought."""
        for stretch in kept.past:
            home = self._homes.get(stretch.holder)
            newer = home is None or home.first != first or home.until < stretch.until
            if stretch.holder == kept.session or newer:
                self._homes[stretch.holder] = _Home(kept.session, stretch.until, first)

    async def _events(self, kept: Kept, at: int, base: bytes) -> AsyncIterator[Entry]:
        end = base
        while at < kept.seq:
            page = await self._store.read(kept.session, at, min(_PAGE, kept.seq - at))
            if not page:
                raise CorruptJournal("E-JOURNAL-GAP", f"{kept.session}: event {at + 1} is missing.")
            for record in page:
                _checked(kept.session, record, end, at + 1)
                at, end = record.seq, record.hash
                async for blob in self._payloads(record):
                    yield blob
            yield self._counted(Events(tuple(page)))
        if end != kept.hash:
            raise CorruptJournal(
                "E-JOURNAL-HEAD",
                f"{kept.session}: event {at} is not the end that it is said to be.",
            )

    async def _payloads(self, record: Record) -> AsyncIterator[Entry]:
        """Yield the payloads that an event names and that have not come yet."""
        where = aside(record) if _ASIDE in record.data else None
        if where is None:
            async for blob in self._named(record.data, _needed(record.type, record.data)):
                yield blob
            return
        data = await self._store.blobs.get(where.blob)
        async for blob in self._named(data, _needed(record.type, data)):
            yield blob
        if not self._blobs.get(where.blob):
            self._blobs[where.blob] = True
            yield self._counted(Blob(where.blob, data))

    async def _named(
        self, data: bytes, needed: AbstractSet[bytes] = frozenset()
    ) -> AsyncIterator[Entry]:
        """Yield what `data` names by its digest: what must be there, and what else is there."""
        for found in dict.fromkeys(_NAME.findall(data)):
            digest = found.decode()
            if digest in self._blobs and (self._blobs[digest] or found not in needed):
                continue
            try:
                blob = await self._store.blobs.get(digest)
            except CorruptJournal as error:
                # Any string of this form may be a payload's name, and most are not.
                if found in needed or error.code != "E-BLOB-MISSING":
                    raise
                self._blobs[digest] = False
                continue
            self._blobs[digest] = True
            yield self._counted(Blob(digest, blob))

    async def _is_gone(self, kept: Kept, first: bytes) -> bool:
        """Whether the session was deleted since, or its name means another one now."""
        now = await self._store.kept(kept.session)
        return now is None or now.seq < kept.seq or await self._hash(kept.session, 1) != first

    async def _hash(self, session: str, seq: int) -> bytes:
        found = await self._store.read(session, seq - 1, 1)
        return found[0].hash if found else b""

    def _counted(self, entry: Entry) -> Entry:
        self.summary.count(entry)
        return entry


def _checked(session: str, record: Record, end: bytes, seq: int) -> None:
    try:
        check(record, end, seq)
    except CorruptJournal as error:
        error.message = f"{session}: {error.message}"
        error.hint = "perdure doctor --verify    names all that is damaged"
        raise


def _needed(kind: str, data: bytes) -> AbstractSet[bytes]:
    """Return what an event cannot do without, beside its own payload."""
    return set(_FULL.findall(data)) if kind == "tool.finished" else frozenset()
