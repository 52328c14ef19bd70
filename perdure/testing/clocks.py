"""A clock that a test moves, and ids that a seed repeats."""

from random import Random

from perdure.stores.system import RandomIds


class FakeClock:
    """Time as the test says. It stands still by itself."""

    def __init__(self, now_us: int = 1_700_000_000_000_000, monotonic: float = 0.0) -> None:
        self._now_us = now_us
        self._monotonic = monotonic

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return self._now_us

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, on both faces of the clock."""
        assert seconds >= 0, "time does not run backwards; a wall clock that jumps is set()"
        self._now_us += round(seconds * 1_000_000)
        self._monotonic += seconds

    def set(self, now_us: int) -> None:
        """Let the wall clock jump, either way. The monotonic one does not notice."""
        self._now_us = now_us


class SeededIds(RandomIds):
    """Ids that are the same in every run with the same seed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(Random(seed).getrandbits)
