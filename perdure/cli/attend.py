"""Looking on while a worker drives a session: start it, print what it says, pass on what is said.

Everything waits in one `select`: the worker's pipe, the keyboard, Ctrl-C. A worker that was killed
is replaced, and the next one goes on after the last event that was shown.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from perdure.cli.places import Places
from perdure.cli.text import clean
from perdure.cli.wire import Letter, Order, Said, Still, Trouble, heard
from perdure.core.codec import encode
from perdure.core.events import Event
from perdure.engine.hub import Live

GRACE_S: Final = 1.5
INTERRUPT_S: Final = 10.0
CLOSE_S: Final = 5.0
TICK_S: Final = 1.0
KILLED_MAX: Final = 8
_PIECE: Final = 1 << 16


class Worker:
    """A worker process and the two pipes to it."""

    def __init__(self, order: Order, directory: Path, log: Path) -> None:
        mine, its = os.pipe()
        words = ["-P", "-m", "perdure", "_worker", "--agent", order.agent, "--live-fd", str(its)]
        try:
            with log.open("ab") as printed:
                # A worker outlives its command line, so nothing of the terminal may reach it.
                self.process = subprocess.Popen(
                    [sys.executable, *words, "--", order.session],
                    stdin=subprocess.PIPE,
                    stdout=printed,
                    stderr=printed,
                    cwd=directory,
                    pass_fds=(its,),
                    start_new_session=True,
                )
        finally:
            os.close(its)
        self.fd = mine
        self._rest = b""
        self._write(encode(order))

    def say(self, letter: Letter) -> None:
        """Pass a letter on. A dead worker does not hear it; the next one gets it again."""
        self._write(encode(letter))

    def let_go(self) -> None:
        """Look on no longer: the worker ends when there is nothing left to do."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def lines(self) -> list[bytes] | None:
        """Return the lines that have come; None when the pipe has ended."""
        piece = os.read(self.fd, _PIECE)
        if not piece:
            return None
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return lines

    def close(self, wait_s: float) -> int | None:
        """Close the pipes; return the exit status, or None while it still runs."""
        os.close(self.fd)
        self.let_go()
        try:
            return self.process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            return None

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(data + b"\n")
            self.process.stdin.flush()


class Listener:
    """What an attendant tells whoever shows it. Each method may be left as it is."""

    def event(self, event: Event) -> None:
        """A durable event."""

    def live(self, live: Live) -> None:
        """A piece that is not in the journal."""

    def ready(self, said: Said) -> None:
        """A worker has begun."""

    def still(self, still: Still) -> bool:
        """Nothing is due. Return True to go on looking, False to leave."""
        return False

    def accepted(self) -> bool:
        """All that was said is durably in the inbox. Return True to leave the agent to it."""
        return False

    def typed(self, line: str) -> bool:
        """A line came from the keyboard, or "" at its end. Return True to leave."""
        return False

    def killed(self, pid: int, signal_number: int, since_s: float) -> None:
        """The worker died of a signal; another one is about to start."""

    def tick(self) -> bool:
        """About a second has passed. Return True to be told of the next one, too."""
        return False

    def pressed(self, times: int) -> None:
        """Ctrl-C was pressed: once to leave, twice to interrupt the agent."""


class Ending(msgspec.Struct, frozen=True):
    """How looking on ended. `why` is still, detached, interrupted, trouble or lost."""

    why: str
    still: Still | None = None
    trouble: Trouble | None = None


