"""The clock and the ids of the real world: the one place in `stores` that reads either."""

import os
import time
from collections.abc import Callable
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no two look alike
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_TIME_CHARS = 12
_CHANCE_CHARS = 14
_CHANCE_BITS = 5 * _CHANCE_CHARS
_FETCHED_BYTES: Final = 2048


class SystemClock:
    """The time of this machine."""

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return time.time_ns() // 1000  # noqa: TID251 - this is the Clock that others take

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()  # noqa: TID251 - this is the Clock that others take


class RandomIds:
    """Ids that nobody can guess; those made for the same moment still sort as they were made.

    `bits` gives that many random bits; a test hands in a seeded one.
    """

    def __init__(self, bits: Callable[[int], int] | None = None) -> None:
        self._bits = bits or _Chance().bits
        self._last_us = -1
        self._chance = 0

    def event(self, at_us: int) -> str:
        """See `Ids.event`: 60 bits of time, 70 of chance."""
        if at_us == self._last_us:
            self._chance += 1
        else:
            # Half the range stays free, so that counting up from here never runs over.
            self._chance = self._bits(_CHANCE_BITS - 1)
            self._last_us = at_us
        return _base32(at_us, _TIME_CHARS) + _base32(self._chance, _CHANCE_CHARS)

    def session(self) -> str:
        """See `Ids.session`: 40 bits; whoever creates a session looks whether it is new."""
        return "ses_" + _base32(self._bits(40), 8)

    def random(self) -> float:
        """See `Ids.random`."""
        return self._bits(53) / (1 << 53)


class _Chance:
    """Random bits of the system, fetched many at a time: every event needs some, and asking the
    system lets another thread take the interpreter away.
    """

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0
        self._process = 0

    def bits(self, count: int) -> int:
        """Return `count` random bits that were never given out before."""
        size = (count + 7) // 8
        process = os.getpid()  # a forked child must not give out what its parent does
        if self._used + size > len(self._bytes) or self._process != process:
            self._bytes, self._used, self._process = os.urandom(_FETCHED_BYTES), 0, process
        part = self._bytes[self._used : self._used + size]
        self._used += size
        return int.from_bytes(part, "big") >> (8 * size - count)


def _base32(number: int, chars: int) -> str:
    """Return the last `chars` digits, an even number. Two at a time: every event has an id."""
    return "".join([_PAIRS[(number >> bits) & 1023] for bits in range(5 * chars - 10, -1, -10)])
