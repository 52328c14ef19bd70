"""A family of agents in memory: a lead that gives tasks to helpers, on scripted models."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from perdure.core.budget import Price
from perdure.core.content import ResultItem
from perdure.core.events import Event
from perdure.core.inbox import Decide
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.engine.subagents import subagent
from perdure.models.scripted import Script, Scripted
from perdure.ports.clock import Clock
from perdure.ports.model import Model
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.tools.python import tool


class Cast:
    """Finds the script that is named: `scripted:lead` plays the part `lead`."""

    def __init__(self, parts: Mapping[str, Model]) -> None:
        self._parts = parts

    def get(self, name: str) -> tuple[Model, str]:
        return self._parts[name.removeprefix("scripted:")], name


def part(*replies: Mapping[str, Any], delay_s: float = 0.0) -> Scripted:
    """Return a model that gives these replies."""
    return Scripted(msgspec.convert({"reply": replies, "delay_s": delay_s}, Script))


def tasks(
    *words: str, tool: str = "helper", tokens: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Return a reply that gives out these tasks, all at once."""
    calls = [{"tool": tool, "arguments": {"task": word}} for word in words]
    return {"call": calls} | _usage(tokens)


def says(text: str, tokens: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return a reply in words; `tokens` are those read and written (default: estimated)."""
    return {"text": text} | _usage(tokens)


def uses(tool: str, tokens: tuple[int, int] | None = None, **arguments: Any) -> dict[str, Any]:
    """Return a reply that calls a tool."""
    return {"call": [{"tool": tool, "arguments": arguments}]} | _usage(tokens)


def _usage(tokens: tuple[int, int] | None) -> dict[str, Any]:
    if tokens is None:
        return {}
    return {"usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]}}


_NO_FAULTS = Faults()


@asynccontextmanager
async def house(
    parts: Mapping[str, Model],
    disk: MemoryDisk | None = None,
    *,
    node: str = "n1",
    seed: int = 0,
    prices: Mapping[str, Price] | None = None,
    faults: Faults = _NO_FAULTS,
    clock: Clock | None = None,
    engine_type: type[Engine] = Engine,
    bounds: Bounds | None = None,
) -> AsyncIterator[Engine]:
    """Run an engine over a disk in memory."""
    store = MemoryStore(disk or MemoryDisk(), node, faults=faults)
    kit = Kit(
        store,
        clock or FakeClock(),
        SeededIds(seed),
        Cast(parts),
        prices=prices or {},
        bounds=bounds or Bounds(recoveries=1000, poll_s=0.01),
    )
    async with engine_type(kit) as engine:
        yield engine


async def to_rest(engine: Engine, session: Session, *, text: str = "go", by: str = "test") -> State:
    """Send once and go on, deciding whatever people owe anywhere in the tree."""
    state = await session.send(text, key="the one message")
    while (tree := await engine.tree(session.id)).waiting:
        for row in tree.rows:
            child = await engine.session(row.id)
            for action in (await child.state()).actions.values():
                assert action.kind == "approve"
                await child.decide(Decide(action.id, "allow", by, seen=action.digest))
        async for _ in session.watch():
            pass
        state = await session.state()
    return state


@tool(effect="read")
def look(thing: str) -> str:
    """Look at something."""
    return f"{thing} is there"


@tool(ask=True)
def sign(paper: str) -> str:
    """Sign a paper, if somebody says so."""
    return f"{paper} is signed"


HELPER = Agent("helper", "scripted:helper", tools=[look])
LEAD = Agent("lead", "scripted:lead", tools=[subagent(HELPER)])
SIGNER = Agent("helper", "scripted:helper", tools=[sign])


def lead_of(helper: Agent, **more: object) -> Agent:
    return Agent("lead", "scripted:lead", tools=[subagent(helper, **more)])  # type: ignore[arg-type]


async def results(session: Session) -> dict[str, str]:
    """What the model reads of each call."""
    items = await session.context()
    return {i.call_id: i.text for i in items if isinstance(i, ResultItem)}


async def until(session: Session, wanted: type, count: int = 1) -> Event:
    """Follow a session until it has so many events of a type."""
    seen = 0
    async for item in session.follow():
        if isinstance(item, Event) and isinstance(item.payload, wanted):
            seen += 1
            if seen == count:
                return item
    raise AssertionError("a follower does not end")


async def born(engine: Engine, session_id: str) -> Session:
    """Wait until a session has been made."""
    while await engine.kit.store.session(session_id) is None:
        await engine.kit.store.changed(0.05)
    return await engine.session(session_id)
