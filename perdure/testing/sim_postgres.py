"""A disk of the simulated world that is a real PostgreSQL: every statement runs on the simulated
loop. Time there is the server's own, so no lease runs out unless the simulation says so.
"""

import secrets
from collections.abc import Callable
from typing import Final, TypeVar

import psycopg
from psycopg import sql

from perdure.core.journal import Record
from perdure.ports.store import ErrorRow
from perdure.stores.blobs import MemoryBlobs
from perdure.stores.faults import Faults
from perdure.stores.offload import Inline
from perdure.stores.postgres import statements
from perdure.stores.postgres.address import parse
from perdure.stores.postgres.link import Connection, Link
from perdure.stores.postgres.reader import Reader
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.system import SystemClock
from perdure.testing.sim_disks import Opened

T = TypeVar("T")

_ALL: Final = 1_000_000
_NEVER_S: Final = 3600


class Mortal(PostgresStore):
    """A process's store; when it dies its lease has run out."""

    bury: Callable[[str], None]

    def kill(self) -> None:
        """See `PostgresStore.kill`."""
        super().kill()
        self.bury(self.node)


class OnPostgres:
    """A schema of its own in the database behind `url`, which is dropped at the end. Implements
    `Disk`.
    """

    def __init__(self, url: str) -> None:
        self.blobs = MemoryBlobs()
        self._schema = f"sim{secrets.token_hex(6)}"
        joint = "&" if "?" in url else "?"
        self._url = f"{url}{joint}schema={self._schema}&lease_s={_NEVER_S}&unsafe=1&outage_s=1"
        self._link = Link(parse(self._url), "observer", SystemClock())
        self._sql = statements.load()
        self._opened: list[Mortal] = []

    async def open(self, name: str, faults: Faults, commit_s: float) -> Opened:
        """Open a process's store."""
        store = await Mortal.open(
            self._url, offload=Inline(), faults=faults, node=name, blobs=self.blobs, poll_s=5.0
        )
        store.bury = self.bury
        self._opened.append(store)
        return store

    def records(self, session: str, after: int) -> list[Record]:
        """Return what is durable after that seq."""
        return self._read(lambda r: r.events(session, after, _ALL))

    def errors(self, session: str) -> list[ErrorRow]:
        """Return the session's rows in the index of errors, by fingerprint."""
        rows = self._read(lambda r: r.errors())
        return [row for row in rows if row.session == session]

    def sessions(self) -> list[str]:
        """Return the names of all sessions that have an event."""
        return sorted(self._read(lambda r: [row.id for row in r.sessions()]))

    def expire(self, session: str, *, all_of_it: bool = False) -> str:
        """Take the session from a living owner, as a lease does that ran out; return whose. With
        `all_of_it` the owner loses all that it owns.
        """
        owner = "".join(self._read(lambda r: [node.name for node in [r.owner(session)] if node]))
        if owner:
            if all_of_it:
                self._run("UPDATE sessions SET owner = 'expired' WHERE owner = %s", owner)
            else:
                self._run("UPDATE sessions SET owner = 'expired' WHERE session = %s", session)
        return owner.rpartition("-")[0] if owner else ""

    def bury(self, node: str) -> None:
        """Let the lease of a process that was killed have run out."""
        self._run("UPDATE nodes SET until = '-infinity' WHERE node = %s", node)

    def close(self) -> None:
        """Remove everything."""
        for store in self._opened:
            store.kill()
        drop = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self._schema))
        self._link.use(lambda connection: connection.execute(drop))
        self._link.end()

    def _read(self, ask: Callable[[Reader], list[T]]) -> list[T]:
        try:
            return Reader(self._link, self._sql).now(ask)
        except psycopg.errors.UndefinedTable:
            return []  # before the first process has made the tables

    def _run(self, statement: str, value: str) -> None:
        def run(connection: Connection) -> None:
            connection.execute(statement.encode(), (value,))

        self._link.use(run)
