"""Going on with what nobody works on: looking, every few seconds, for sessions whose process died
or gave them up, and for letters that nobody takes.

Any number of processes do this on one store at once. Each takes a few, by lot, so that they share
what a dead one leaves; where two try for the same session the store lets one of them have it.
Looking costs one question however many sessions rest, and nothing for each of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from perdure.core.errors import PerdureError
from perdure.ports.clock import Clock

TOGETHER: Final = 64  # as many are taken in a round
_SETTLE_S: Final = 0.25  # who has just posted a letter, or begun a session, is about to claim it
_FULL: Final = 0.1  # the pause behind a round that left some, as a part of the usual one
_PATIENCE_S: Final = 60.0  # the longest pause before a session is tried again

Find = Callable[[int], Awaitable[Sequence[str]]]
Take = Callable[[str], Awaitable[bool]]


class _Tried(NamedTuple):
    """How often a session was tried, and when it may be tried again (monotonic)."""

    times: int
    again_at: float


class Takeover:
    """Looks every `every_s` seconds, give or take half of it, for what `find` finds (at most as
    many as it is asked for), and has it taken by `take`, which says whether it could be.

    `chance` gives numbers from 0 to 1. 0 for `every_s`: only once.
    """

    def __init__(
        self,
        find: Find,
        take: Take,
        clock: Clock,
        chance: Callable[[], float],
        every_s: float,
        *,
        settle_s: float = _SETTLE_S,
    ) -> None:
        self.blamed: Callable[[PerdureError], object] = lambda _error: None
        self._find = find
        self._take = take
        self._clock = clock
        self._chance = chance
        self._every_s = every_s
        self._settle_s = settle_s
        self._tried: dict[str, _Tried] = {}

    async def run(self) -> None:
        """Look for as long as it is let. Never raises what a store does: `blamed` hears of it."""
        while True:
            left, failed = False, False
            try:
                left = await self.round()
            except PerdureError as error:
                failed = True
                self.blamed(error)
            if not self._every_s and not left and not failed:
                return
            pause_s = (self._every_s or 1.0) * (0.5 + self._chance())
            await asyncio.sleep(pause_s * _FULL if left else pause_s)

    async def round(self) -> bool:
        """Take some of what is there; return whether more was left. Raises what `find` raises."""
        if not await self._fresh():
            return False
        await asyncio.sleep(self._settle_s)
        fresh = sorted(await self._fresh(), key=lambda _: self._chance())
        for name in fresh[:TOGETHER]:
            self._note(name)
            await self._take(name)
        return len(fresh) > TOGETHER

    async def _fresh(self) -> list[str]:
        """Return what may be tried now. Those that could not be taken hide nothing behind them."""
        names = await self._find(4 * TOGETHER + len(self._tried))
        there, now = set(names), self._clock.monotonic()
        self._tried = {name: tried for name, tried in self._tried.items() if name in there}
        again = {name: tried.again_at for name, tried in self._tried.items()}
        return [name for name in names if again.get(name, now) <= now]

    def _note(self, name: str) -> None:
        """Leave a session alone for a while, longer each time: its code may be elsewhere."""
        times = self._tried[name].times if name in self._tried else 0
        pause_s = min(_PATIENCE_S, (self._every_s or 1.0) * 2.0**times)
        self._tried[name] = _Tried(times + 1, self._clock.monotonic() + pause_s)
