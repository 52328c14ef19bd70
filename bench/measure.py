"""The tools of measuring: the control of the same disk, percentiles, prompt wake-ups."""

import contextlib
import ctypes
import os
import platform
import statistics
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

CONTROL_BYTES: Final = 4096
_SLICE_NS: Final = 100_000
_SCHED_SETATTR: Final = 314
_SCHED_ATTR: Final = "=IIQiIQQQ"


class Spread(msgspec.Struct, frozen=True):
    """Times in milliseconds."""

    p50_ms: float
    p99_ms: float
    count: int


def spread(seconds: Sequence[float]) -> Spread:
    """Return the median and the 99th percentile of some times."""
    if not seconds:
        return Spread(0.0, 0.0, 0)
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return Spread(statistics.median(ordered) * 1000, high * 1000, len(ordered))


def median(values: Iterable[float]) -> float:
    """Return the median, 0 of nothing."""
    found = list(values)
    return statistics.median(found) if found else 0.0


class Control:
    """What the disk itself does: appends of 4 KiB, each waited for, between the waves of a cell.

    Interleaving makes it comparable: other work on the machine slows both by the same factor.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "control"
        self.seconds: list[float] = []

    def burst(self, count: int) -> None:
        """Append and wait `count` times."""
        block = b"\0" * CONTROL_BYTES
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for _ in range(count):
                begun = time.perf_counter()
                os.write(handle, block)
                _datasync(handle)
                self.seconds.append(time.perf_counter() - begun)
        finally:
            os.close(handle)


def _datasync(handle: int) -> None:
    # macOS has no fdatasync; its fsync stops at the drive's cache, which flatters the control.
    getattr(os, "fdatasync", os.fsync)(handle)


def wake_promptly() -> bool:
    """Ask for short time slices, so that a busy machine delays a wake-up less. True when granted.

    On a shared machine a thread that was waiting for the disk is put back to work only at the end
    of somebody's slice, up to 4 ms later; then every figure shows the scheduler and not the disk.
    The share of the processor stays what it was. Threads and children started later inherit it.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    attributes = struct.pack(_SCHED_ATTR, 48, 0, 0, os.nice(0), 0, _SLICE_NS, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_SCHED_SETATTR, 0, attributes, 0) == 0)


def as_nice(process: int | str = "self") -> None:
    """Give the group that the system puts a process into the niceness of ours.

    Linux shares the processor out between such groups first, one for each terminal or `setsid`, so
    that a niceness means nothing between them. Does nothing where there are none, or it may not.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/autogroup").write_text(str(os.nice(0)))


def bytes_of(database: Path) -> int:
    """Return what a database takes on the disk, with its log and what lies beside it."""
    beside = [p for p in database.parent.glob(database.name + "*") if p.is_file()]
    inside = [p for p in database.parent.glob(database.name + ".*/**/*") if p.is_file()]
    return sum(p.stat().st_size for p in {*beside, *inside} if not p.name.endswith("-shm"))


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM; 0 where the system does not tell."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return 0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
