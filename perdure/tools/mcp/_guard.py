"""A launcher that outlives neither its owner nor its server's last process.

    python _guard.py OWNER_PID COMMAND [ARGUMENT...]

Starts the command with our standard streams and waits. When the command ends, or the owner is
gone (even by SIGKILL), or somebody asks us to end, everything the command started is killed.
Run as a script by its path, isolated: it imports nothing but the standard library.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOK_S = 2.0
GRACE_S = 1.5
ROUNDS_MAX = 200


def main(arguments: list[str]) -> int:
    owner, command = int(arguments[0]), arguments[1:]
    woken = _listen()
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != owner:  # it died before we could ask to be told
        return 1
    try:
        # One thread, so nothing can deadlock between fork and exec.
        server = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127
    _let_go_of_the_streams()
    _wait(server, owner, woken)
    _kill_all()
    return server.returncode if server.returncode is not None else 1


def _listen() -> int:
    """Turn signals into bytes on a pipe; return the end to read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(each, lambda *_: None)
    return reading


def _wait(server: "subprocess.Popen[bytes]", owner: int, woken: int) -> None:
    """Return when the server has ended, the owner is gone, or the grace after a signal is over."""
    asked = False
    while server.poll() is None and os.getppid() == owner:
        ready, _, _ = select.select([woken], [], [], GRACE_S if asked else LOOK_S)
        if asked and not ready:
            return
        heard = os.read(woken, 512) if ready else b""
        asked = asked or any(each != signal.SIGCHLD for each in heard)


def _let_go_of_the_streams() -> None:
    """Keep no end of the server's pipes, so that its end is seen as the end of them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def _kill_all() -> None:
    """Kill every descendant: as a subreaper we inherit those whose parents die."""
    for _ in range(ROUNDS_MAX):
        found = list(_descendants(os.getpid()))
        for each in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG if not found else 0)[0]:
                pass
        except ChildProcessError:
            return
        if not found:
            return


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in brackets may hold anything: what follows the last bracket is regular.
            fields = entry.read_text("utf-8", "replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), []):
            yield child
            todo.append(child)


def _prctl(option: int, value: int) -> None:
    """Ask the kernel; where there is no prctl, looking at the parent now and then must do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
