"""Whoever follows a session whose owner died goes on with it when the lease has run out."""

import asyncio
import contextlib

import pytest

from perdure.core import events as e
from perdure.core.events import Event
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.system import SystemClock
from perdure.testing.clocks import SeededIds
from perdure.tools.python import tool
from tests.contract.postgres import database, postgres
from tests.trees.family import Cast, part, says, uses

__all__ = ["database", "postgres"]  # fixtures

pytestmark = pytest.mark.postgres

REPLIES = (uses("look", thing="door"), says("It is there."))


class Door:
    """What the tool looks at: it cannot be seen before it is open."""

    def __init__(self) -> None:
        self.looked_at = asyncio.Event()
        self.opened = asyncio.Event()

    def agent(self) -> Agent:
        @tool(effect="read")
        async def look(thing: str) -> str:
            """Look at something."""
            self.looked_at.set()
            await self.opened.wait()
            return f"{thing} is there"

        return Agent("sleeper", "scripted:sleeper", tools=[look])


async def node(url: str, door: Door, seed: int) -> tuple[Engine, PostgresStore]:
    store = await PostgresStore.open(f"{url}&lease_s=1")
    bounds = Bounds(idle_s=0.05, poll_s=0.1)
    kit = Kit(
        store, SystemClock(), SeededIds(seed), Cast({"sleeper": part(*REPLIES)}), bounds=bounds
    )
    engine = await Engine(kit).__aenter__()
    await engine.register(door.agent())
    return engine, store


async def test_who_follows_before_the_lease_has_run_out_sees_the_end(database: str) -> None:
    door = Door()
    first, store = await node(database, door, 1)
    session = await first.session("s1", "sleeper")

    async def talk() -> None:
        async for _ in session.send("Is it there?"):
            pass

    talking = asyncio.create_task(talk())
    await door.looked_at.wait()
    store.kill()
    talking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await talking
    door.opened.set()
    second, _ = await node(database, door, 2)
    async with asyncio.timeout(60):
        follower = await second.session("s1")
        seen = [piece async for piece in follower.watch() if isinstance(piece, Event)]
    assert isinstance(seen[-1].payload, e.TurnEnded)
    assert any(isinstance(event.payload, e.SessionRecovered) for event in seen)
    await second.close()
    await first.close()
