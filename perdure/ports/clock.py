"""Time and identity, handed in from outside so that a seed can replay them."""

from typing import Protocol


class Clock(Protocol):
    """What time it is. Waiting is asyncio's business: a simulated loop owns it."""

    def now_us(self) -> int:
        """Return wall time in microseconds since the Unix epoch. May jump either way."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow. For durations and deadlines."""
        ...


class Ids(Protocol):
    """Where fresh names and random numbers come from."""

    def event(self, at_us: int) -> str:
        """Return an id of 26 characters that sorts by `at_us`."""
        ...

    def session(self) -> str:
        """Return a new session id, short enough to type."""
        ...

    def random(self) -> float:
        """Return a number in [0, 1), for jitter."""
        ...
