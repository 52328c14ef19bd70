"""What a write does to the tables. Runs inside the transaction of a group."""

from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, cast

import apsw

from perdure.core.codec import encode
from perdure.core.journal import GENESIS
from perdure.ports.store import Batch, Claim
from perdure.stores import refusals
from perdure.stores.sqlite.nodes import Node
from perdure.stores.sqlite.statements import Statements

_TOGETHER: Final = 32  # as many rows as insert_events.sql has


class Session(NamedTuple):
    """A session's line in the table."""

    id: int
    epoch: int
    owner: str | None
    seq: int
    hash: bytes


class Tables:
    """The tables, as one connection writes them."""

    def __init__(
        self, path: Path, connection: apsw.Connection, sql: Statements, node: Node
    ) -> None:
        self.path = path
        self.connection = connection
        self.sql = sql
        self._node = node
        self._events: list[tuple[int, int, str, bytes, bytes]] = []

    def begin(self) -> None:
        """Begin a transaction; waits for other processes that write."""
        self._events.clear()
        self.connection.execute(self.sql.begin)

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

    def claim(self, name: str) -> Claim:
        """See `Store.claim`."""
        if not refusals.is_name(name):
            raise refusals.unfit_name(name)
        self.connection.execute(self.sql.insert_session, (name, GENESIS))
        session = self.find(name)
        assert session is not None
        clean = session.owner is None or session.owner == self._node.name
        if not clean and not self._node.is_dead(session.owner or ""):
            raise refusals.busy(name)
        self.connection.execute(self.sql.claim, (session.id, self._node.name))
        return Claim(name, session.epoch + 1, session.seq, session.hash, clean)

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
        for key in batch.taken:
            self.connection.execute(self.sql.take, (number, _key(key)))

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
        if session is None or session.seq == 0:
            raise refusals.unknown(name)
        digest = sha256(body).digest()
        before = self._digest(session.id, key)
        if before is None:
            values = (session.id, _key(key), digest, body)
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
        )
        # fetchall: a statement that is not read to its end has not changed anything yet.
        moved = self.connection.execute(self.sql.advance, values).fetchall()
        if moved:
            return cast(int, moved[0][0])
        session = self.find(batch.session)
        if session is None or not self._holds(session, batch.epoch):
            raise refusals.lease_lost(batch)
        raise refusals.stale(batch, session.seq)

    def _holds(self, session: Session, epoch: int) -> bool:
        return (session.owner, session.epoch) == (self._node.name, epoch)

    def _digest(self, id: int, key: str) -> bytes | None:
        row = self.connection.execute(self.sql.find_letter, (id, _key(key))).fetchone()
        return bytes(row[0]) if row else None


def _key(key: str) -> bytes:
    # Keys come from clients and may hold what is not Unicode.
    return key.encode("utf-8", "surrogatepass")
