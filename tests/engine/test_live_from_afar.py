"""What happens at another node comes on another way than the events: each piece is shown where it
belongs among them, or not at all.
"""

import asyncio
from collections.abc import AsyncIterator

from perdure.core import events as e
from perdure.core.events import Event
from perdure.engine.hub import Hub, Live
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.ports.model import TextDelta
from perdure.ports.store import Claim
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock
from tests.contract.journals import record
from tests.engine.inn import inn, sleeper


class Here:
    """A session that somebody follows here, and another process writes."""

    def __init__(self, engine: Engine, claim: Claim, store: MemoryStore) -> None:
        self.hub: Hub = engine.hub
        self.items: AsyncIterator[Event | Live] = Session(engine, "s").follow(1)
        self._claim, self._store = claim, store

    async def write(self, text: str) -> None:
        self._claim = await record(self._store, self._claim, e.NoteRecorded(text))

    async def seen(self, many: int) -> list[str]:
        """Return what the follower sees next: the numbers of events, and texts."""
        async with asyncio.timeout(10):
            found = [await anext(self.items) for _ in range(many)]
        return [str(i.seq) if isinstance(i, Event) else _text(i) for i in found]


def _text(live: Live) -> str:
    assert isinstance(live.piece, TextDelta)
    return live.piece.text


async def here(engine: Engine, disk: MemoryDisk) -> Here:
    await engine.session("s", sleeper())
    other = MemoryStore(disk)
    return Here(engine, await other.claim("s"), other)


async def test_a_piece_waits_for_the_events_before_it() -> None:
    disk = MemoryDisk()
    async with inn(disk, FakeClock()) as engine:
        place = await here(engine, disk)
        await place.write("two")
        assert await place.seen(1) == ["2"]
        seeing = asyncio.ensure_future(place.seen(4))
        await place.write("three")
        await place.write("four")
        place.hub.live("s", TextDelta("at four"), 4)
        place.hub.live("s", TextDelta("still"), 4)
        assert await seeing == ["3", "4", "at four", "still"]


async def test_a_piece_that_comes_too_late_is_not_shown() -> None:
    disk = MemoryDisk()
    async with inn(disk, FakeClock()) as engine:
        place = await here(engine, disk)
        await place.write("two")
        await place.write("three")
        assert await place.seen(2) == ["2", "3"]
        seeing = asyncio.ensure_future(place.seen(2))
        place.hub.live("s", TextDelta("of event two"), 2)
        place.hub.live("s", TextDelta("of event three"), 3)
        place.hub.live("s", TextDelta("of this process"))
        assert await seeing == ["of event three", "of this process"]


async def test_who_listens_and_what_moves_is_told_once() -> None:
    disk = MemoryDisk()
    told: list[object] = []
    async with inn(disk, FakeClock()) as engine:
        place = await here(engine, disk)
        hub = engine.hub
        hub.listened = lambda session, there: told.append((session, there))
        hub.moved = told.append
        with hub.follow("s"), hub.follow("s"), hub.follow("t"):
            assert told == [("s", True), ("t", True)]
        assert told[2:] == [("t", False), ("s", False)]
        told.clear()
        await place.write("two")
        assert await place.seen(1) == ["2"]
        seeing = asyncio.ensure_future(place.seen(1))
        await asyncio.sleep(0)
        assert told == [("s", True), "s"]
        hub.live("s", TextDelta("piece"))
        assert await seeing == ["piece"]
        assert told == [("s", True), "s"], "a piece is no event"
