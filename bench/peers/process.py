"""A system under test, seen from the benchmark: a process that answers lines of JSON."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.peers.systems import System

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = ROOT / ".venv-peers"
# An answer that takes this much longer than what was asked for does not come any more.
_SLACK_S: Final = 60.0


class Failed(Exception):
    """A system did not do what it was asked to."""


class Runner:
    """One process of one system. Left, it is killed: what it should write, `close` writes."""

    def __init__(self, system: System, log: Path, python: Path | None = None) -> None:
        own = Path(sys.executable) if system.ours else PEERS / "bin" / "python"
        self._command = [str(python or own), "-m", f"bench.peers.runners.{system.module}"]
        self._command += system.arguments
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self.ready = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the process; `ready` is when its imports were done."""
        # Nothing may call home in the middle of a measurement.
        quiet = {"DO_NOT_TRACK": "1", "LANGSMITH_TRACING": "false", "PYTHONWARNINGS": "ignore"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **quiet},
            )
        self._pending = b""
        try:
            self.ready = float(self._answer(_SLACK_S)["ready"])
        except BaseException:
            self.kill()
            raise

    def ask(self, do: str, within_s: float = 0.0, **more: Any) -> dict[str, Any]:
        """Return its answer. Raises `Failed` with what it said, or when it says nothing."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer(within_s + _SLACK_S)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def kill(self) -> None:
        """SIGKILL it, where it still runs."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # What was still to be said to a process that had ended.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process = None

    def _answer(self, within_s: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        until = time.monotonic() + within_s
        handle = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise Failed(f"no answer within {within_s:.0f} s")
                piece = os.read(handle, 65536)
                if not piece:
                    raise Failed(f"its process ended: {self._last_words()}")
                self._pending += piece
        line, self._pending = self._pending.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