class Attendant:
    """Sees one session through, over as many workers as it takes."""

    def __init__(self, order: Order, directory: Path, places: Places, listener: Listener) -> None:
        self._order = order
        self._directory = directory
        self._log = places.log(order.session)
        self._listener = listener
        self._unheard = {letter.key: letter for letter in order.letters}
        self._after = order.after
        self._created = False
        self._still: Still | None = None
        self._presses = 0
        self._leave_at: float | None = None
        self._worker: Worker | None = None
        self.ask_keyboard = False
        self.on_start: Callable[[Worker], None] | None = None

    @property
    def worker(self) -> Worker | None:
        """The worker now."""
        return self._worker

    def say(self, letter: Letter) -> None:
        """Pass a letter on; it is repeated to the next worker until one has posted it."""
        self._unheard[letter.key] = letter
        if self._worker is not None:
            self._worker.say(letter)

    def attend(self) -> Ending:
        """Look on until the session is still and the listener has had enough, or Ctrl-C."""
        killed = 0
        with _ctrl_c() as alarm:
            while True:
                worker = self._start()
                began, seen = time.monotonic(), self._after
                ending = self._listen(worker, alarm)
                leaving = ending is not None and ending.why == "detached"
                status = worker.close(0.0 if leaving else CLOSE_S)
                self._worker = None
                if ending is not None:
                    return ending
                killed = killed + 1 if self._after == seen else 1
                if status is not None and (status >= 0 or killed > KILLED_MAX):
                    return self._lost(status)
                if status is not None:
                    took = time.monotonic() - began
                    self._listener.killed(worker.process.pid, -status, took)

    def _start(self) -> Worker:
        letters = tuple(self._unheard.values())
        order = msgspec.structs.replace(
            self._order, after=self._after, letters=letters,
            create=self._order.create and not self._created,
        )  # fmt: skip
        self._worker = Worker(order, self._directory, self._log)
        if self.on_start is not None:
            self.on_start(self._worker)
        return self._worker

    def _listen(self, worker: Worker, alarm: int) -> Ending | None:
        """Serve one worker; return None when its pipe ends before its work does."""
        while True:
            keyboard = [sys.stdin.fileno()] if self.ask_keyboard else []
            left = None if self._leave_at is None else max(0.0, self._leave_at - time.monotonic())
            if self._listener.tick():
                left = TICK_S if left is None else min(left, TICK_S)
            ready, _, _ = select.select([worker.fd, alarm, *keyboard], [], [], left)
            if alarm in ready:
                os.read(alarm, _PIECE)
                self._press()
            if self._leave_at is not None and time.monotonic() >= self._leave_at:
                return Ending("interrupted" if self._presses > 1 else "detached", self._still)
            typed = bool(keyboard) and keyboard[0] in ready
            if typed and self._listener.typed(sys.stdin.readline()):
                return Ending("still", self._still)
            if worker.fd in ready:
                lines = worker.lines()
                if lines is None:
                    return None
                for line in lines:
                    ending = self._take(line)
                    if ending is not None:
                        return ending

    def _take(self, line: bytes) -> Ending | None:
        """Deal with one line of the worker's."""
        item = heard(line)
        if isinstance(item, Event):
            self._after, self._still = item.seq, None
            self._listener.event(item)
        elif isinstance(item, Live):
            self._listener.live(item)
        elif item.ready is not None:
            self._created, self._after = True, item.ready.after
            self._listener.ready(item)
            if not self._unheard and self._listener.accepted():
                return Ending("detached")
        elif item.posted:
            self._unheard.pop(item.posted, None)
            if not self._unheard and self._listener.accepted():
                return Ending("detached")
        elif item.error is not None:
            return Ending("trouble", None, item.error)
        elif item.still is not None:
            return self._stopped(item.still)
        return None

    def _stopped(self, still: Still) -> Ending | None:
        self._still = still
        if self._presses > 1:
            return Ending("interrupted", still)
        if self._unheard or self._leave_at is not None or self._listener.still(still):
            return None
        return Ending("still", still)

    def _press(self) -> None:
        self._presses += 1
        wait_s = GRACE_S if self._presses == 1 else INTERRUPT_S if self._presses == 2 else 0.0
        self._leave_at = time.monotonic() + wait_s
        self._listener.pressed(self._presses)

    def _lost(self, status: int) -> Ending:
        """The worker ended by itself and said nothing: show the end of what it printed."""
        tail = tail_of(self._log)
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        last = tail.rpartition("\n")[2]
        message = f"The worker ended with {how}: {last}. The journal is as it was."
        return Ending("lost", None, Trouble("E-WORKER-LOST", message, f"less {self._log}"))


def tail_of(log: Path) -> str:
    """Return the end of what a session's workers printed, safe to print."""
    try:
        return clean(log.read_bytes()[-4000:].decode("utf-8", "replace")).strip()
    except OSError:
        return ""


@contextmanager
def _ctrl_c() -> Iterator[int]:
    """Turn Ctrl-C into something to read; yield where."""
    mine, its = os.pipe()
    os.set_blocking(its, False)

    def note(number: int, frame: FrameType | None) -> None:
        os.write(its, b"!")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield mine
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(mine)
        os.close(its)
