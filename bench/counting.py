"""Counting what reaches the disk: a layer under SQLite that passes everything on.

It costs time, so counts come from a run of their own and never from one that is timed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import msgspec


class Counts(msgspec.Struct):
    """What SQLite asked the system for."""

    syncs: int = 0
    bytes: int = 0


class _File(apsw.VFSFile):
    def __init__(self, base: str, counts: Counts, name: Any, flags: list[int]) -> None:
        super().__init__(base, name, flags)
        self._counts = counts

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._counts.syncs += 1
        super().xSync(flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._counts.bytes += len(data)
        super().xWrite(data, offset)


class _Files(apsw.VFS):
    def __init__(self, counts: Counts) -> None:
        self._base = apsw.vfs_names()[0]  # what was the default until now
        super().__init__("perdure-bench", self._base, makedefault=True)
        self._counts = counts

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _File(self._base, self._counts, name, flags)


@contextmanager
def counting() -> Iterator[Counts]:
    """Count for every database that is opened and closed inside."""
    counts = Counts()
    files = _Files(counts)
    try:
        yield counts
    finally:
        files.unregister()
