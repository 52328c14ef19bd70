"""`perdure` in a terminal of its own: what a person sees, types and presses."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Final, Self

from tests.cli.shell import Shell

CTRL_C: Final = "\x03"
SECONDS: Final = 30.0
# Makes the terminal the child's own, so that Ctrl-C reaches what a real one would reach.
_OWN: Final = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """One command in a pseudo-terminal."""

    def __init__(self, shell: Shell, *arguments: str, **environ: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN, *shell.words(*arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=shell.folder,
            env=shell.environ | {"TERM": "xterm", "COLUMNS": "100"} | environ,
        )
        os.close(slave)
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str) -> str:
        """Read until `pattern` is on the screen; return all that came since the last time."""
        deadline = time.monotonic() + SECONDS
        while not re.search(pattern, plain(self.seen)):
            assert self._read(deadline), f"{pattern!r} never came:\n{plain(self.seen)}"
        seen, self.seen = plain(self.seen), ""
        return seen

    def end(self) -> tuple[int, str]:
        """Read to the end; return the exit status and what came."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline):
            pass
        return self.process.wait(timeout=SECONDS), plain(self.seen)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # Linux says so when the other side is gone
            return False
        self.seen += piece.decode("utf-8", "replace")
        return bool(piece)


def plain(text: str) -> str:
    """What is on the screen, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")
