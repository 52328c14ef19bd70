"""Reads, on a connection of their own: they never wait for a commit, nor it for them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import apsw
import msgspec

from perdure.core import codec
from perdure.core.journal import Record
from perdure.ports.store import Doc, ErrorRow, Letter, SessionRow
from perdure.stores import refusals
from perdure.stores.keys import packed, unpacked
from perdure.stores.offload import Job
from perdure.stores.sqlite import failures
from perdure.stores.sqlite.statements import Statements
from perdure.stores.sqlite.tables import error_row

_ROWS: Final = codec.Reader[SessionRow](SessionRow)


class Read(Job):
    """One read."""

    def __init__(self, run: "Callable[[Reader], object]") -> None:
        super().__init__()
        self.run = run


class Reader:
    """Each answer is fetched to its end: a read left open would keep the log from starting anew."""

    def __init__(self, path: Path, connection: apsw.Connection, sql: Statements) -> None:
        self._path = path
        self.connection = connection
        self.sql = sql

    def work(self, jobs: list[Read]) -> None:
        """Fill in the outcome of every job."""
        for job in jobs:
            try:
                job.outcome = job.run(self)
            except apsw.Error as error:
                system_errno = self.connection.system_errno
                job.error = failures.translate(error, system_errno, self._path)

    def end(self) -> None:
        """Close the connection."""
        self.connection.close()

    def events(self, session: str, after: int, limit: int) -> list[Record]:
        """See `Store.read`."""
        found: list[Record] = []
        # One moment for all that is read: a session may become a fork between two statements.
        with self.connection as connection:
            rows = connection.execute(self.sql.read_past, (_name(session), after))
            past: list[tuple[int, int, int]] = list(rows)
            for origin, base, until in past:
                values = (origin, max(after, base), until, limit - len(found))
                events = connection.execute(self.sql.read_events, values)
                found.extend(Record(*row) for row in events)
        return found

    def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        rows = self.connection.execute(self.sql.read_inbox, (_name(session),))
        return [Letter(unpacked(key), body) for key, body in rows]

    def mailboxes(self, prefix: str) -> list[str]:
        """See `Store.mailboxes`."""
        rows = self.connection.execute(self.sql.read_mailboxes, _range(prefix))
        return [row[0] for row in rows]

    def sessions(self, prefix: str = "") -> list[SessionRow]:
        """See `Store.sessions`."""
        rows = self.connection.execute(self.sql.read_sessions, _range(prefix))
        return [row_of(*row) for row in rows]

    def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        rows = self.connection.execute(self.sql.read_session, (_name(session),))
        found = [row_of(*row) for row in rows]
        return found[0] if found else None

    def ends(self, sessions: Sequence[str]) -> dict[str, int]:
        """See `Store.ends`."""
        names = codec.encode([name for name in sessions if refusals.is_name(name)]).decode()
        return dict(self.connection.execute(self.sql.read_ends, (names,)))

    def due(self, now_us: int, limit: int, prefix: str) -> list[str]:
        """See `Store.due`."""
        rows = self.connection.execute(self.sql.read_due, (now_us, limit, *_range(prefix)))
        return [row[0] for row in rows]

    def abandoned(self, limit: int, is_dead: Callable[[str], bool]) -> list[str]:
        """See `Store.abandoned`. `is_dead` says so of a node; its own is alive."""
        dead: dict[str, bool] = {}  # each is asked about once: that costs a system call
        found: list[str] = []
        rows = self.connection.execute(self.sql.read_unfinished)
        unfinished: list[tuple[str, str | None, bytes | None]] = list(rows)
        for name, owner, row in unfinished:
            if owner is not None and owner not in dead:
                dead[owner] = is_dead(owner)
            if (owner is None or dead[owner]) and not row_of(name, 0, row).parent:
                found.append(name)
            if len(found) >= limit:
                break
        return found

    def owner(self, session: str) -> str | None:
        """Return the node that a session was claimed by and not released, dead or alive."""
        row = self.connection.execute(self.sql.read_owner, (_name(session),)).fetchone()
        return row[0] if row else None

    def owned(self, node: str, limit: int) -> list[str]:
        """See `Cluster.owned`."""
        rows = self.connection.execute(self.sql.read_owned, (node, limit))
        return [row[0] for row in rows]

    def owners(self) -> dict[str, tuple[int, int]]:
        """Return how many sessions a node owns, and how many letters wait in them; by node."""
        rows: list[tuple[str, int, int]] = list(self.connection.execute(self.sql.read_owners))
        return {name: (sessions, letters) for name, sessions, letters in rows}

    def state(self, session: str) -> tuple[int, bytes] | None:
        """See `Store.load_state`."""
        rows = self.connection.execute(self.sql.read_state, (_name(session),))
        found = [(seq, bytes(data)) for seq, data in rows]
        return found[0] if found else None

    def errors(self, prefix: str = "") -> list[ErrorRow]:
        """See `Store.errors`."""
        rows = self.connection.execute(self.sql.read_errors, _range(prefix))
        return [row for (data,) in rows if (row := error_row(data)) is not None]

    def docs(self, kind: str, prefix: str, after: str, limit: int | None) -> list[Doc]:
        """See `Store.docs`."""
        first, most = packed(prefix), -1 if limit is None else limit
        # 0xFF is in no UTF-8: behind it sorts nothing that begins with the prefix.
        values = (packed(kind), first, first + b"\xff", packed(after), most)
        rows = self.connection.execute(self.sql.read_docs, values)
        return [Doc(unpacked(name), version, data) for name, version, data in rows]

    def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        row = self.connection.execute(self.sql.find_doc, (packed(kind), packed(name))).fetchone()
        return None if row is None or row[1] is None else Doc(name, row[0], row[1])

    def check(self) -> list[tuple[str, str]]:
        """Return what is wrong with the file: the session, or "" for all, and what it is."""
        found = self.connection.pragma("quick_check")
        lines = [found] if isinstance(found, str) else [row[0] for row in found]
        wrong = [("", line) for line in lines if line != "ok"]
        for name, seq, end in self.connection.execute(self.sql.read_heads):
            wrong.append((name, f"it is said to end at {seq}, but its events end at {end}"))
        unreadable = [row.id for row in self.sessions() if row.error == "E-DB-CORRUPT"]
        return wrong + [(name, "its row in the list cannot be read") for name in unreadable]


class Checkpointer:
    """Moves the log into the database while the writer goes on writing."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def work(self, jobs: list[Job]) -> None:
        """Do so once, however often it was asked for."""
        try:
            self._connection.wal_checkpoint()
        except apsw.Error:
            return  # busy, or no room: the log keeps everything until the next time

    def end(self) -> None:
        """Close the connection."""
        self._connection.close()


def _name(session: str) -> str:
    # No session is called "": what cannot be a name is not found.
    return session if refusals.is_name(session) else ""


def _range(prefix: str) -> tuple[str, str | bytes]:
    """Return where the names that begin so begin and end. Names of the deleted begin with NUL."""
    if not refusals.is_name(prefix):
        return ("\x01", b"\xff") if not prefix else ("", "")
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return prefix, b"\xff"  # to SQLite a blob lies behind all text
    last = ord(stem[-1])
    return prefix, stem[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)


def row_of(name: str, seq: int, data: bytes | None) -> SessionRow:
    """Read a row of the list of sessions."""
    if data is None:
        return SessionRow(id=name, seq=seq)
    try:
        return _ROWS.read(data)
    except msgspec.DecodeError:
        # A row is only a summary: one that is damaged must not hide all other sessions.
        return SessionRow(id=name, seq=seq, error="E-DB-CORRUPT")
