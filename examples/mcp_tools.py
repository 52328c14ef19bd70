"""The tools of an MCP server. The server here is this very file, started as a program of its own.

What a server says about its tools is pinned when it is first seen: a definition that changes later
is held back until somebody accepts it.
"""

import asyncio
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

from perdure import Agent, Event, Runtime
from perdure.engine.summary import describe
from perdure.tools.mcp import McpToolset

SCRIPT = Path(__file__).parent / "scripts" / "mcp_tools.toml"

server = MCPServer("library")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def find_book(words: str) -> str:
    """Find a book by words of its title."""
    return f"'{words.title()}', shelf 12"


async def main() -> None:
    library = McpToolset("library", command=sys.executable, args=[__file__, "serve"])
    librarian = Agent("librarian", model=f"scripted:{SCRIPT}", tools=[library])
    async with Runtime("sqlite:///library.db") as runtime:
        session = await runtime.session("reader-1", librarian)
        for tool in (await session.state()).spec.tools:
            print(f"{tool.name}: {tool.effect.value} (from {tool.source})")
        async for piece in session.send("Where is the book about night trains?"):
            if isinstance(piece, Event) and piece.type == "tool.finished":
                print(describe(piece))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        server.run("stdio")
    else:
        asyncio.run(main())
