"""A process that owns an MCP server, to be killed by a test: prints the server's process ids."""

import asyncio
import sys

from perdure.tools.mcp import McpToolset
from tests.contract.tool_doubles import Context


async def main() -> None:
    toolset = McpToolset("shop", command=sys.executable, args=sys.argv[1:])
    tools = {made.spec.name: made for made in await toolset.open()}
    output = await tools["shop__spawn"].call({}, Context())
    sys.stdout.write(f"{output.text}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main())
