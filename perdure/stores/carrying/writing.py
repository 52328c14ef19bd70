"""Taking a stream of entries in, so that it can be cut anywhere and begun anew.

What is there already and is the same is left as it is. A session's row and errors come in one
transaction with its last events: one that has a row is whole.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias

from perdure.core.errors import Conflict, CorruptJournal
from perdure.core.journal import GENESIS, Record, check
from perdure.ports.carrying import Kept
from perdure.ports.store import Batch, Claim
from perdure.stores.carrying.entries import (
    Begins,
    Blob,
    Document,
    Ends,
    Entry,
    Events,
    Summary,
    doc_of,
    errors_of,
    letters_of,
    row_of,
)  # fmt: skip
from perdure.stores.carrying.reading import CarriableStore

_PAGE: Final = 500
_AT_ONCE: Final = 32  # sessions that are written at the same time
_AHEAD: Final = 2  # pages of events that wait for one of them
_READERS: Final = 8


_Parts: TypeAlias = asyncio.Queue[Events | Ends]


class _Taken(NamedTuple):
    """What a session must be like when all is done."""

    at: int
    base: bytes
    seq: int
    hash: bytes


class Writing:
    """Writes one stream into a store; afterwards `verify` reads what is there.

    Many sessions are written at once, so that they share commits; a fork waits for its origin. Call
    `settle` when the stream has ended, and `abandon` when it has not.
    """

    def __init__(self, store: CarriableStore) -> None:
        self._store = store
        self._now: _Parts | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._error: BaseException | None = None
        self._taken: dict[str, _Taken] = {}
        self.written = 0  # events that were not there before
        self.summary = Summary()

    async def take(self, entry: Entry) -> None:
        """Write an entry, or begin to. Raises `CorruptJournal` for what is not what it says it is,
        perhaps of an entry that was taken before.
        """
        self._check()
        self.summary.count(entry)
        match entry:
            case Document():
                await self._begin(f"\0{self.summary.documents}", self._document(entry))
            case Blob(digest=digest, data=data):
                await self._blob(digest, data)  # it must be there before the event that names it
            case Begins():
                parts: _Parts = asyncio.Queue(_AHEAD)
                before = [self._tasks.get(entry.of), self._tasks.get(entry.session)]
                await self._begin(entry.session, self._session(entry, parts, before))
                self._now = parts
            case Events() | Ends() if self._now is not None:
                await self._now.put(entry)
                if isinstance(entry, Ends):
                    self._now = None
            case _:
                raise CorruptJournal("E-BACKUP-CORRUPT", "Events came without a session.")

    async def settle(self) -> None:
        """Wait until all that was taken is written. Raises what was wrong with it."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        self._check()

    async def abandon(self) -> None:
        """Let go of what is being written."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _begin(self, name: str, work: Coroutine[None, None, None]) -> None:
        while len(self._tasks) >= _AT_ONCE:
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # those that are done leave the table
        task = asyncio.ensure_future(work)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._end(name, done))

    def _end(self, name: str, done: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is done:
            del self._tasks[name]
        if not done.cancelled() and done.exception() is not None:
            self._error = self._error or done.exception()

    async def _document(self, entry: Document) -> None:
        await self._store.keep_doc(doc_of(entry))

    async def _session(
        self, entry: Begins, parts: "_Parts", before: Sequence[asyncio.Task[None] | None]
    ) -> None:
        try:
            await self._written(entry, parts, before)
        except BaseException as error:
            self._error = self._error or error
            while not parts.empty():  # whoever brings more must not wait: the next one is refused
                parts.get_nowait()
            raise

    async def _written(
        self, entry: Begins, parts: "_Parts", before: Sequence[asyncio.Task[None] | None]
    ) -> None:
        if earlier := [task for task in before if task is not None]:
            await asyncio.wait(earlier)
            self._check()
        now = await _begun(self._store, entry)
        while isinstance(part := await parts.get(), Events):
            count = await now.events(part.records)
            self.written += count
        if part.dropped:
            await self._store.delete_session(entry.session)
            return
        count = await now.end()
        self.written += count
        self._taken[entry.session] = _Taken(entry.at, entry.base, entry.seq, entry.hash)

    async def forget_others(self, sessions: set[str]) -> None:
        """Delete the sessions that are not among these: an earlier attempt left them."""
        for row in await self._store.sessions():
            if row.id not in sessions:
                await self._store.delete_session(row.id)
                self._taken.pop(row.id, None)

    async def verify(self) -> int:
        """Read every session again and check its chain up to the end that it must have; return how
        many events that were. Raises `CorruptJournal`.
        """
        left = iter(list(self._taken.items()))
        counts = await asyncio.gather(*(self._verified(left) for _ in range(_READERS)))
        return sum(counts)

    async def _verified(self, left: Iterator[tuple[str, _Taken]]) -> int:
        """Check sessions until none is left."""
        count = 0
        for session, taken in left:
            # What lies before `at` is another session's, which is checked as that.
            at, end = taken.at, taken.base if taken.at else GENESIS
            if at:
                before = await self._store.read(session, at - 1, 1)
                if not before or before[0].hash != end:
                    raise _differs(session, at)
            while at < taken.seq and (page := await self._store.read(session, at, _PAGE)):
                for record in page:
                    check(record, end, at + 1)
                    at, end = record.seq, record.hash
                count += len(page)
            if (at, end) != (taken.seq, taken.hash):
                raise _differs(session, at)
        return count

    async def _blob(self, digest: str, data: bytes) -> None:
        if sha256(data).hexdigest() != digest:
            raise CorruptJournal("E-BLOB-CORRUPT", f"The payload {digest} is not what it says.")
        await self._store.blobs.put(data)


class _Session:
    """A session being written. Its last events wait for the end, so that the row goes along."""

    def __init__(self, store: CarriableStore, entry: Begins, claim: Claim | None) -> None:
        self.entry = entry
        self._store = store
        self._claim = claim  # None: all of it is there
        self._seq, self._hash = (claim.seq, claim.hash) if claim else (entry.seq, entry.hash)
        self._waiting: list[Record] = []

    async def events(self, records: tuple[Record, ...]) -> int:
        """Write what is not there of them, but keep the last ones back; return how many."""
        if self._claim is None:
            return 0
        fresh: list[Record] = []
        for record in records:
            if record.seq == self._claim.seq and record.hash != self._claim.hash:
                raise _differs(self.entry.session, record.seq)
            if record.seq > self._claim.seq:
                check(record, self._hash, self._seq + 1)
                self._seq, self._hash = record.seq, record.hash
                fresh.append(record)
        if not fresh:
            return 0
        written = await self._append(whole=False)
        self._waiting = fresh
        return written

    async def end(self) -> int:
        """Write the rest, and see that all is as it should be; return how many events that was."""
        if (self._seq, self._hash) != (self.entry.seq, self.entry.hash):
            raise _differs(self.entry.session, self._seq)
        written = 0 if self._claim is None else await self._append(whole=True)
        if letters := letters_of(self.entry):
            await self._store.keep_letters(self.entry.session, letters)
        if not _same(await self._store.kept(self.entry.session), self.entry):
            raise _differs(self.entry.session, self._seq)
        return written

    async def _append(self, *, whole: bool) -> int:
        if not self._waiting and not whole:
            return 0
        assert self._claim is not None
        first = self._waiting[0].seq - 1 if self._waiting else self._seq
        row, errors = (row_of(self.entry), errors_of(self.entry)) if whole else (None, ())
        batch = Batch(
            self.entry.session, self._claim.epoch, first, self._waiting, (), row, errors
        )  # fmt: skip
        await self._store.append(batch)
        return len(self._waiting)


async def _begun(store: CarriableStore, entry: Begins) -> _Session:
    """Return the session, standing where an earlier attempt left it."""
    there = await store.kept(entry.session)
    if there is not None:
        if _same(there, entry, some_letters=True):
            return _Session(store, entry, None)
        claim = await store.claim(entry.session)
        if there.row is None and not there.errors and entry.at < claim.seq <= entry.seq:
            return _Session(store, entry, claim)
        await store.delete_session(entry.session)  # it has changed since, or was another one
    if entry.of:
        await store.fork(entry.of, entry.at, entry.session)
    claim = await store.claim(entry.session)
    if not entry.of and claim.seq:  # a fork that an earlier attempt did not get beyond
        await store.delete_session(entry.session)
        claim = await store.claim(entry.session)
    if (claim.seq, claim.hash) != (entry.at, entry.base or GENESIS):
        raise _differs(entry.session, claim.seq)
    return _Session(store, entry, claim)


def _same(there: Kept | None, entry: Begins, *, some_letters: bool = False) -> bool:
    """Whether a session is all that it should be; perhaps but for the last of its letters."""
    if there is None:
        return False
    letters = letters_of(entry)
    if some_letters:
        letters = letters[: len(there.letters)]
    found = (there.seq, there.hash, there.row, there.errors, there.letters)
    return found == (entry.seq, entry.hash, row_of(entry), errors_of(entry), letters)


def _differs(session: str, seq: int) -> Conflict:
    return Conflict(
        "E-MOVE-DIFFERS",
        f"{session} is not at the target what it is at the source, from event {seq} on."
        " The source was not changed.",
        "Begin again with a new, empty target; perdure doctor --verify checks the source.",
    )
