"""Reads, on connections of their own: they never wait for a commit, nor it for them."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec
import psycopg

from perdure.core import codec
from perdure.core.journal import Record
from perdure.ports.blobs import Shelved
from perdure.ports.cluster import NodeRow
from perdure.ports.store import Doc, ErrorRow, Letter, SessionRow
from perdure.stores import refusals
from perdure.stores.keys import packed, unpacked
from perdure.stores.offload import Job
from perdure.stores.postgres import failures
from perdure.stores.postgres.link import Connection, Link
from perdure.stores.postgres.statements import Statements
from perdure.stores.postgres.tables import MOST, error_row

T = TypeVar("T")

_ROWS: Final = codec.Reader[SessionRow](SessionRow)
_OUTAGE_S: Final = 15.0  # a client who only looks is told that it cannot be looked at


class Read(Job):
    """One read."""

    def __init__(self, run: "Callable[[Reader], object]") -> None:
        super().__init__()
        self.run = run


class Reader:
    """Each read is one statement, or is read `together`: what it answers is of one moment."""

    def __init__(self, link: Link, sql: Statements) -> None:
        self._link = link
        self.sql = sql
        self._connection: Connection | None = None

    def work(self, jobs: list[Read]) -> None:
        """Fill in the outcome of every job."""
        for job in jobs:
            try:
                job.outcome = self._tried(job)
            except psycopg.Error as error:
                job.error = failures.translate(error, self._link.address.shown)
            except Exception as error:  # noqa: BLE001 - a bug fails its own read, not the others
                job.error = error

    def abort(self) -> None:
        """Fail what waits for a database that is away. By any thread."""
        self._link.abort()

    def end(self) -> None:
        """Close the connection."""
        self._link.end()

    def _tried(self, job: Read) -> object:
        pauses = self._link.pauses(min(_OUTAGE_S, self._link.address.outage_s))
        while True:
            try:
                return self.now(job.run)
            except psycopg.Error as error:
                if not self._link.is_away(error):
                    raise
                if self._link.has_ended or not pauses.once():
                    raise failures.away(self._link.address.shown) from None

    def now(self, run: "Callable[[Reader], T]") -> T:
        """Read at once, where we are. Raises `psycopg.Error`."""

        def read(connection: Connection) -> T:
            self._connection = connection
            return run(self)

        return self._link.use(read)

    def _all(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        assert self._connection is not None
        rows = self._connection.execute(statement.encode(), values, binary=True).fetchall()
        return cast("list[tuple[Any, ...]]", rows)

    def together(self, statements: Sequence[str], **values: object) -> list[list[tuple[Any, ...]]]:
        """Return what several statements answer at one and the same moment."""
        assert self._connection is not None
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return [self._all(each, **values) for each in statements]

    def events(self, session: str, after: int, limit: int) -> list[Record]:
        """See `Store.read`."""
        values = {
            "session": _name(session),
            "after": max(min(after, MOST), 0),
            "limit": min(limit, MOST),
        }
        return [Record(*row) for row in self._all(self.sql.read_events, **values)]

    def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        rows = self._all(self.sql.read_inbox, session=_name(session))
        return [Letter(unpacked(key), body) for key, body in rows]

    def mailboxes(self, prefix: str) -> list[str]:
        """See `Store.mailboxes`."""
        return [row[0] for row in self._all(self.sql.read_mailboxes, **_range(prefix))]

    def sessions(self, prefix: str = "") -> list[SessionRow]:
        """See `Store.sessions`."""
        return [row_of(*row) for row in self._all(self.sql.read_sessions, **_range(prefix))]

    def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        rows = self._all(self.sql.read_session, session=_name(session))
        return row_of(*rows[0]) if rows else None

    def ends(self, sessions: Sequence[str]) -> dict[str, int]:
        """See `Store.ends`."""
        names = [name for name in sessions if refusals.is_name(name)]
        return {row[0]: row[1] for row in self._all(self.sql.read_ends, names=names)}

    def due(self, now_us: int, limit: int, prefix: str) -> list[str]:
        """See `Store.due`."""
        values = {"now_us": _count(now_us), "limit": _count(limit), **_range(prefix)}
        return [row[0] for row in self._all(self.sql.read_due, **values)]

    def abandoned(self, limit: int) -> list[str]:
        """See `Store.abandoned`."""
        return [row[0] for row in self._all(self.sql.abandoned, limit=_count(limit))]

    def state(self, session: str) -> tuple[int, bytes] | None:
        """See `Store.load_state`."""
        rows = self._all(self.sql.read_state, session=_name(session))
        return (rows[0][0], bytes(rows[0][1])) if rows else None

    def errors(self, prefix: str = "") -> list[ErrorRow]:
        """See `Store.errors`."""
        rows = self._all(self.sql.read_errors, **_range(prefix))
        return [row for (data,) in rows if (row := error_row(data)) is not None]

    def docs(self, kind: str, prefix: str, after: str, limit: int | None) -> list[Doc]:
        """See `Store.docs`."""
        first = packed(prefix)
        values = {
            "kind": packed(kind), "first": first, "last": first + b"\xff",
            "after": packed(after), "limit": limit,
        }  # fmt: skip
        rows = self._all(self.sql.read_docs, **values)
        return [Doc(unpacked(name), version, data) for name, version, data in rows]

    def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        rows = self._all(self.sql.find_doc, kind=packed(kind), name=packed(name))
        return Doc(name, *rows[0]) if rows and rows[0][1] is not None else None

    def changes(self, node: str) -> list[tuple[str, int]]:
        """Return how many groups each other node has committed."""
        return [(row[0], row[1]) for row in self._all(self.sql.changes, node=node)]

    def check(self) -> list[tuple[str, str]]:
        """Return what is wrong with the tables: the session, or "" for all, and what it is."""
        wrong = [
            (name, f"it is said to end at {seq}, but its events end at {end}")
            for name, seq, end in self._all(self.sql.check)
        ]
        unreadable = [row.id for row in self.sessions() if row.error == "E-DB-CORRUPT"]
        return wrong + [(name, "its row in the list cannot be read") for name in unreadable]

    def nodes(self, name: str | None = None, *, counted: bool = True) -> list[NodeRow]:
        """See `Cluster.nodes`; of that name alone. Counting what they own costs something."""
        rows = self._all(self.sql.read_nodes, node=name, counted=counted)
        return [NodeRow(*row) for row in rows]

    def owner(self, session: str) -> NodeRow | None:
        """See `Cluster.owner`."""
        rows = self._all(self.sql.owner, session=_name(session))
        found = self.nodes(rows[0][0], counted=False) if rows else []
        return found[0] if found else None

    def owned(self, node: str, limit: int) -> list[str]:
        """See `Cluster.owned`."""
        return [row[0] for row in self._all(self.sql.owned, node=_name(node), limit=_count(limit))]

    def blob(self, digest: str) -> bytes | None:
        """Return what is kept under that digest."""
        rows = self._all(self.sql.get_blob, digest=digest)
        return bytes(rows[0][0]) if rows else None

    def blobs(self, after: str, limit: int) -> list[Shelved]:
        """Return what is kept behind a digest, without the data."""
        return [Shelved(*row) for row in self._all(self.sql.read_blobs, after=after, limit=limit)]


def _name(session: str) -> str:
    # No session is called "": what cannot be a name is not found.
    return session if refusals.is_name(session) else ""


def _count(number: int) -> int:
    return min(number, MOST)


def _range(prefix: str) -> dict[str, str | None]:
    """Return where the names that begin so begin and end; no end at all: None."""
    if not prefix:
        return {"first": "", "last": None}
    if not refusals.is_name(prefix):
        return {"first": "", "last": ""}  # nothing begins so
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return {"first": prefix, "last": None}
    last = ord(stem[-1])
    behind = stem[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
    return {"first": prefix, "last": behind}


def row_of(name: str, seq: int, data: bytes | None) -> SessionRow:
    """Read a row of the list of sessions."""
    if data is None:
        return SessionRow(id=name, seq=seq)
    try:
        return _ROWS.read(data)
    except msgspec.DecodeError:
        # A row is only a summary: one that is damaged must not hide all other sessions.
        return SessionRow(id=name, seq=seq, error="E-DB-CORRUPT")
