"""An MCP server that wants a token, and the token endpoint that gives new ones."""

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import mcp_types as types
import uvicorn
from mcp.server.lowlevel.server import Server


@dataclass
class Guarded:
    """What was shown to it: the tokens of MCP requests, the forms of token requests. `valid` are
    the tokens it takes; a token request gets the next one of `next_tokens`, or is refused.
    """

    url: str = ""
    valid: set[str] = field(default_factory=set)
    next_tokens: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    basic: list[str] = field(default_factory=list)

    @property
    def token_endpoint(self) -> str:
        return self.url.replace("/mcp", "/token")


async def _tools(context: Any, params: Any) -> types.ListToolsResult:
    schema = {"type": "object", "properties": {}}
    tool = {"name": "whoami", "description": "Says what it was shown.", "inputSchema": schema}
    return types.ListToolsResult(tools=[types.Tool.model_validate(tool)])


@asynccontextmanager
async def guarded() -> AsyncIterator[Guarded]:
    """Serve on loopback until the block ends."""
    here = Guarded()

    async def call(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        said = f"You are {here.tokens[-1]}"  # a careless server: it repeats the token
        return types.CallToolResult(content=[types.TextContent(text=said)], is_error=False)

    server: Server[Any] = Server("guarded", on_list_tools=_tools, on_call_tool=call)
    inner: Any = server.streamable_http_app()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        shown = dict(scope["headers"]).get(b"authorization", b"").decode()
        if scope["path"] == "/token":
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            await _answer(send, *_renewed(here, body.decode(), shown))
            return
        token = shown.removeprefix("Bearer ")
        here.tokens.append(token)
        if token not in here.valid:
            await _answer(send, 401, {"error": f"not for {token}"})
            return
        await inner(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    here.url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    web = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    running = asyncio.create_task(web.serve(sockets=[listener]))
    try:
        yield here
    finally:
        web.should_exit = True
        web.force_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await running
        listener.close()


def _renewed(here: Guarded, body: str, shown: str) -> tuple[int, dict[str, Any]]:
    form = {name: values[0] for name, values in parse_qs(body).items()}
    here.forms.append(form)
    if shown.startswith("Basic "):
        here.basic.append(base64.b64decode(shown.removeprefix("Basic ")).decode())
    if not here.next_tokens:
        return 400, {"error": "invalid_grant", "error_description": f"{form} {shown}"}
    token = here.next_tokens.pop(0)
    here.valid.add(token)
    return 200, {"access_token": token, "expires_in": 3600, "refresh_token": f"{token}-refresh"}


async def _answer(send: Any, status: int, body: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
