"""What a write does to the tables. Runs inside the transaction of a group."""

from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, cast

import apsw
import msgspec

from perdure.core.codec import Reader, encode
from perdure.core.journal import GENESIS
from perdure.ports.store import Batch, Claim, ErrorRow
from perdure.stores import refusals
from perdure.stores.keys import packed
from perdure.stores.sqlite.nodes import Node
from perdure.stores.sqlite.statements import Statements

_TOGETHER: Final = 32  # as many rows as insert_events.sql has
_ERRORS: Final = Reader[ErrorRow](ErrorRow)


def error_row(data: bytes) -> ErrorRow | None:
    """Read a row of the index of errors; None for one that is damaged: the journal has it all."""
    try:
        return _ERRORS.read(data)
    except msgspec.DecodeError:
        return None


class Session(NamedTuple):
    """A session's line in the table."""

    id: int
    epoch: int
    owner: str | None
    seq: int
    hash: bytes
    base: int  # the event a fork begins after; 0 for a session of its own

    @property
    def is_empty(self) -> bool:
        """Whether it has no event of its own."""
        return self.seq == self.base


class Tables:
    """The tables, as one connection writes them."""

    def __init__(
        self, path: Path, connection: apsw.Connection, sql: Statements, node: Node
    ) -> None:
        self.path = path
        self.connection = connection
        self.sql = sql
        self._file = _file(path)
        self._node = node
        self._events: list[tuple[int, int, str, bytes, bytes]] = []

    def begin(self) -> None:
        """Begin a transaction; waits for other processes that write."""
        self._events.clear()
        self.connection.execute(self.sql.begin)

    def check_place(self) -> None:
        """Raise `Unavailable` (E-STORE-REPLACED) when another file has taken the place of ours."""
        if _file(self.path) != self._file:
            raise refusals.replaced(self.path)

    def commit(self) -> None:
        """End the transaction; durable on return."""
        self.connection.execute(self.sql.commit)

    def rollback(self) -> None:
        """Undo the transaction, unless SQLite has done so already."""
        if self.connection.in_transaction:
            self.connection.execute(self.sql.rollback)

    def flush(self) -> None:
        """Insert the events of all batches at once."""
        rows = self._events
        together = len(rows) - len(rows) % _TOGETHER
        for start in range(0, together, _TOGETHER):
            values = tuple(chain.from_iterable(rows[start : start + _TOGETHER]))
            self.connection.execute(self.sql.insert_events, values)
        if rest := rows[together:]:
            self.connection.executemany(self.sql.insert_event, rest)

    def find(self, session: str) -> Session | None:
        """Look a session up by its name."""
        if not refusals.is_name(session):
            return None
        row = self.connection.execute(self.sql.find_session, (session,)).fetchone()
        return Session(*row) if row else None

    def exists(self, name: str) -> bool:
        """Whether there is a session of that name."""
        return self.find(name) is not None

    def claim(self, name: str) -> Claim:
        """See `Store.claim`."""
        if not refusals.is_name(name):
            raise refusals.unfit_name(name)
        self.connection.execute(self.sql.insert_session, (name, GENESIS))
        session = self.find(name)
        assert session is not None
        if self._is_held(session):
            raise refusals.busy(name)
        clean = session.owner is None or session.owner == self._node.name
        self.connection.execute(self.sql.claim, (session.id, self._node.name))
        return Claim(name, session.epoch + 1, session.seq, session.hash, clean)

    def fork(self, source: str, at: int, name: str) -> None:
        """See `Store.fork`."""
        if not refusals.is_name(name):
            raise refusals.unfit_name(name)
        self.flush()  # what is forked may have come with the same group
        origin = self._event(source, at)
        if origin is None:
            raise refusals.no_event(source, at)
        self.connection.execute(self.sql.insert_session, (name, GENESIS))
        session = self.find(name)
        assert session is not None
        if not session.is_empty:
            raise refusals.exists(name)
        if self._is_held(session):
            raise refusals.busy(name)
        self.connection.execute(self.sql.fork, (session.id, origin[0], at, origin[1]))
        self.connection.execute(self.sql.drop_state, (session.id,))

    def delete_session(self, name: str) -> None:
        """See `Store.delete_session`."""
        self.flush()  # its last events may have come with the same group
        session = self.find(name)
        if session is None:
            return
        if self._is_held(session):
            raise refusals.busy(name)
        run = self.connection.execute
        run(self.sql.note_epoch, (session.epoch,))
        run(self.sql.delete_letters, (session.id,))
        run(self.sql.delete_errors, (session.id,))
        self._thin(session.id)

    def _thin(self, gone: int) -> None:
        """Delete what no fork reads of a session that is gone, and of those it was a fork of."""
        run = self.connection.execute
        while True:
            kept = run(self.sql.forks_of, (gone,)).fetchall()[0][0]
            run(self.sql.delete_events, (gone, kept or 0))
            run(self.sql.delete_states, (gone, kept or 0))
            if kept is not None:
                run(self.sql.bury, (gone, kept, f"\0{gone}"))
                return
            origin = run(self.sql.delete_row, (gone,)).fetchall()[0][0]
            if origin is None or not run(self.sql.find_buried, (origin,)).fetchall():
                return
            gone = int(origin)

    def is_fork(self, source: str, at: int, name: str) -> bool:
        """Whether that session begins after event `at` of `source`."""
        session, origin = self.find(name), self._event(source, at)
        where = (session.base, session.hash) if session and session.is_empty else None
        return origin is not None and where == (at, origin[1])

    def owns(self, claim: Claim) -> bool:
        """Whether the claim is in force."""
        session = self.find(claim.session)
        return session is not None and self._holds(session, claim.epoch)

    def release(self, claim: Claim) -> None:
        """See `Store.release`."""
        values = (claim.session, self._node.name, claim.epoch)
        if refusals.is_name(claim.session):
            self.connection.execute(self.sql.release, values)

    def release_all(self) -> None:
        """Give up everything this connection owns."""
        self.connection.execute(self.sql.release_all, (self._node.name,))

    def append(self, batch: Batch) -> None:
        """See `Store.append`."""
        refusals.checked_gaps(batch)
        number = self._advance(batch)
        self._events.extend((number, r.seq, r.type, r.data, r.hash) for r in batch.records)
        for error in batch.errors:
            self._count(number, error)
        for key in batch.taken:
            self.connection.execute(self.sql.take, (number, packed(key)))

    def has(self, batch: Batch) -> bool | None:
        """Whether the batch's last record is in the journal; None if it had none."""
        if not batch.records:
            return None
        last = batch.records[-1]
        row = self.connection.execute(self.sql.read_hash, (batch.session, last.seq)).fetchone()
        return row is not None and row[0] == last.hash

    def post(self, name: str, key: str, body: bytes) -> bool:
        """See `Store.post`."""
        session = self.find(name)
        if session is None or session.is_empty:
            raise refusals.unknown(name)
        digest = sha256(body).digest()
        before = self._digest(session.id, key)
        if before is None:
            values = (session.id, packed(key), digest, body)
            self.connection.execute(self.sql.insert_letter, values)
            return True
        if before != digest:
            raise refusals.reused(name, key)
        return False

    def has_letter(self, name: str, key: str) -> bool:
        """Whether that key was posted."""
        session = self.find(name)
        return session is not None and self._digest(session.id, key) is not None

    def save_state(self, session: str, seq: int, data: bytes) -> None:
        """See `Store.save_state`."""
        if refusals.is_name(session):
            self.connection.execute(self.sql.save_state, (session, seq, data))

    def put_doc(self, kind: str, name: str, data: bytes, expect: int | None) -> int:
        """See `Store.put_doc`."""
        values = (packed(kind), packed(name))
        row = self.connection.execute(self.sql.find_doc, values).fetchone()
        version: int = row[0] if row else 0
        there = version if row and row[1] is not None else 0
        if expect is not None and expect != there:
            raise refusals.doc_changed(kind, name, expect, there)
        self.connection.execute(self.sql.put_doc, (*values, version + 1, data))
        return version + 1

    def doc_version(self, kind: str, name: str) -> int:
        """Return the last version that a document had; 0 for one that never was."""
        row = self.connection.execute(self.sql.find_doc, (packed(kind), packed(name))).fetchone()
        return cast(int, row[0]) if row else 0

    def delete_doc(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`."""
        self.connection.execute(self.sql.delete_doc, (packed(kind), packed(name)))

    def _advance(self, batch: Batch) -> int:
        end = batch.records[-1] if batch.records else None
        row = batch.row
        values = (
            batch.session,
            self._node.name,
            batch.epoch,
            batch.expected_seq,
            end.seq if end else batch.expected_seq,
            end.hash if end else None,
            encode(row) if row else None,
            row.updated_at_us if row else None,
            row.wake_at_us if row else None,
            row.status == "running" and not row.parent if row else None,
        )
        # fetchall: a statement that is not read to its end has not changed anything yet.
        moved = self.connection.execute(self.sql.advance, values).fetchall()
        if moved:
            return cast(int, moved[0][0])
        session = self.find(batch.session)
        if session is None or not self._holds(session, batch.epoch):
            raise refusals.lease_lost(batch)
        raise refusals.stale(batch, session.seq)

    def _count(self, session: int, error: ErrorRow) -> None:
        values = (session, packed(error.fingerprint))
        row = self.connection.execute(self.sql.find_error, values).fetchone()
        before = error_row(row[0]) if row else None
        merged = before.followed_by(error) if before else error
        self.connection.execute(self.sql.put_error, (*values, encode(merged)))

    def _event(self, name: str, seq: int) -> tuple[int, bytes] | None:
        """Return the session in which event `seq` of this one lies, and the event's hash."""
        if not refusals.is_name(name):
            return None
        return self.connection.execute(self.sql.find_event, (name, seq)).fetchone()

    def _is_held(self, session: Session) -> bool:
        """Whether another process owns it that is alive."""
        owner = session.owner
        return owner not in (None, self._node.name) and not self._node.is_dead(owner or "")

    def _holds(self, session: Session, epoch: int) -> bool:
        return (session.owner, session.epoch) == (self._node.name, epoch)

    def _digest(self, id: int, key: str) -> bytes | None:
        row = self.connection.execute(self.sql.find_letter, (id, packed(key))).fetchone()
        return bytes(row[0]) if row else None


def _file(path: Path) -> tuple[int, int] | None:
    """Return which file is behind a name; None: none that could be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
