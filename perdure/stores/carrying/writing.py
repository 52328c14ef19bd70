"""Taking a stream of entries in, so that it can be cut anywhere and begun anew.

What is there already and is the same is left as it is. A session's row and errors come in one
transaction with its last events: one that has a row is whole.
"""

from hashlib import sha256
from typing import Final, NamedTuple

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


class _Taken(NamedTuple):
    """What a session must be like when all is done."""

    at: int
    base: bytes
    seq: int
    hash: bytes


class Writing:
    """Writes one stream into a store; afterwards `verify` reads what is there."""

    def __init__(self, store: CarriableStore) -> None:
        self._store = store
        self._now: _Session | None = None
        self._taken: dict[str, _Taken] = {}
        self.written = 0  # events that were not there before
        self.summary = Summary()

    async def take(self, entry: Entry) -> None:
        """Write an entry. Raises `CorruptJournal` for what is not what it says it is."""
        self.summary.count(entry)
        match entry:
            case Document():
                await self._store.keep_doc(doc_of(entry))
            case Blob(digest=digest, data=data):
                await self._blob(digest, data)
            case Begins():
                self._now = await _begun(self._store, entry)
            case Events(records=records) if self._now is not None:
                self.written += await self._now.events(records)
            case Ends(dropped=True) if self._now is not None:
                await self._store.delete_session(self._now.entry.session)
                self._taken.pop(self._now.entry.session, None)
                self._now = None
            case Ends() if self._now is not None:
                self.written += await self._now.end()
                begun = self._now.entry
                self._taken[begun.session] = _Taken(begun.at, begun.base, begun.seq, begun.hash)
                self._now = None
            case _:
                raise CorruptJournal("E-BACKUP-CORRUPT", "Events came without a session.")

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
        count = 0
        for session, taken in self._taken.items():
            # What lies before `at` is another session's, which is checked as that.
            at, end = taken.at, taken.base if taken.at else GENESIS
            if at:
                before = await self._store.read(session, at - 1, 1)
                if not before or before[0].hash != end:
                    raise _differs(session, at)
            while page := await self._store.read(session, at, _PAGE):
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
