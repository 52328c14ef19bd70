"""How each of our stores is opened several times on the same data, and killed."""

from pathlib import Path

from perdure.ports.store import Store
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.offload import Offload
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.sqlite import SqliteStore
from tests.contract.postgres import expire


class MemoryHarness:
    """Connections to one disk in memory; `kind` may be a broken one."""

    def __init__(self, kind: type[MemoryStore] = MemoryStore, commit_s: float = 0.0) -> None:
        self._kind = kind
        self._commit_s = commit_s
        self._disk = MemoryDisk()

    async def open(self) -> MemoryStore:
        return self._kind(self._disk, commit_s=self._commit_s)

    async def kill(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        store.kill()

    async def close(self) -> None:
        for store in list(self._disk.connections):
            await store.close()


class SqliteHarness:
    """Connections to one file."""

    def __init__(self, path: Path, offload: Offload | None = None) -> None:
        self._path = path
        self._offload = offload
        self._opened: list[SqliteStore] = []

    async def open(self) -> SqliteStore:
        store = await SqliteStore.open(self._path, offload=self._offload, poll_s=0.005)
        self._opened.append(store)
        return store

    async def kill(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        store.kill()

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


class Script(Faults):
    """Does one thing at the commit of that number, counted from 1."""

    def __init__(self, at: int, *, after: bool = False, error: Exception | None = None) -> None:
        self.commits = 0
        self.store: MemoryStore | SqliteStore | None = None
        self._at, self._after, self._error = at, after, error

    def before_commit(self, batches: object) -> None:
        self.commits += 1
        if not self._after:
            self._strike()

    def after_commit(self, batches: object) -> None:
        if self._after:
            self._strike()

    def _strike(self) -> None:
        if self.commits == self._at:
            if self._error is not None:
                raise self._error
            assert self.store is not None
            self.store.kill()


class PostgresHarness:
    """Connections to one database; a killed one's lease counts as run out at once."""

    def __init__(self, url: str, offload: Offload | None = None) -> None:
        self._url = url
        self._offload = offload
        self._opened: list[PostgresStore] = []

    async def open(self) -> PostgresStore:
        store = await PostgresStore.open(self._url, offload=self._offload, poll_s=0.005)
        self._opened.append(store)
        return store

    async def kill(self, store: Store) -> None:
        assert isinstance(store, PostgresStore)
        store.kill()
        expire(self._url, store.node)

    async def close(self) -> None:
        for store in self._opened:
            await store.close()
