"""Start one command, tell when it runs, and let nothing of it outlive us. Runs by itself.

    python -I -S supervise.py OWNER_PID STATUS_FD PASSED_FD DIRECTORY PROGRAM ARGUMENTS...

No isolation: this is only the life and death of a process tree. It speaks the status protocol of
`perdure/environments/command.py`. Orphans of the command come to us (PR_SET_CHILD_SUBREAPER), so
that a daemon that left its session is found too. Imports nothing of perdure and little of the
library, to start quickly.
"""

# ruff: noqa: PTH112, PTH123, PTH208, S606

import contextlib
import ctypes
import json
import os
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ROUNDS_MAX = 2000


def main() -> int:
    owner, status, passed = map(int, sys.argv[1:4])
    # Blocked and waited for: a handler could come too late, just before a wait that never ends.
    watched = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != owner:
        return 125  # the owner died before the kernel knew what to do then
    os.set_inheritable(status, False)
    child = os.fork()
    if child == 0:
        _become(passed, watched)
    os.close(passed)
    _say(status, {"child-pid": child})
    code = _outcome(child, watched)
    _kill_all(child)
    if code is None:
        return 143
    _say(status, {"exit-code": code if code >= 0 else 128 - code})
    return 0


def _outcome(child: int, watched: "set[signal.Signals]") -> "int | None":
    """Wait for the child's end and return its exit code; None when we are told to end it."""
    while True:
        if signal.sigwait(watched) == signal.SIGTERM:
            return None
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    return os.waitstatus_to_exitcode(ended[1])


def _become(passed: int, blocked: "set[signal.Signals]") -> None:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        os.setpgid(0, 0)
        os.chdir(sys.argv[4])
        os.set_inheritable(passed, True)
        os.execv(sys.argv[5], sys.argv[5:])
    except OSError as error:
        os.write(2, f"supervise: {error}\n".encode())
    finally:
        os._exit(126)


def _kill_all(child: int) -> None:
    """Kill what descends from us until nothing does; each round finds what the last orphaned."""
    for _ in range(ROUNDS_MAX):
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)
        for pid in _descendants():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    # Where there is no /proc, what left the child's process group is not found.
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found, todo = [], [os.getpid()]
    while todo:
        inner = children.pop(todo.pop(), [])
        found += inner
        todo += inner
    return found


def _say(fd: int, fact: dict[str, int]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(fact).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
