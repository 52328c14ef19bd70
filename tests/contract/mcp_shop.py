"""A shop for the tests of MCP: real servers, what they offer, and toolsets that use them."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.ports.tool import Tool, ToolFailed
from perdure.tools.mcp import McpToolset
from perdure.tools.mcp_pins import FilePins
from tests.contract.tool_doubles import Context

SERVER = str(Path(__file__).with_name("mcp_server.py"))
OWNER = str(Path(__file__).with_name("mcp_owner.py"))
ROOT = Path(__file__).resolve().parents[2]


def definition(name: str, **rest: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"order": {"type": "integer"}}}
    return {"name": name, "description": f"To {name}.", "inputSchema": schema} | rest


NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}}
PLAIN = ("broken", "refuse", "exit", "hang", "spawn", "show", "key", "progress", "odd.na/me")
TOOLS = [
    definition("look", annotations={"readOnlyHint": True, "idempotentHint": True}),
    definition("set", annotations={"idempotentHint": True, "readOnlyHint": False}),
    definition("pay", annotations={"destructiveHint": False}),
    definition("misfit", outputSchema=NUMBER),
    *(definition(name) for name in PLAIN),
]


class Shop:
    """A server's definitions on disk, and toolsets that use the server."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "definitions.json"
        self.pins = FilePins(folder / "state" / "pins.json")
        self.open: list[McpToolset] = []
        self.processes: list[asyncio.subprocess.Process] = []
        self.write(TOOLS)

    def write(self, tools: list[dict[str, Any]]) -> None:
        self.file.write_text(json.dumps(tools))

    def stdio(self, **rest: Any) -> McpToolset:
        arguments = [SERVER, str(self.file), "stdio"]
        rest = {"pins": self.pins} | rest
        return self._made(McpToolset("shop", command=sys.executable, args=arguments, **rest))

    def http(self, port: int, **rest: Any) -> McpToolset:
        url = f"http://127.0.0.1:{port}/mcp"
        return self._made(McpToolset("shop", url=url, **({"pins": self.pins} | rest)))

    async def serve(self, *words: str) -> tuple[int, asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, SERVER, str(self.file), "http", *words, stdout=asyncio.subprocess.PIPE
        )
        self.processes.append(process)
        assert process.stdout is not None
        return int(await process.stdout.readline()), process

    async def close(self) -> None:
        for toolset in self.open:
            await toolset.close()
        for process in self.processes:
            await kill(process)

    def _made(self, toolset: McpToolset) -> McpToolset:
        self.open.append(toolset)
        return toolset


async def kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


async def offered(toolset: McpToolset) -> dict[str, Tool]:
    return {made.spec.name.removeprefix("shop__"): made for made in await toolset.open()}


async def text(made: Tool, **arguments: Any) -> str:
    output = await made.call(arguments, Context())
    assert output.error is None
    return output.text


async def code_of(made: Tool, **arguments: Any) -> str:
    with pytest.raises(ToolFailed) as caught:
        await made.call(arguments, Context())
    return caught.value.info.code
