"""Sees to it that no sandbox outlives us, however we die.

A small shell script beside us, in a session of its own, is told of the first process of each
running sandbox and reads from a pipe that we alone hold open. When we are gone the pipe ends,
and it kills them; the kernel then kills everything in their namespaces. The kernel's own means,
a signal at the parent's death, is no help here: see `mounts.py`.
"""

import contextlib
import os
import shutil
import weakref
from pathlib import Path
from typing import Final

from perdure.core.errors import Unavailable

_SCRIPT: Final = Path(__file__).parent / "data" / "warden.bash"


class Warden:
    """Told by `add` and `remove`; started with the first `add`. Not for use by two threads."""

    def __init__(self) -> None:
        self._held: dict[int, str] = {}
        self._pipe = -1
        self._end: weakref.finalize[[int, int], Warden] | None = None

    def add(self, pid: int) -> None:
        """Return when it is certain that `pid` dies with us. Raises `Unavailable`."""
        self._held[pid] = _start_time(pid)
        if self._pipe < 0:
            self._start()
        self._tell(f"+ {pid} {self._held[pid]}\n")

    def remove(self, pid: int) -> None:
        """Forget a process that is dead."""
        if self._held.pop(pid, None) is not None:
            self._tell(f"- {pid}\n")

    def _tell(self, line: str) -> None:
        try:
            os.write(self._pipe, line.encode())
        except BrokenPipeError:
            self._start()  # somebody killed it: the next one is told of all that runs
            for pid, start in self._held.items():
                os.write(self._pipe, f"+ {pid} {start}\n".encode())

    def _start(self) -> None:
        if self._end is not None:
            self._end()
        bash = shutil.which("bash")
        if bash is None:
            raise Unavailable("E-SANDBOX-START", "There is no bash on this machine.")
        theirs, ours = os.pipe()
        try:
            pid = os.posix_spawn(
                bash,
                ["perdure-warden", "--noprofile", "--norc", str(_SCRIPT)],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setsid=True,
            )
        finally:
            os.close(theirs)
        self._pipe = ours
        self._end = weakref.finalize(self, _dismiss, ours, pid)


def _dismiss(pipe: int, pid: int) -> None:
    """End a warden: it has nothing left to kill, or does so now."""
    os.close(pipe)
    # Nobody to wait for when we are a fork of the one that started it.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _start_time(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
