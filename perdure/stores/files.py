"""Files that several processes share: locks, and names that survive a power cut.

The kernel gives a lock back when its process dies, however it dies. Locks belong to an open
file, not to a process: two connections in one process see each other's, and no child inherits
one, because the descriptor closes on exec.
"""

import fcntl
import os
from pathlib import Path


def try_lock(path: Path, *, create: bool = False) -> int | None:
    """Lock the file; return its descriptor, or None when somebody else holds it.

    Raises `FileNotFoundError` when it is not there and is not to be created.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _is_at(fd, path):
            return fd
        # Somebody removed the file between our opening and locking it: a lock on a file that has
        # no name protects nothing. Look again.
        os.close(fd)


def lock(path: Path) -> int:
    """Lock the file, waiting for whoever has it; return its descriptor."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
