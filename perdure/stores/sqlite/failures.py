"""SQLite's errors in our words."""

import errno
from pathlib import Path

import apsw

from perdure.core.errors import CorruptJournal, PerdureError, Unavailable
from perdure.stores import refusals


def is_full(error: apsw.Error, system_errno: int) -> bool:
    """Whether there was no room for what was to be written."""
    if isinstance(error, apsw.FullError):
        return True
    # The error number of a connection is that of its last failure, so it is asked only for one.
    return isinstance(error, apsw.IOError) and system_errno in refusals.NO_ROOM


def is_outside(error: apsw.Error) -> bool:
    """Whether the cause is the disk or another process, not the statement."""
    return isinstance(
        error,
        apsw.FullError
        | apsw.IOError
        | apsw.BusyError
        | apsw.LockedError
        | apsw.ReadOnlyError
        | apsw.CantOpenError
        | apsw.CorruptError
        | apsw.NotADBError,
    )


def translate(error: apsw.Error, system_errno: int, path: Path) -> PerdureError:
    """Return what to raise instead."""
    if is_full(error, system_errno):
        return refusals.full(str(path))
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return Unavailable(
            "E-STORE-BUSY",
            f"Another process has been writing to {path} for too long. Nothing was written.",
            "See which: fuser shows who has the file open.",
        )
    if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError):
        return refusals.unwritable(path, str(error))
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return CorruptJournal(
            "E-DB-CORRUPT",
            f"{path} is damaged: {error}",
            "perdure doctor --verify names what is; restore the rest from a backup.",
        )
    if isinstance(error, apsw.IOError):
        reason = errno.errorcode.get(system_errno, "no reason given")
        return refusals.disk_failed(path, f"{error} ({reason})")
    return Unavailable("E-STORE-FAILED", f"SQLite refused: {type(error).__name__}: {error}")


def in_doubt(path: Path) -> Unavailable:
    """A commit failed in such a way that it may turn up after a crash."""
    return Unavailable(
        "E-STORE-DOUBT",
        f"The disk failed in the middle of a commit to {path}: nobody can tell what it kept.",
        "Read the session again: what is there is there.",
    )
