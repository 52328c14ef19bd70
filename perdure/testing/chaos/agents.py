"""What the nodes run: a model that does as it is told, and tools that the outside world remembers.

A message is what the model shall do: a line for each reply, in it calls parted by `;`, such as

    look 0.1; look 0.2
    pay 0.1

and each call takes the seconds behind its name.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from perdure.core.agent import Limits
from perdure.core.content import (
    ContextItem,
    ModelItem,
    ReplyItem,
    Text,
    ToolCall,
    Usage,
    UserItem,
    text_of,
)
from perdure.engine.agent import Agent
from perdure.ports.model import Delta, Model, ModelReply, ModelRequest
from perdure.ports.tool import Tool, ToolContext
from perdure.testing.chaos import history as h
from perdure.tools.python import tool

_PATIENCE_S: Final = 3600.0


class Obedient:
    """A `Model` that makes the calls that the last message lists, line by line."""

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """Reply with the calls of the line that is due, or that all is done."""
        words, line = _due(request.items)
        calls = [call.split() for call in line.split(";") if call.strip()]
        items: list[ReplyItem] = [
            ToolCall(
                f"{request.call_prefix}{number}",
                name,
                msgspec.json.encode({"seconds": float(seconds)}).decode(),
            )
            for number, (name, seconds) in enumerate(calls, request.first_call)
        ]
        await asyncio.sleep(0)
        yield ModelReply(
            items=tuple(items) or (Text(f"Done: {words}"),),
            usage=Usage(input_tokens=1, output_tokens=1),
            finish="tool_calls" if items else "stop",
            raw=(msgspec.Raw(b"{}"),),
            dialect="scripted",
            provider="chaos",
            model=request.model,
        )

    async def check(self) -> str:
        """It is always there."""
        return "chaos"

    async def close(self) -> None:
        """Nothing to close."""


class OneModel:
    """Finds the obedient model under every name."""

    def get(self, name: str) -> tuple[Model, str]:
        """See `Models.get`."""
        return Obedient(), name


def _due(items: tuple[ContextItem, ...]) -> tuple[str, str]:
    said, replies = "", 0
    for item in items:
        if isinstance(item, UserItem):
            said, replies = text_of(item.content), 0
        elif isinstance(item, ModelItem):
            replies += 1
    lines = said.splitlines()
    return said, lines[replies] if replies < len(lines) else ""


def agent(node: str, world: h.Notes) -> Agent:
    """Return the agent whose tools leave lines in `world`, on the disk before they go on."""
    tools = _World(node, world)
    return Agent(
        "chaos",
        "chaos:model",
        tools=[*_by_effect(tools), *_in_the_way(tools)],
        limits=Limits(wall_s=None, tokens=None, tool_calls=None),
    )


class _World:
    """What the tools of a node do to the outside world: a line before, and one after."""

    def __init__(self, node: str, notes: h.Notes) -> None:
        self._node = node
        self._notes = notes

    def began(self, name: str, effect: str, context: ToolContext) -> None:
        key, call = context.idempotency_key, context.call_id
        said = h.Began(self._node, context.session_id, call, name, effect, key, h.now_ns())
        self._notes.write(said)

    def ended(self, context: ToolContext) -> str:
        self._notes.write(h.Ended(self._node, context.session_id, context.call_id, h.now_ns()))
        return "done"


def _by_effect(world: _World) -> list[Tool]:
    @tool(effect="read", timeout_s=_PATIENCE_S)
    async def look(seconds: float, context: ToolContext) -> str:
        """Look at something."""
        world.began("look", "read", context)
        await asyncio.sleep(seconds)
        return world.ended(context)

    @tool(effect="idempotent", timeout_s=_PATIENCE_S)
    async def book(seconds: float, context: ToolContext) -> str:
        """Book a room; the same key books once."""
        world.began("book", "idempotent", context)
        await asyncio.sleep(seconds)
        return world.ended(context)

    @tool(effect="once", timeout_s=_PATIENCE_S)
    async def pay(seconds: float, context: ToolContext) -> str:
        """Pay. Nobody can ask afterwards whether it was paid."""
        world.began("pay", "once", context)
        await asyncio.sleep(seconds)
        return world.ended(context)

    return [look, book, pay]


def _in_the_way(world: _World) -> list[Tool]:
    @tool(effect="idempotent", timeout_s=_PATIENCE_S)
    def grind(seconds: float, context: ToolContext) -> str:
        """Work in a thread, for long."""
        world.began("grind", "idempotent", context)
        time.sleep(seconds)
        return world.ended(context)

    @tool(effect="idempotent", timeout_s=_PATIENCE_S)
    async def hog(seconds: float, context: ToolContext) -> str:
        """Hold up the whole event loop: no coroutine of this node runs meanwhile."""
        world.began("hog", "idempotent", context)
        time.sleep(seconds)  # noqa: ASYNC251  # that is what it is for
        return world.ended(context)

    return [grind, hog]
