"""Which processes that use a database are alive: each holds a lock on a file of its own.

There is no lease that could run out. A process that is killed frees its sessions at once, and one
that is stopped, or sleeps with its laptop, keeps them.
"""

import os
from pathlib import Path

from perdure.stores.files import try_lock


class Node:
    """This connection among those of the database. Alive until `leave` or `drop`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self._path = folder / f"{name}.lock"
        self._lock = try_lock(self._path, create=True)
        assert self._lock is not None, f"two nodes are called {name}"

    def is_dead(self, other: str) -> bool:
        """Whether no process is behind that name any more. Clears up after a dead one."""
        return other != self.name and clear(self._folder / f"{other}.lock")

    def leave(self) -> None:
        """End in good order."""
        self._path.unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """End as a killed process does: the lock is gone, the file stays."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def clear(path: Path) -> bool:
    """Remove the file of a dead node; False when it is alive."""
    try:
        fd = try_lock(path)
    except FileNotFoundError:
        return True
    if fd is None:
        return False
    path.unlink(missing_ok=True)
    os.close(fd)
    return True


def sweep(folder: Path) -> None:
    """Remove what dead nodes left."""
    for path in folder.glob("*.lock"):
        clear(path)
