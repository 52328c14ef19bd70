"""A family of agents in memory: a lead that gives tasks to helpers, on scripted models."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from perdure.core.budget import Price
from perdure.core.inbox import Decide
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Script, Scripted
from perdure.ports.clock import Clock
from perdure.ports.model import Model
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds


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
