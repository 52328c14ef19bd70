"""Events from outside: kept until somebody waits for them, told once, taken in any state."""

import asyncio

import pytest

from perdure.core import events as e
from perdure.core.errors import Conflict, InvalidRequest
from perdure.core.step import status
from perdure.engine.kit import Kit
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from tests.engine.inn import (
    QUICK,
    asleep,
    at_rest,
    inn,
    journal,
    payloads,
    send,
    sleeper,
    told,
    until,
)
from tests.trees.family import Cast, part, says, uses

WAIT = (uses("wait_for", event="paid"), says("Thanks."))


async def test_a_signal_wakes_the_call_that_waits_for_it() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock, WAIT) as engine:
        session = await asleep(engine)
        assert await session.signal("shipped", "no, thanks")
        assert await session.signal("paid", {"eur": 5}, key="k1", by="bank")
        assert not await session.signal("paid", {"eur": 5}, key="k1", by="bank")
        with pytest.raises(Conflict, match="E-KEY-REUSED"):
            await session.signal("paid", {"eur": 6}, key="k1", by="bank")
        state = await at_rest(session)
        assert await told(session) == ['{"eur":5}']
        assert [s.name for s in state.signals] == ["shipped"], "what nobody wanted is kept"
    events = await journal(MemoryStore(disk))
    assert [p.key for p in payloads(events, e.SignalReceived) if p.name == "paid"] == ["k1"]
    report = await replay(events)
    assert report.identical, report


async def test_a_signal_that_came_before_anybody_waited() -> None:
    replies = (says("Hello."), *WAIT, uses("wait_for", event="paid", timeout_s=60), says("Well."))
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock, replies) as engine:
        session = await engine.session("s", sleeper())
        await session.send("hello")
        await session.signal("paid", "early")
        await session.send("wait for the money")
        assert await told(session) == ["early"]
        sending = asyncio.ensure_future(send(session))  # the same signal is not there twice
        await until(session, lambda s: status(s) == "sleeping")
        clock.advance(60)
        async with asyncio.timeout(10):
            await sending
        assert await told(session) == ["early", "No 'paid' came in time."]
    report = await replay(await journal(MemoryStore(disk)))
    assert report.identical, report


@pytest.mark.parametrize("clerk", [True, False])
async def test_a_signal_from_a_process_without_the_code(clerk: bool) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    replies = (*WAIT[:1], uses("look", thing="the till"), says("Thanks."))
    async with inn(disk, clock, replies) as engine:
        session = await asleep(engine)
        models = Cast({"sleeper": part(*replies)})
        kit = Kit(MemoryStore(disk), clock, SeededIds(9), models, bounds=QUICK, clerk=clerk)
        async with Engine(kit) as foreign:
            assert await Session(foreign, "s").signal("paid", "cash")
            await at_rest(session)  # whoever took the letter left the rest to us
        assert await told(session) == ["cash", "the till is there"]


async def test_signals_survive_every_state_but_closed() -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock, (says("Hello."), *WAIT)) as engine:
        session = await engine.session("s", sleeper())
        await session.send("hello")
        await session.pause()
        await session.signal("paid", "while paused")
        await until(session, lambda s: s.signals)
        await session.send("wait")
        assert await told(session) == ["while paused"]
        await session.close()
        with pytest.raises(Conflict, match="E-SESSION-CLOSED"):
            await session.signal("paid")


@pytest.mark.parametrize(("name", "data"), [("", ""), ("x" * 201, ""), ("a", "x" * 300_000)])
async def test_signals_that_are_refused(name: str, data: str) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with inn(disk, clock) as engine:
        session = await engine.session("s", sleeper())
        with pytest.raises(InvalidRequest, match="E-SIGNAL"):
            await session.signal(name, data)
        with pytest.raises(InvalidRequest, match="E-SIGNAL"):
            await session.signal("a", object())
