"""Connections to MCP servers: never closed under a call, and what nobody uses is forgotten."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.core.agent import ToolSpec
from perdure.core.codec import decode, encode
from perdure.doors.toolmaker import McpServer
from perdure.ports.tool import Tool, ToolContext, ToolFailed, ToolOutput
from perdure.serving.connections import Connections
from perdure.serving.tools import _Known
from tests.contract.tool_doubles import Context
from tests.doors.guarded import guarded
from tests.doors.serving import Reply, script, up

TALK = script(Reply(text="Hello."), Reply(text="Again."))


class Line:
    """A server at the other end of one connection. Its tool waits until it is let go."""

    def __init__(self, description: str = "") -> None:
        self.spec = ToolSpec("ask", description, msgspec.Raw(b"{}"))
        self.closed = False
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def close(self) -> None:
        assert not self.closed
        self.closed = True

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        self.begun.set()
        await self.go.wait()
        assert not self.closed, "it was closed under a call"
        return ToolOutput("done")

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        return None


class Exchange:
    """Opens lines, and remembers them by name in the order they were opened."""

    def __init__(self, most: int) -> None:
        self.connections = Connections(most)
        self.lines: dict[str, list[Line]] = {}
        self.description = ""
        self._opened = asyncio.Condition()

    async def opened(self, count: int) -> None:
        """Wait until so many lines to `a` were opened."""
        async with self._opened:
            await self._opened.wait_for(lambda: len(self.lines["a"]) >= count)

    async def tool(self, name: str) -> Tool:
        async def open_() -> tuple[Line, dict[str, Tool]]:
            line = Line(self.description)
            async with self._opened:
                self.lines.setdefault(name, []).append(line)
                self._opened.notify_all()
            return line, {"ask": line}

        return (await self.connections.tools(name, open_))["ask"]


async def test_a_connection_in_use_is_closed_when_its_last_call_has_ended() -> None:
    exchange = Exchange(1)
    tool = await exchange.tool("a")
    first = exchange.lines["a"][0]
    calls = [asyncio.ensure_future(tool.call({}, Context())) for _ in range(2)]
    await first.begun.wait()
    await exchange.tool("b")  # there is room for one
    assert [line.closed for line in exchange.lines["a"]] == [False]
    first.go.set()
    assert [output.text for output in await asyncio.gather(*calls)] == ["done", "done"]
    assert first.closed
    assert not exchange.lines["b"][0].closed


async def test_one_that_nobody_uses_goes_at_once_and_its_tools_find_another() -> None:
    exchange = Exchange(1)
    tool = await exchange.tool("a")
    await exchange.tool("b")
    assert exchange.lines["a"][0].closed
    call = asyncio.ensure_future(tool.call({}, Context()))
    await exchange.opened(2)
    exchange.lines["a"][-1].go.set()
    assert (await call).text == "done"
    await exchange.connections.close()
    assert all(line.closed for lines in exchange.lines.values() for line in lines)


async def test_a_tool_that_looks_different_on_another_connection_is_not_called() -> None:
    exchange = Exchange(1)
    tool = await exchange.tool("a")
    await exchange.tool("b")
    exchange.description = "another"
    with pytest.raises(ToolFailed) as error:
        await tool.call({}, Context())
    assert error.value.code == "E-MCP-GONE"


async def test_servers_that_no_session_has_used_for_long_are_forgotten(tmp_path: Path) -> None:
    async with guarded() as shop, up({"talk": TALK}, tmp_path / "s.db") as server:
        client = await server.openai()
        store = server.server.stores.base

        async def ask(number: int) -> None:
            shop.valid.add(f"token-{number:08d}")
            tool: Any = {
                "type": "mcp", "server_label": "shop", "server_url": shop.url,
                "authorization": f"token-{number:08d}",
            }  # fmt: skip
            await client.responses.create(model="talk", input="Hi", tools=[tool])

        for number in range(4):
            await ask(number)
        kept = await store.docs("mcp-server")
        assert len(kept) == len(await store.docs("secret")) == 4
        for doc in kept[1:]:
            known = decode(doc.data, _Known)
            assert known.used_at > 1_700_000_000
            old = encode(_Known(known.url, known.label, known.credential, used_at=1))
            await store.put_doc("mcp-server", doc.name, old)
        without = decode(kept[0].data, McpServer)  # as it was before times were kept
        await store.put_doc("mcp-server", kept[0].name, encode(without))
        for number in range(4, 12):
            await ask(number)
        left = {doc.name for doc in await store.docs("mcp-server")}
        assert kept[0].name in left
        gone = {doc.name for doc in kept[1:]} - left
        assert gone
        assert len(await store.docs("secret")) == len(left)
