"""How each of our stores is opened several times on the same data, and killed."""

from pathlib import Path

from perdure.ports.store import Store
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.offload import Offload
from perdure.stores.sqlite import SqliteStore


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
