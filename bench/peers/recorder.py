"""What a system under test calls at the beginning of every step. Standard library only."""

import asyncio
import threading
import time
from collections import defaultdict
from itertools import pairwise
from typing import Final

STEP_BYTES: Final = 1024


class Recorder:
    """Counts steps and when each began; holds a session for ever at the step `stall`.

    Systems call it from several threads and loops.
    """

    def __init__(self, stall: int | None = None) -> None:
        self._begun: dict[str, list[float]] = defaultdict(list)
        self._stall = stall
        self._lock = threading.Lock()
        self.reached = threading.Event()
        self.reached_at = 0.0
        self.again = 0

    async def step(self, session: str, index: int) -> str:
        """A model (even index) or a tool (odd) was entered; return the 1 KiB that it answers."""
        with self._lock:
            now = time.monotonic()
            self._begun[session].append(now)
            if self._stall is None or index < self._stall:
                self.again += 1
            elif not self.reached.is_set():
                self.reached_at = now
                self.reached.set()
        if self._stall is not None and index >= self._stall:
            await asyncio.Event().wait()
        return ("t" if index % 2 else "m") * STEP_BYTES

    def take(self, *, complete: bool) -> tuple[int, list[float]]:
        """Return how many steps are done and the times between them, and forget all that.

        A step is known to be done when the next one began, or when all sessions are `complete`.
        """
        with self._lock:
            begun, self._begun = self._begun, defaultdict(list)
        undone = 0 if complete else len(begun)
        steps = sum(len(times) for times in begun.values()) - undone
        return steps, [b - a for times in begun.values() for a, b in pairwise(times)]

    def begun_after(self, moment: float) -> int:
        """Return how many steps began after a moment."""
        with self._lock:
            every = [*self._begun.values()]
        return sum(time > moment for times in every for time in times)
