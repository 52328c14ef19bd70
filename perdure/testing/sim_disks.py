"""The disks of the simulated world: what simulated processes open a store on, and what can be read
of it past all of them. One in memory, and one that is real SQL run on the simulated loop.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from perdure.core.journal import Record
from perdure.ports.store import ErrorRow, Store
from perdure.stores.blobs import MemoryBlobs
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.memory_journal import Process
from perdure.stores.offload import Inline
from perdure.stores.sqlite import SqliteStore, connect, statements
from perdure.stores.sqlite.reader import Reader

_ALL: Final = 1_000_000


class Opened(Store, Protocol):
    """A store that can die with its process."""

    def kill(self) -> None: ...


class Disk(Protocol):
    """What survives all processes."""

    blobs: MemoryBlobs

    async def open(self, name: str, faults: Faults, commit_s: float) -> Opened: ...

    def records(self, session: str, after: int) -> list[Record]: ...

    def errors(self, session: str) -> list[ErrorRow]: ...

    def sessions(self) -> list[str]: ...

    def expire(self, session: str, *, all_of_it: bool = False) -> str: ...

    def close(self) -> None: ...


class InMemory:
    """A `MemoryDisk`."""

    def __init__(self) -> None:
        self._disk = MemoryDisk()
        self.blobs = self._disk.blobs

    async def open(self, name: str, faults: Faults, commit_s: float) -> Opened:
        """Open a process's store."""
        return MemoryStore(self._disk, name, commit_s, faults)

    def records(self, session: str, after: int) -> list[Record]:
        """Return what is durable after that seq."""
        journal = self._disk.journals.get(session)
        return journal.read(after, _ALL) if journal else []

    def errors(self, session: str) -> list[ErrorRow]:
        """Return the session's rows in the index of errors, by fingerprint."""
        journal = self._disk.journals.get(session)
        rows = journal.errors if journal else {}
        return [rows[fingerprint] for fingerprint in sorted(rows)]

    def sessions(self) -> list[str]:
        """Return the names of all sessions that have an event."""
        return sorted(name for name, journal in self._disk.journals.items() if journal.seq)

    def expire(self, session: str, *, all_of_it: bool = False) -> str:
        """Take the session's lease from a living owner; return whose it was, or nothing. With
        `all_of_it` the owner loses all that it owns.
        """
        journal = self._disk.journals.get(session)
        owner = journal.owner if journal else None
        if journal is None or owner is None or not owner.alive:
            return ""
        nobody = Process("expired")
        nobody.alive = False
        for each in self._disk.journals.values() if all_of_it else (journal,):
            if each.owner is owner:
                each.owner = nobody
        return owner.node

    def put(self, session: str, record: Record) -> None:
        """Add a record behind everybody's back."""
        self._disk.journals[session].records.append(record)

    def flip(self, session: str, seq: int) -> None:
        """Damage one stored event by one bit, as a disk does in the course of years."""
        records = self._disk.journals[session].records
        data = bytearray(records[seq - 1].data)
        data[len(data) // 2] ^= 1
        records[seq - 1] = records[seq - 1]._replace(data=bytes(data))

    def close(self) -> None:
        """Nothing to let go."""


class OnSqlite:
    """A directory with a database; every statement runs on the simulated loop."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        self._folder = TemporaryDirectory(prefix="perdure-sim-")
        self._path = Path(self._folder.name) / "sim.db"
        self._reader: Reader | None = None
        self._ends: list[Callable[[], None]] = []

    async def open(self, name: str, faults: Faults, commit_s: float) -> Opened:
        """Open a process's store."""
        return await SqliteStore.open(
            self._path,
            fsync=False,
            offload=Inline(),
            faults=faults,
            node=name,
            blobs=self.blobs,
            poll_s=5.0,
        )

    def records(self, session: str, after: int) -> list[Record]:
        """Return what is durable after that seq."""
        if not self._path.exists():
            return []
        return self._observer().events(session, after, _ALL)

    def errors(self, session: str) -> list[ErrorRow]:
        """Return the session's rows in the index of errors, by fingerprint."""
        if not self._path.exists():
            return []
        return [row for row in self._observer().errors() if row.session == session]

    def sessions(self) -> list[str]:
        """Return the names of all sessions that have an event."""
        if not self._path.exists():
            return []
        return sorted(row.id for row in self._observer().sessions())

    def copy(self, to: Path) -> None:
        """Copy the database as it is, as a backup of a living one does."""
        shutil.copytree(self._path.parent, to)

    def put_back(self, copy: Path) -> None:
        """Begin with a copy."""
        shutil.copytree(copy, self._path.parent, dirs_exist_ok=True)

    def expire(self, session: str, *, all_of_it: bool = False) -> str:
        """SQLite has no leases: whoever lives owns."""
        return ""

    def close(self) -> None:
        """Remove everything."""
        for end in self._ends:
            end()
        self._folder.cleanup()

    def _observer(self) -> Reader:
        if self._reader is None:
            sql = statements.load()
            opened = connect.open_database(self._path, "observer", sql, fsync=False)
            self._reader = Reader(self._path, opened.reader, sql)

            connections = (opened.reader, opened.writer, opened.checkpointer)
            self._ends = [c.close for c in connections] + [opened.node.leave]
        return self._reader
