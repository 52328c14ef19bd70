"""Engines over a clock that a test moves, and sessions that fall asleep in them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from perdure.core.content import ResultItem
from perdure.core.events import Event
from perdure.core.state import State
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.journal import events_of
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.tools.python import tool
from perdure.tools.waiting import sleep, wait_for
from tests.trees.family import Cast, part, says, uses

QUICK = Bounds(idle_s=0.02, poll_s=0.01, recoveries=1000)
_LOOKS = 2000
NAP = (uses("sleep", seconds=3600), says("Rested."))


@tool(effect="read")
def look(thing: str) -> str:
    """Look at something."""
    return f"{thing} is there"


def sleeper(**more: Any) -> Agent:
    return Agent("sleeper", "scripted:sleeper", tools=[sleep, wait_for, look], **more)


@asynccontextmanager
async def inn(
    disk: MemoryDisk,
    clock: FakeClock,
    replies: Sequence[Mapping[str, Any]] = NAP,
    *,
    agent: Agent | None = None,
    parts: Mapping[str, Any] | None = None,
    store: MemoryStore | None = None,
    **more: Any,
) -> AsyncIterator[Engine]:
    """Run an engine that has the agent's code, and no session in its hands."""
    kit = Kit(
        store or MemoryStore(disk),
        clock,
        SeededIds(len(disk.journals)),
        Cast(parts or {"sleeper": part(*replies)}),
        **({"bounds": QUICK} | more),
    )
    async with Engine(kit) as engine:
        if agent is not None or parts is None:
            await engine.register(agent or sleeper())
        yield engine


async def asleep(engine: Engine, name: str = "s", agent: Agent | None = None) -> Session:
    """Send a session to sleep, and wait until this process has let it go."""
    session = await engine.session(name, agent or sleeper())
    sending = asyncio.ensure_future(send(session))
    await until(session, lambda s: status(s) == "sleeping")
    await until_let_go(engine, name)
    sending.cancel()
    return session


async def send(session: Session) -> State:
    """Send the one message; it is there once, however often it is sent."""
    return await session.send("go", key="the one message")


async def a_moment() -> None:
    """Let the engines do something."""
    await MemoryStore(MemoryDisk()).changed(0.01)


async def until(session: Session, holds: Any) -> State:
    """Wait until something holds of the session's state."""
    state = await session.state()
    for _ in range(_LOOKS):
        if holds(state):
            return state
        await a_moment()
        state = await session.state()
    raise AssertionError(f"it never came to that: {status(state)}")


async def until_let_go(engine: Engine, name: str) -> None:
    for _ in range(_LOOKS):
        if not engine.drives(name):
            return
        await a_moment()
    raise AssertionError(f"{name} is held for ever")


async def at_rest(session: Session) -> State:
    return await until(session, lambda s: status(s) == "idle")


async def journal(store: MemoryStore, name: str = "s") -> list[Event]:
    return [event async for event, _ in events_of(store, name)]


async def told(session: Session) -> list[str]:
    """What the model reads of its calls."""
    return [item.text for item in await session.context() if isinstance(item, ResultItem)]


def payloads(events: Sequence[Event], kind: type) -> list[Any]:
    return [event.payload for event in events if isinstance(event.payload, kind)]


async def still_asleep(session: Session, looks: int = 8) -> None:
    """Look for a while whether it goes on sleeping."""
    for _ in range(looks):
        assert status(await session.state()) == "sleeping"
        await a_moment()
