"""A real MCP server for the tests, made with the official package; run as a program.

    python mcp_server.py DEFINITIONS.json stdio|http [PORT] [legacy]

It offers whatever tools the file says at the moment it is asked, and behaves by their names.
Over HTTP it prints its port on the first line. `legacy` hides the newest protocol from clients.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
import uvicorn
from mcp import MCPError
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

DEFINITIONS = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("definitions.json")


async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
    tools = json.loads(DEFINITIONS.read_text())
    return types.ListToolsResult(tools=[types.Tool.model_validate(tool) for tool in tools])


async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    arguments = params.arguments or {}
    match params.name:
        case "broken":
            return text("it broke", is_error=True)
        case "refuse":
            raise MCPError(-32602, "no such order")
        case "exit":
            os._exit(3)
        case "hang":
            await asyncio.to_thread(Path(arguments["mark"]).write_text, "begun")
            await asyncio.Event().wait()
        case "spawn":
            return text(json.dumps([os.getpid(), *spawn()]))
        case "progress":
            await context.session.report_progress(1, 2, "half")
        case "misfit":
            result = text("done")
            result.structured_content = {"number": "not one"}
            return result
        case "show":
            return types.CallToolResult(
                content=[
                    types.TextContent(text="a text"),
                    types.ImageContent(data="aGVsbG8=", mime_type="image/png"),
                    types.ResourceLink(uri="file:///x", name="x"),
                ]
            )
        case "key":
            meta: Any = params.meta or {}
            return text(json.dumps(dict(meta).get("perdure/idempotencyKey")))
        case _:
            pass
    return text(f"{params.name} {json.dumps(arguments, sort_keys=True)}")


def text(what: str, *, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=what)], is_error=is_error)


def spawn() -> list[int]:
    """Start what a careless server leaves: a child, a grandchild in a session of its own."""
    child = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL)
    script = "setsid sleep 1000 >/dev/null 2>&1 & echo $!"
    away = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    return [child.pid, int(away.stdout)]


class Legacy:
    """An ASGI application that answers the newest protocol's first question with: unknown."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        message = await receive()
        body = json.loads(message["body"])
        if body.get("method") != "server/discover":
            first = [message]
            await self._app(scope, lambda: as_future(first) if first else receive(), send)
            return
        error = {"code": -32601, "message": "Method not found"}
        answer = json.dumps({"jsonrpc": "2.0", "id": body["id"], "error": error}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def as_future(waiting: list[Any]) -> Any:
    return waiting.pop()


def serve_http(server: Server[Any], port: int, *, legacy: bool) -> None:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    app: Any = server.streamable_http_app()
    config = uvicorn.Config(Legacy(app) if legacy else app, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[listening])


async def serve_stdio(server: Server[Any]) -> None:
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def main() -> None:
    server: Server[Any] = Server("shop", on_list_tools=list_tools, on_call_tool=call_tool)
    if sys.argv[2] == "stdio":
        asyncio.run(serve_stdio(server))
    else:
        port = int(sys.argv[3]) if len(sys.argv) > 3 else 0
        serve_http(server, port, legacy="legacy" in sys.argv)


if __name__ == "__main__":
    main()
