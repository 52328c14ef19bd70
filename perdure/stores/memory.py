"""The store in memory: the reference reading of the contract in `perdure.ports.store`.

A `MemoryDisk` is what a crash leaves; each `MemoryStore` on it stands for one process. Nothing
here reads a clock or starts a thread: commits happen on the event loop, so a simulated loop can
stop the world before and after each one.
"""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar, cast

from perdure.core.errors import PerdureError, Unavailable
from perdure.core.journal import Record
from perdure.ports.store import Batch, Claim, Doc, ErrorRow, Letter, SessionRow
from perdure.stores import refusals
from perdure.stores.blobs import MemoryBlobs
from perdure.stores.faults import Faults
from perdure.stores.frozen import frozen
from perdure.stores.keys import packed
from perdure.stores.memory_carrying import MemoryCarrying
from perdure.stores.memory_docs import Docs
from perdure.stores.memory_journal import Journal, Posted, Process

T = TypeVar("T")

_NO_FAULTS: Final = Faults()


class MemoryDisk:
    """What survives a crash. Connections on the same disk see the same sessions."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        self.journals: dict[str, Journal] = {}
        self.docs = Docs()
        self.epochs_over = 0  # the highest epoch that a deleted session had
        self.connections: list[MemoryStore] = []
        self.version = 0  # counts commits, so that each connection notices those of the others


class _Write(NamedTuple):
    apply: Callable[[], object]
    future: asyncio.Future[Any]
    batch: Batch | None


class MemoryStore(MemoryCarrying):
    """One process's connection to a `MemoryDisk`.

    Writes wait for a commit, `commit_s` after the first of them, and share it. `faults` may fail
    it or kill the store around it.
    """

    def __init__(
        self,
        disk: MemoryDisk,
        node: str = "n1",
        commit_s: float = 0.0,
        faults: Faults = _NO_FAULTS,
    ) -> None:
        self._disk: MemoryDisk = disk
        self._process = Process(node)
        self._commit_s = commit_s
        self._faults = faults
        self._waiting: list[_Write] = []
        self._commit_due: asyncio.Handle | None = None
        self._seen = disk.version
        self._watcher: asyncio.Future[None] | None = None
        disk.connections.append(self)

    @property
    def node(self) -> str:
        """The name of the process this connection stands for."""
        return self._process.node

    @property
    def blobs(self) -> MemoryBlobs:
        """The blobs of the disk."""
        return self._disk.blobs

    def kill(self) -> None:
        """Die as if by SIGKILL: what waits is not written, and nothing is given up in order."""
        self._process.alive = False
        self._waiting.clear()
        if self._commit_due is not None:
            self._commit_due.cancel()
            self._commit_due = None
        if self in self._disk.connections:
            self._disk.connections.remove(self)

    async def claim(self, session: str) -> Claim:
        """See `Store.claim`."""
        return await self._write(lambda: self._claim(session))

    async def fork(self, source: str, at: int, session: str) -> None:
        """See `Store.fork`."""
        await self._write(lambda: self._fork(source, at, session))

    async def delete_session(self, session: str) -> None:
        """See `Store.delete_session`."""
        await self._write(lambda: self._delete_session(session))

    async def release(self, claim: Claim) -> None:
        """See `Store.release`."""
        await self._write(lambda: self._release(claim))

    def holds(self, claim: Claim) -> bool:
        """See `Store.holds`."""
        journal = self._disk.journals.get(claim.session)
        if journal is None or not self._process.alive:
            return False
        return (journal.owner, journal.epoch) == (self._process, claim.epoch)

    def append(self, batch: Batch) -> asyncio.Future[None]:
        """See `Store.append`."""
        kept = frozen(batch)
        return self._write(lambda: self._append(kept), kept)

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """See `Store.post`."""
        kept = bytes(body)
        return await self._write(lambda: self._post(session, key, kept))

    async def save_state(self, session: str, seq: int, data: bytes) -> None:
        """See `Store.save_state`."""
        kept = bytes(data)
        await self._write(lambda: self._save_state(session, seq, kept))

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        """See `Store.put_doc`."""
        kept = bytes(data)
        return await self._write(lambda: self._disk.docs.put(kind, name, kept, expect))

    async def delete_doc(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`."""
        await self._write(lambda: self._disk.docs.delete(kind, name))

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        """See `Store.docs`."""
        self._check_open()
        return self._disk.docs.of(kind, prefix, after, limit)

    async def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        self._check_open()
        return self._disk.docs.one(kind, name)

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """See `Store.read`."""
        journal = self._journal(session)
        return journal.read(after, limit) if journal else []

    async def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        journal = self._journal(session)
        posted = journal.letters.items() if journal else ()
        return [Letter(key, each.body) for key, each in posted if each.body is not None]

    async def mailboxes(self, prefix: str = "") -> list[str]:
        """See `Store.mailboxes`."""
        return [name for name in self._names(prefix) if await self.inbox(name)]

    async def sessions(self, prefix: str = "") -> list[SessionRow]:
        """See `Store.sessions`."""
        rows = [row for name in self._names(prefix) if (row := await self.session(name))]
        return sorted(rows, key=lambda row: (-row.updated_at_us, row.id))

    async def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        journal = self._journal(session)
        if journal is None or not journal.records:
            return None
        return journal.row or SessionRow(id=session, seq=journal.seq)

    async def ends(self, sessions: Sequence[str]) -> dict[str, int]:
        """See `Store.ends`."""
        journals = {name: self._journal(name) for name in sessions}
        return {name: each.seq for name, each in journals.items() if each and each.records}

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        """See `Store.due`."""
        journals = [self._disk.journals[name] for name in self._names(prefix)]
        rows = [each.row for each in journals if each.row is not None]
        found = sorted((r.wake_at_us, r.id) for r in rows if 0 < r.wake_at_us <= now_us)
        return [name for _, name in found[:limit]]

    async def abandoned(self, limit: int = 100) -> list[str]:
        """See `Store.abandoned`."""
        journals = [(name, self._disk.journals[name]) for name in self._names("")]
        return sorted(name for name, journal in journals if journal.is_abandoned)[:limit]

    async def errors(self, prefix: str = "") -> list[ErrorRow]:
        """See `Store.errors`."""
        journals = [self._disk.journals[name] for name in self._names(prefix)]
        found = [row for each in journals for row in each.errors.values()]
        return sorted(found, key=lambda row: (row.session, packed(row.fingerprint)))

    async def load_state(self, session: str) -> tuple[int, bytes] | None:
        """See `Store.load_state`."""
        journal = self._journal(session)
        return journal.newest_state() if journal else None

    async def changed(self, timeout_s: float) -> bool:
        """See `Store.changed`."""
        self._check_open()
        if self._seen == self._disk.version:
            if self._watcher is None or self._watcher.done():
                self._watcher = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._watcher], timeout=timeout_s)
        changed = self._seen != self._disk.version
        self._seen = self._disk.version
        return changed

    async def close(self) -> None:
        """See `Store.close`."""
        if not self._process.alive:
            return
        try:
            await self._write(self._release_all)
        except Unavailable:
            pass  # no room even for that: the next owner finds the sessions unreleased
        finally:
            self.kill()

    def _write(self, apply: Callable[[], T], batch: Batch | None = None) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._process.alive:
            future.set_exception(refusals.closed())
            return future
        self._waiting.append(_Write(apply, future, batch))
        if self._commit_due is None:
            self._commit_due = (
                loop.call_later(self._commit_s, self._commit)
                if self._commit_s
                else loop.call_soon(self._commit)
            )
        return future

    def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        self._commit_due = None
        batches = tuple(each.batch for each in group if each.batch is not None)
        try:
            self._faults.before_commit(batches)
        except PerdureError as error:
            _fail(group, error)
            return
        if not self._process.alive:
            return
        outcomes = [_outcome(each.apply) for each in group]
        self._announce()
        try:
            self._faults.after_commit(batches)
        except PerdureError as error:
            _fail(group, error)
            return
        if self._process.alive:
            for each, outcome in zip(group, outcomes, strict=True):
                _resolve(each.future, outcome)

    def _announce(self) -> None:
        self._disk.version += 1
        self._seen += 1  # what this connection wrote itself is no news to it
        for other in self._disk.connections:
            if other is not self:
                other.poke()

    def poke(self) -> None:
        """Wake `changed`: another connection has committed."""
        if self._watcher is not None and not self._watcher.done():
            self._watcher.set_result(None)

    def _claim(self, session: str) -> Claim:
        if not refusals.is_name(session):
            raise refusals.unfit_name(session)
        journal = self._disk.journals.setdefault(session, Journal(self._disk.epochs_over))
        owner = self._checked_owner(session, journal)
        clean = owner is None or owner is self._process
        journal.owner = self._process
        journal.epoch += 1
        return Claim(session, journal.epoch, journal.seq, journal.hash, clean)

    def _checked_owner(self, session: str, journal: Journal) -> Process | None:
        owner = journal.owner
        if owner is not None and owner is not self._process and owner.alive:
            raise refusals.busy(session)
        return owner

    def _fork(self, source: str, at: int, session: str) -> None:
        if not refusals.is_name(session):
            raise refusals.unfit_name(session)
        past = self._journal(source)
        part = past.part_with(at) if past else None
        if part is None:
            raise refusals.no_event(source, at)
        journal = self._disk.journals.get(session) or Journal(self._disk.epochs_over)
        if journal.records:
            raise refusals.exists(session)
        self._checked_owner(session, journal)
        journal.begin_after(part.journal, at)
        self._disk.journals[session] = journal

    def _delete_session(self, session: str) -> None:
        journal = self._disk.journals.get(session)
        if journal is None:
            return
        self._checked_owner(session, journal)
        # Forks hold the journal itself: it is gone with the last of them.
        del self._disk.journals[session]
        self._disk.epochs_over = max(self._disk.epochs_over, journal.epoch)

    def _release(self, claim: Claim) -> None:
        journal = self._disk.journals.get(claim.session)
        if journal and journal.owner is self._process and journal.epoch == claim.epoch:
            journal.owner = None

    def _release_all(self) -> None:
        for journal in self._disk.journals.values():
            if journal.owner is self._process:
                journal.owner = None

    def _append(self, batch: Batch) -> None:
        journal = self._disk.journals.get(batch.session)
        self._check_append(journal, batch)
        assert journal is not None
        journal.records.extend(batch.records)
        journal.row = batch.row or journal.row
        for error in batch.errors:
            journal.count(error)
        for key in batch.taken:
            if letter := journal.letters.get(key):
                journal.letters[key] = letter._replace(body=None)

    def _check_append(self, journal: Journal | None, batch: Batch) -> None:
        refusals.checked_gaps(batch)
        if journal is None or (journal.owner, journal.epoch) != (self._process, batch.epoch):
            raise refusals.lease_lost(batch)
        if journal.seq != batch.expected_seq:
            raise refusals.stale(batch, journal.seq)

    def _post(self, session: str, key: str, body: bytes) -> bool:
        journal = self._journal(session)
        if journal is None or not journal.records:
            raise refusals.unknown(session)
        digest = sha256(body).digest()
        if before := journal.letters.get(key):
            if before.digest != digest:
                raise refusals.reused(session, key)
            return False
        journal.letters[key] = Posted(digest, body)
        return True

    def _save_state(self, session: str, seq: int, data: bytes) -> None:
        journal = self._journal(session)
        if journal and (journal.state is None or journal.state[0] <= seq):
            journal.state = (seq, data)

    def _journal(self, session: str) -> Journal | None:
        self._check_open()
        return self._disk.journals.get(session)

    def _names(self, prefix: str) -> Sequence[str]:
        self._check_open()
        return [name for name in self._disk.journals if name.startswith(prefix)]

    def _check_open(self) -> None:
        if not self._process.alive:
            raise refusals.closed()


def _outcome(apply: Callable[[], object]) -> object:
    try:
        return apply()
    except PerdureError as error:
        return error


def _fail(group: Sequence[_Write], error: PerdureError) -> None:
    for each in group:
        _resolve(each.future, error)


def _resolve(future: asyncio.Future[Any], outcome: object) -> None:
    if future.done():  # its caller was cancelled; the write stands all the same
        return
    if isinstance(outcome, PerdureError):
        future.set_exception(outcome)
    else:
        future.set_result(cast(Any, outcome))
