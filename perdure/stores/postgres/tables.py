"""What a write does to the tables. Runs inside the transaction of a group, statement by statement;
batches have a faster way, see `appends`.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple, cast

import msgspec

from perdure.core.codec import Reader, encode
from perdure.core.journal import GENESIS
from perdure.ports.store import Batch, Claim, ErrorRow
from perdure.stores import refusals
from perdure.stores.keys import packed
from perdure.stores.postgres.link import Connection
from perdure.stores.postgres.statements import Statements

MOST: Final = 2**63 - 1  # as far as a database counts
_ERRORS: Final = Reader[ErrorRow](ErrorRow)


def error_row(data: bytes) -> ErrorRow | None:
    """Read a row of the index of errors; None for one that is damaged: the journal has it all."""
    try:
        return _ERRORS.read(data)
    except msgspec.DecodeError:
        return None


class Session(NamedTuple):
    """A session's line in the table."""

    born: int
    epoch: int
    owner: str | None
    seq: int
    hash: bytes
    base: int  # the event a fork begins after; 0 for a session of its own
    origin: str | None
    origin_born: int | None

    @property
    def is_empty(self) -> bool:
        """Whether it has no event of its own."""
        return self.seq == self.base


class Tables:
    """The tables, as one connection writes them for one node."""

    def __init__(self, connection: Connection, sql: Statements, node: str) -> None:
        self.connection = connection
        self.sql = sql
        self.node = node

    def one(self, statement: str, values: Mapping[str, object]) -> tuple[Any, ...] | None:
        """Run a statement; return its first row."""
        row = self.connection.execute(statement.encode(), values).fetchone()
        return cast("tuple[Any, ...] | None", row)

    def run(self, statement: str, values: Mapping[str, object]) -> None:
        """Run a statement that answers nothing."""
        self.connection.execute(statement.encode(), values)

    def find(self, session: str, *, lock: bool = False) -> Session | None:
        """Look a session up by its name, and let nobody else change it if `lock`."""
        if not refusals.is_name(session):
            return None
        statement = self.sql.lock_session if lock else self.sql.find_session
        row = self.one(statement, {"session": session})
        return Session(*row) if row else None

    def exists(self, name: str) -> bool:
        """Whether there is a session of that name."""
        return self.find(name) is not None

    def claim(self, name: str) -> Claim:
        """See `Store.claim`."""
        session = self._made(name)
        if self._is_held(session):
            raise refusals.busy(name)
        clean = session.owner is None or session.owner == self.node
        row = self.one(self.sql.claim, {"session": name, "node": self.node})
        assert row is not None
        return Claim(name, row[0], session.seq, session.hash, clean)

    def fork(self, source: str, at: int, name: str) -> None:
        """See `Store.fork`."""
        if not refusals.is_name(name):
            raise refusals.unfit_name(name)
        if refusals.is_name(source):  # until we are done nobody deletes what is pointed at
            self.one(self.sql.lock_letters, {"session": source})
        origin = self._event(source, at)
        if origin is None:
            raise refusals.no_event(source, at)
        session = self._made(name)
        if not session.is_empty:
            raise refusals.exists(name)
        if self._is_held(session):
            raise refusals.busy(name)
        values = {
            "session": name, "at": at, "origin": origin[0], "origin_born": origin[1],
            "hash": origin[2],
        }  # fmt: skip
        self.run(self.sql.fork, values)
        self.run(self.sql.drop_state, values)

    def delete_session(self, name: str) -> None:
        """See `Store.delete_session`."""
        session = self.find(name, lock=True)
        if session is None:
            return
        if self._is_held(session):
            raise refusals.busy(name)
        self.run(self.sql.note_epoch, {"epoch": max(session.epoch, 0)})
        for statement in (self.sql.delete_letters, self.sql.delete_errors, self.sql.delete_session):
            self.run(statement, {"session": name})
        self._thin(name, session)

    def _thin(self, name: str, gone: Session) -> None:
        """Delete what no fork reads of a life that is over, and of those it was a fork of."""
        born, origin, origin_born, base = gone.born, gone.origin, gone.origin_born, gone.base
        while True:
            life: dict[str, object] = {"session": name, "born": born}
            found = self.one(self.sql.forks_of, life)
            kept = found[0] if found else None
            self.run(self.sql.delete_events, {**life, "kept": kept or 0})
            self.run(self.sql.delete_states, {**life, "kept": kept or 0})
            if kept is not None:
                ends = {"origin": origin, "origin_born": origin_born, "base": base}
                self.run(self.sql.bury, {**life, **ends, "kept": kept})
                return
            self.run(self.sql.delete_grave, life)
            if origin is None or origin_born is None:
                return
            grave = self.one(self.sql.find_grave, {"session": origin, "born": origin_born})
            if grave is None:  # it lives
                return
            name, born = origin, origin_born
            origin, origin_born, base = grave

    def is_fork(self, source: str, at: int, name: str) -> bool:
        """Whether that session begins after event `at` of `source`."""
        session, origin = self.find(name), self._event(source, at)
        where = (session.base, session.hash) if session and session.is_empty else None
        return origin is not None and where == (at, origin[2])

    def owns(self, claim: Claim) -> bool:
        """Whether the claim is in force."""
        session = self.find(claim.session)
        return session is not None and self.holds(session, claim.epoch)

    def holds(self, session: Session, epoch: int) -> bool:
        """Whether this node owns the session in that epoch."""
        return (session.owner, session.epoch) == (self.node, epoch)

    def release(self, claim: Claim) -> None:
        """See `Store.release`."""
        if refusals.is_name(claim.session):
            values = {"session": claim.session, "node": self.node, "epoch": claim.epoch}
            self.run(self.sql.release, values)

    def release_all(self) -> None:
        """Give up everything this node owns."""
        self.run(self.sql.release_all, {"node": self.node})

    def append(self, batch: Batch) -> None:
        """Batches go another way. See `appends.Appends`."""
        raise AssertionError("a batch is no statement of a group")

    def count(self, session: str, error: ErrorRow) -> None:
        """Enter an error into the index. Its session's owner alone does, so nobody interferes."""
        values = {"session": session, "fingerprint": packed(error.fingerprint)}
        row = self.one(self.sql.find_error, values)
        before = error_row(row[0]) if row else None
        merged = before.followed_by(error) if before else error
        self.run(self.sql.put_error, {**values, "row": encode(merged)})

    def refusal(self, batch: Batch) -> Exception | None:
        """Return why a batch was refused; None when nothing speaks against it any more."""
        session = self.find(batch.session)
        if session is None or not self.holds(session, batch.epoch):
            return refusals.lease_lost(batch)
        if session.seq != batch.expected_seq:
            return refusals.stale(batch, session.seq)
        return None

    def has(self, batch: Batch) -> bool | None:
        """Whether the batch's last record is in the journal; None if it had none."""
        if not batch.records:
            return None
        last = batch.records[-1]
        row = self._event(batch.session, last.seq)
        return row is not None and row[2] == last.hash

    def post(self, name: str, key: str, body: bytes) -> bool:
        """See `Store.post`."""
        row = self.one(self.sql.lock_letters, {"session": name}) if refusals.is_name(name) else None
        if row is None or not row[0]:
            raise refusals.unknown(name)
        digest = sha256(body).digest()
        values = {"session": name, "key": packed(key), "digest": digest, "body": body}
        made = self.connection.execute(self.sql.insert_letter.encode(), values).rowcount
        if made:
            return True
        before = self.one(self.sql.find_letter, values)
        if before is None or bytes(before[0]) != digest:
            raise refusals.reused(name, key)
        return False

    def has_letter(self, name: str, key: str) -> bool:
        """Whether that key was posted."""
        return self.one(self.sql.find_letter, {"session": name, "key": packed(key)}) is not None

    def save_state(self, session: str, seq: int, data: bytes) -> None:
        """See `Store.save_state`."""
        if refusals.is_name(session):
            self.run(self.sql.save_state, {"session": session, "seq": seq, "data": data})

    def put_doc(self, kind: str, name: str, data: bytes, expect: int | None) -> int:
        """See `Store.put_doc`."""
        values: dict[str, object] = {"kind": packed(kind), "name": packed(name)}
        self.run(self.sql.insert_doc, values)
        row = self.one(self.sql.lock_doc, values)
        assert row is not None
        version: int = row[0]
        there = version if row[1] else 0
        if expect is not None and expect != there:
            raise refusals.doc_changed(kind, name, expect, there)
        self.run(self.sql.put_doc, {**values, "version": version + 1, "data": data})
        return version + 1

    def doc_version(self, kind: str, name: str) -> int:
        """Return the last version that a document had; 0 for one that never was."""
        row = self.one(self.sql.find_doc, {"kind": packed(kind), "name": packed(name)})
        return cast(int, row[0]) if row else 0

    def delete_doc(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`."""
        self.run(self.sql.delete_doc, {"kind": packed(kind), "name": packed(name)})

    def tell(self, version: int) -> None:
        """Leave the witness of this group, which is the others' news, too."""
        self.run(self.sql.tell, {"node": self.node, "version": version})

    def told(self) -> int:
        """Return the last group of this node that landed; waits for one that may still land."""
        row = self.one(self.sql.told, {"node": self.node})
        return cast(int, row[0]) if row else 0

    def _made(self, name: str) -> Session:
        """Return the session's line, locked; it is made where there is none."""
        if not refusals.is_name(name):
            raise refusals.unfit_name(name)
        session = self.find(name, lock=True)
        while session is None:
            self.run(self.sql.insert_session, {"session": name, "genesis": GENESIS})
            session = self.find(name, lock=True)  # None: deleted between the two
        return session

    def _event(self, name: str, seq: int) -> tuple[str, int, bytes] | None:
        """Return the life in which event `seq` of this session lies, and the event's hash."""
        if not refusals.is_name(name) or seq > MOST:
            return None
        row = self.one(self.sql.find_event, {"session": name, "seq": seq})
        return (row[0], row[1], bytes(row[2])) if row else None

    def _is_held(self, session: Session) -> bool:
        """Whether another node owns it that is alive by the database's clock."""
        if session.owner in (None, self.node):
            return False
        # Who is alive must not be held up by those who see that he is: his word is due soon.
        for statement in (self.sql.is_alive, self.sql.is_still_alive):
            row = self.one(statement, {"node": session.owner})
            if row is not None and row[0]:
                return True
        return False
