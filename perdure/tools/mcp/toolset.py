"""The tools of one MCP server behind our ports: named, pinned, called, reconnected.

Servers come from the operator's definition, never from what a model wrote. What a server says
about its tools is pinned before a model hears it.
"""

import asyncio
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from perdure.core.agent import Effect, OnError, RetryPolicy, ToolSpec
from perdure.core.errors import InvalidRequest, Unavailable, error_info
from perdure.ports.tool import Pins, Tool, ToolContext, ToolFailed, ToolOutput
from perdure.tools.mcp.connection import Connection, NotSentError
from perdure.tools.mcp.mapping import effect_of, names_of, sendable, spec_of
from perdure.tools.mcp.transports import (
    CONNECT_S,
    Carrier,
    Http,
    Stdio,
    Token,
    Transport,
    Value,
)
from perdure.tools.mcp_pins import MemoryPins

NAME: Final = re.compile(r"^[a-zA-Z0-9-]+(_[a-zA-Z0-9-]+)*$")
NAME_MAX: Final = 32


class McpToolset:
    """One MCP server's tools. Implements the `Toolset` port.

    Give either `command` (with `args` and `env`) or `url` (with `headers`). `effects` says
    what the server's own hints do not, by the server's tool name; `allow` is a list of globs over
    those names. `pins` remembers accepted definitions; without it they are kept in memory only.
    `retry` and `on_error` say what is done about calls that fail, see `ToolSpec`. `token` is asked
    for a bearer token before each request to a `url`, and `carrier` makes the transport for it.
    """

    def __init__(  # noqa: PLR0913  # each is an option by name, and most are never given
        self,
        name: str,
        *,
        command: str = "",
        args: Sequence[str] = (),
        env: Mapping[str, Value] | None = None,
        url: str = "",
        headers: Mapping[str, Value] | None = None,
        effects: Mapping[str, str] | None = None,
        allow: Sequence[str] | None = None,
        pins: Pins | None = None,
        timeout_s: float = 300.0,
        retry: RetryPolicy | None = None,
        on_error: OnError = "model",
        token: Token | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.name = name
        self._retry = retry
        self._on_error: OnError = on_error
        self._check(bool(command), bool(url), effects or {})
        self._effects = dict(effects or {})
        self._allow = None if allow is None else tuple(allow)
        self._pins: Pins = pins or MemoryPins()
        self._timeout_s = timeout_s
        self._connect_timeout_s = min(CONNECT_S, timeout_s)
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        if command:
            self._transport: Transport = Stdio(command, args, env or {})
        else:
            self._transport = Http(url, headers or {}, token, carrier)

    async def open(self) -> tuple[Tool, ...]:
        """Connect, list, and return the tools whose definition is in force."""
        connection = await self._connected(fresh=True)
        in_force = await self._in_force(connection)
        names = names_of(self.name, list(connection.definitions))
        return tuple(
            McpTool(self, tool, self._spec(names[tool], tool, definition))
            for tool, definition in sorted(connection.definitions.items())
            if tool in in_force
        )

    async def close(self) -> None:
        """Disconnect; a server we started is dead afterwards, with all it started."""
        async with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.close()

    async def call(
        self, tool: str, arguments: Mapping[str, Any], context: ToolContext
    ) -> ToolOutput:
        """Call a tool by the server's name for it, reconnecting where nothing was sent yet."""
        if not sendable(arguments):
            raise InvalidRequest(
                "E-TOOL-ARGUMENTS", "The arguments hold a character or number JSON cannot carry."
            )
        for last in (False, True):
            connection = await self._connected_for(tool)
            try:
                return await connection.call(tool, arguments, context)
            except NotSentError as error:
                if last:
                    raise self._failed("E-MCP-UNREACHABLE", str(error), retryable=True) from error
        raise AssertionError("a loop over two tries ends in one of them")

    def _check(self, command: bool, url: bool, effects: Mapping[str, str]) -> None:
        problem = ""
        if not NAME.match(self.name) or len(self.name) > NAME_MAX:
            problem = f"a name has 1 to {NAME_MAX} letters, digits, - or single _ inside"
        elif command == url:
            problem = "give either a command or a url"
        elif unknown := sorted(set(effects.values()) - {each.value for each in Effect}):
            problem = f"there is no effect {unknown[0]!r}"
        if problem:
            raise InvalidRequest("E-MCP-CONFIG", f"MCP server {self.name!r}: {problem}.")

    def _spec(self, name: str, tool: str, definition: Mapping[str, Any]) -> ToolSpec:
        effect = effect_of(definition, self._effects.get(tool))
        spec = spec_of(self.name, name, definition, effect, self._timeout_s)
        return replace(spec, retry=self._retry, on_error=self._on_error)

    def _failed(self, code: str, message: str, *, retryable: bool = False) -> ToolFailed:
        return ToolFailed(error_info(code, "tool", message, subject=self.name, retryable=retryable))

    async def _connected_for(self, tool: str) -> "Connection":
        """Return a connection on which `tool` is offered in the form that was accepted."""
        try:
            connection = await self._connected()
            in_force = await self._in_force(connection)
        except Unavailable as error:
            raise self._failed(error.code, error.message, retryable=True) from error
        if tool not in connection.definitions:
            raise self._failed("E-MCP-GONE", f"{self.name} no longer offers {tool}.")
        if tool not in in_force:
            raise self._failed(
                "E-MCP-CHANGED",
                f"{self.name} has changed the definition of {tool}; it was not called, and is "
                "held until the new definition is accepted.",
            )
        return connection

    async def _connected(self, *, fresh: bool = False) -> "Connection":
        async with self._lock:
            if self._connection is not None and self._connection.lost:
                gone, self._connection = self._connection, None
                await gone.close()
            if self._connection is None:
                made = Connection(self.name, self._transport)
                await made.open(self._connect_timeout_s)
                self._connection = made
            elif fresh or self._connection.stale:
                await self._connection.relist(self._connect_timeout_s)
            return self._connection

    async def _in_force(self, connection: "Connection") -> frozenset[str]:
        if self._allow is not None:
            connection.keep(
                lambda tool: any(fnmatch.fnmatchcase(tool, g) for g in self._allow or ())
            )
        return await asyncio.to_thread(self._pins.admit, self.name, dict(connection.definitions))


class McpTool:
    """One tool of a server. Implements the `Tool` port."""

    def __init__(self, toolset: McpToolset, tool: str, spec: ToolSpec) -> None:
        self._toolset = toolset
        self._tool = tool
        self._spec = spec

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    @property
    def served_as(self) -> str:
        """The server's own name for it."""
        return self._tool

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Call it. A connection that breaks while the answer is due makes the outcome unknown."""
        return await self._toolset.call(self._tool, arguments, context)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """MCP has no question for this."""
        return None
