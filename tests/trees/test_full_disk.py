"""A disk that is full while a child begins its work takes nothing from it."""

import asyncio
from collections.abc import Sequence

import pytest

from perdure.core import events as e
from perdure.core.errors import StoreFull
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds
from perdure.engine.session import Session
from perdure.ports.store import Batch
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk
from perdure.tools.python import tool
from tests.trees.family import LEAD, born, house, lead_of, part, results, says, tasks, uses


class Full(Faults):
    """No room, `times` times, from the moment that a session has begun."""

    def __init__(self, session: str, times: int) -> None:
        self.session = session
        self.left = times
        self.armed = False

    def before_commit(self, batches: Sequence[Batch]) -> None:
        if self.armed and self.left:
            self.left -= 1
            raise StoreFull("E-STORE-FULL", "No room.")

    def after_commit(self, batches: Sequence[Batch]) -> None:
        self.armed = self.armed or any(batch.session == self.session for batch in batches)


async def test_a_task_that_found_no_room_is_given_again() -> None:
    # Found by the simulation (trees, seed 27): the call was answered with the store's error, and
    # its child worked on.
    parts = {"lead": part(tasks("a"), says("x")), "helper": part(says("done"))}
    faults = Full("s.t1.1", 3)
    async with house(parts, faults=faults) as engine:
        session = await engine.session("s", LEAD)
        async with asyncio.timeout(10):
            await session.send("go")
        assert faults.left == 0
        assert await results(session) == {"t1.1": "done"}
        assert (await Session(engine, "s.t1.1").state()).turns == 1


async def test_an_interrupt_that_found_no_room_is_given_again() -> None:
    at_work = asyncio.Event()

    @tool(effect="read")
    async def dig() -> str:
        """Dig without end."""
        at_work.set()
        try:
            await asyncio.Event().wait()
        finally:
            at_work.clear()
        return ""

    parts = {"lead": part(tasks("a"), says("x")), "helper": part(uses("dig"))}
    faults = Full("s", 0)
    async with house(parts, MemoryDisk(), faults=faults) as engine:
        helper = Agent("helper", "scripted:helper", tools=[dig])
        session = await engine.session("s", lead_of(helper))
        sending = asyncio.ensure_future(session.send("go")._wait())
        await born(engine, "s.t1.1")
        await at_work.wait()
        await session.interrupt(by="test")
        faults.left = 3
        async with asyncio.timeout(10):
            state = await sending
        assert faults.left == 0
        assert state.last_status == "cancelled" and not at_work.is_set()
        child = Session(engine, "s.t1.1")
        assert [ev.type async for ev in child.events() if isinstance(ev.payload, e.TurnEnded)]


async def test_a_session_whose_maker_could_not_let_go_of_it_is_not_held_for_ever() -> None:
    # Found by the simulation (budgets, seed 1333).
    parts = {"lead": part(says("x"))}
    disk, bounds = MemoryDisk(), Bounds(idle_s=0.05, poll_s=0.01)
    async with house(parts, disk, node="a", faults=Full("s", 1), bounds=bounds) as one:
        with pytest.raises(StoreFull):
            await one.session("s", LEAD)
        async with house(parts, disk, node="b", seed=1, bounds=bounds) as two, asyncio.timeout(10):
            state = await (await two.session("s", LEAD)).send("go")
            assert state.last_status == "completed"
