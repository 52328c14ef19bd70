"""Watching a running command from outside: memory, processes, disk.

Two means. A cgroup (v2, where one is delegated to us) is exact and is the kernel's own. Elsewhere
the process tree is looked at every 50 ms: that lets a hog overshoot for a moment, and stops it.
Blocking: `check` is called from a thread.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import msgspec

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TREE_MAX: Final = 20_000
_DISK_EVERY: Final = 10
"""Every so many checks the disk is looked at too."""


class Bounds(msgspec.Struct, frozen=True):
    """What a command may use. `free_bytes` must stay free on the disk of the workspace;
    `growth_bytes` is how large the workspace may be.
    """

    memory_bytes: int
    processes: int
    free_bytes: int
    growth_bytes: int


class Watch:
    """Watches the processes below `pid` and the disk of `workspace`."""

    def __init__(self, pid: int, workspace: str, bounds: Bounds) -> None:
        self._pid = pid
        self._workspace = workspace
        self._bounds = bounds
        self._checks = 0
        self._free_bytes = _free_bytes(workspace)

    def check(self) -> str:
        """Return why the command must be killed ("memory", "processes", "disk"), or ""."""
        pids = list(tree(self._pid))
        if len(pids) > self._bounds.processes + 8:
            return "processes"
        if self._memory_passed(pids):
            return "memory"
        self._checks += 1
        if self._checks % _DISK_EVERY == 0 and self._disk_passed():
            return "disk"
        return ""

    def _memory_passed(self, pids: list[int]) -> bool:
        limit = self._bounds.memory_bytes
        if sum(map(_resident, pids)) <= limit:
            return False
        # Pages shared after a fork were counted once for each process; count them fairly now.
        return sum(map(_proportional, pids)) > limit

    def _disk_passed(self) -> bool:
        free = _free_bytes(self._workspace)
        if free < self._bounds.free_bytes:
            return True
        if self._free_bytes - free <= self._bounds.growth_bytes:
            return False
        # Much was written to this disk; was it us? Only now is it worth counting.
        return _size_bytes(self._workspace, self._bounds.growth_bytes) > self._bounds.growth_bytes


class Cgroup:
    """A cgroup v2 of our own for one command. Use it as a context manager."""

    def __init__(self, parent: Path, bounds: Bounds) -> None:
        self._folder = parent / f"perdure-{os.getpid()}-{secrets.token_hex(4)}"
        self._bounds = bounds

    def __enter__(self) -> Self:
        self._folder.mkdir()
        (self._folder / "memory.max").write_text(str(self._bounds.memory_bytes))
        (self._folder / "pids.max").write_text(str(self._bounds.processes + 8))
        with contextlib.suppress(OSError):
            (self._folder / "memory.oom.group").write_text("1")
            (self._folder / "memory.swap.max").write_text("0")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            (self._folder / "cgroup.kill").write_text("1")
        # A group that still empties itself stays behind for the next clean-up; it costs nothing.
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    @property
    def members(self) -> str:
        """The file into which a process writes its id to join."""
        return str(self._folder / "cgroup.procs")

    def out_of_memory(self) -> bool:
        """Say whether the kernel killed something in the group for its memory."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self._folder / "memory.events").read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value) > 0
        return False


def delegated_cgroup(mounted: Path = Path("/sys/fs/cgroup"), own: str = "") -> Path | None:
    """Return a cgroup v2 directory in which we may make groups with memory and pid limits.

    Our own group, or the one above it: the kernel wants processes in the leaves only.
    """
    try:
        lines = (own or Path("/proc/self/cgroup").read_text()).splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None or not (mounted / "cgroup.controllers").exists():
        return None
    here = mounted / path.strip("/")
    for folder in (here, here.parent):
        if folder.is_relative_to(mounted) and _may_divide(folder):
            return folder
    return None


def _may_divide(folder: Path) -> bool:
    try:
        granted = set((folder / "cgroup.subtree_control").read_text().split())
    except OSError:
        return False
    writable = os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
    return {"memory", "pids"} <= granted and writable


def tree(root: int) -> Iterator[int]:
    """Yield a process and all its descendants. Those that end meanwhile are left out."""
    todo = [root]
    seen = 0
    while todo and seen < _TREE_MAX:
        pid = todo.pop()
        seen += 1
        yield pid
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
                todo += _children(pid, task)


def _children(pid: int, task: str) -> list[int]:
    try:
        with Path(f"/proc/{pid}/task/{task}/children").open("rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _resident(pid: int) -> int:
    try:
        with Path(f"/proc/{pid}/statm").open("rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _proportional(pid: int) -> int:
    """Return the process's fair share of the memory it uses; all of it where that is secret."""
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open("rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return _resident(pid)


def _size_bytes(path: str, enough: int) -> int:
    """Return what the files below `path` take on the disk; stop counting once past `enough`."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{folder}/{name}").st_blocks * 512
        if total > enough:
            break
    return total


def _free_bytes(path: str) -> int:
    try:
        info = os.statvfs(path)
    except OSError:
        return 0
    return info.f_bavail * info.f_frsize
