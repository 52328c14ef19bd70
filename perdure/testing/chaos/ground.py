"""What the nodes stand on: a database, and between each node and it a proxy of its own."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Final, Protocol

import psycopg

from perdure.testing.chaos.proxy import FaultProxy
from perdure.testing.postgres import USER, PostgresServer

CLIENT: Final = "client"
_SYNC_S: Final = 60.0


class Ground(Protocol):
    """A store for several processes."""

    @property
    def proxies(self) -> dict[str, FaultProxy]:
        """The way of each node, and of the client, to the database; none where there is no way."""
        ...

    async def open(self, slots: list[str]) -> None:
        """Make it ready for these nodes and the client."""
        ...

    def url(self, slot: str) -> str:
        """Return the store's address as this node is to use it."""
        ...

    def straight(self) -> str:
        """Return the store's address around all proxies."""
        ...

    async def probe(self) -> None:
        """Commit something small around everything of ours: no proxy, none of our tables."""
        ...

    async def close(self) -> None:
        """Let everything go."""
        ...


class SqliteGround:
    """A file that several processes of one machine share. Ownership ends with the process."""

    def __init__(self, home: Path) -> None:
        self.proxies: dict[str, FaultProxy] = {}
        self._url = f"sqlite:///{home / 'chaos.db'}"

    async def open(self, slots: list[str]) -> None:
        """See `Ground.open`."""

    def url(self, slot: str) -> str:
        """See `Ground.url`."""
        return self._url

    def straight(self) -> str:
        """See `Ground.straight`."""
        return self._url

    async def probe(self) -> None:
        """See `Ground.probe`. There is no server that could be late."""

    async def close(self) -> None:
        """See `Ground.close`."""


class PostgresGround:
    """A PostgreSQL server, in time followed by its standby, and a proxy for each node."""

    def __init__(self, server: PostgresServer, database: str, lease_s: float) -> None:
        self.server = server
        self.proxies: dict[str, FaultProxy] = {}
        self._database = database
        self._options = f"&lease_s={lease_s:g}"
        self._sockets = Path(tempfile.mkdtemp(prefix="pdc"))
        self._standby: PostgresServer | None = None
        self._own: list[PostgresServer] = []

    async def open(self, slots: list[str]) -> None:
        """See `Ground.open`."""
        await asyncio.to_thread(self.server.make_database, self._database)
        for slot in [*slots, CLIENT]:
            place = self._sockets / slot
            place.mkdir()
            proxy = FaultProxy(str(place / ".s.PGSQL.5432"), self.server.address)
            self.proxies[slot] = await proxy.start()

    def url(self, slot: str) -> str:
        """See `Ground.url`."""
        place = self._sockets / slot
        return f"postgresql:///{self._database}?user={USER}&host={place}{self._options}"

    def straight(self) -> str:
        """See `Ground.straight`."""
        return self.server.url(self._database) + self._options

    async def prepare_failover(self) -> None:
        """Make a synchronous standby, and wait until every commit waits for it."""
        self._standby = await asyncio.to_thread(self.server.standby)
        self._own.append(self._standby)
        async with asyncio.timeout(_SYNC_S):
            while not await asyncio.to_thread(self._is_synchronous):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    def _is_synchronous(self) -> bool:
        with psycopg.connect(self.server.conninfo(), autocommit=True) as connection:
            found = connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
        return found == [("sync",)]

    async def fail_over(self) -> None:
        """Kill the primary, make its standby the primary, and lead all ways there."""
        assert self._standby is not None, "prepare_failover comes first"
        old, self.server, self._standby = self.server, self._standby, None
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(self.server.promote)
        for proxy in self.proxies.values():
            proxy.target = self.server.address
            proxy.cut()

    async def probe(self) -> None:
        """See `Ground.probe`."""
        with contextlib.suppress(psycopg.Error):  # it is away, by our doing
            await asyncio.to_thread(self._commit)

    def _commit(self) -> None:
        words = f"{self.server.conninfo()} connect_timeout=5"
        with psycopg.connect(words, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS chaos_probe (n int)")
            connection.execute("INSERT INTO chaos_probe VALUES (1)")

    async def close(self) -> None:
        """See `Ground.close`. The first server is its owner's to close."""
        for proxy in self.proxies.values():
            await proxy.stop()
        for server in self._own:
            await asyncio.to_thread(server.close)
        shutil.rmtree(self._sockets, ignore_errors=True)
