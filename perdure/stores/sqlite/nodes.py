"""Which processes that use a database are alive: each holds a lock on a file of its own.

There is no lease that could run out. A process that is killed frees its sessions at once, and one
that is stopped, or sleeps with its laptop, keeps them. In its file a process writes where it can be
reached; a file beside it asks it to end.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from perdure.core.codec import decode, encode
from perdure.ports.cluster import NodeRow
from perdure.stores.files import try_lock

_LOCK: Final = ".lock"
_DRAIN: Final = ".drain"


class Node:
    """This connection among those of the database. Alive until `leave` or `drop`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self._path = folder / f"{name}{_LOCK}"
        self._lock = try_lock(self._path, create=True)
        assert self._lock is not None, f"two nodes are called {name}"
        self._began_us = os.fstat(self._lock).st_mtime_ns // 1000

    def is_dead(self, other: str) -> bool:
        """Whether no process is behind that name any more. Clears up after a dead one."""
        return other != self.name and clear(self._folder / f"{other}{_LOCK}")

    @property
    def draining(self) -> bool:
        """Whether somebody has asked this process to end."""
        return self._path.with_suffix(_DRAIN).exists()

    def announce(self, address: str, version: str, host: str) -> None:
        """Say where this process is reached."""
        row = NodeRow(self.name, address, version, host, started_at_us=self._began_us)
        if self._lock is not None:
            data = encode(row)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, data, 0)

    def others(self) -> list[NodeRow]:
        """Return the living, this one included, by name."""
        found = []
        for path in sorted(self._folder.glob(f"*{_LOCK}")):
            name = path.name.removesuffix(_LOCK)
            if not self.is_dead(name) and (row := self.row(name)) is not None:
                found.append(row)
        return found

    def row(self, name: str) -> NodeRow | None:
        """Return what a process says about itself, None when its file is gone."""
        path = self._folder / f"{name}{_LOCK}"
        try:
            began_us, data = path.stat().st_mtime_ns // 1000, path.read_bytes()
        except OSError:
            return None
        try:
            row = decode(data, NodeRow)
        except msgspec.MsgspecError:  # it has said nothing, or is just saying it
            row = NodeRow(name, started_at_us=began_us)
        drains = path.with_suffix(_DRAIN).exists()
        return msgspec.structs.replace(row, name=name, draining=drains)

    def ask_to_drain(self, other: str) -> bool:
        """Ask a process to end; False when there is none of that name."""
        path = self._folder / f"{other}{_LOCK}"
        if path.parent != self._folder or self.row(other) is None or self.is_dead(other):
            return False
        path.with_suffix(_DRAIN).touch(mode=0o600)
        return True

    def leave(self) -> None:
        """End in good order."""
        _remove(self._path)
        self.drop()

    def drop(self) -> None:
        """End as a killed process does: the lock is gone, the file stays."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def clear(path: Path) -> bool:
    """Remove the files of a dead node; False when it is alive."""
    try:
        fd = try_lock(path)
    except FileNotFoundError:
        return True
    if fd is None:
        return False
    _remove(path)
    os.close(fd)
    return True


def sweep(folder: Path) -> None:
    """Remove what dead nodes left."""
    for path in folder.glob(f"*{_LOCK}"):
        clear(path)


def _remove(path: Path) -> None:
    path.with_suffix(_DRAIN).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
