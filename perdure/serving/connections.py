"""Connections to MCP servers, shared by all agents of a project.

One is opened when it is first needed. When there are too many, the one not used for longest goes:
nobody new gets it, and it is closed when the last call on it has ended. Tools that were handed out
before find the connection of the moment when they are called, so they outlive any of them.
"""

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from perdure.core.agent import ToolSpec
from perdure.core.errors import error_info
from perdure.doors.turns import OneAtATime
from perdure.ports.tool import Tool, ToolContext, ToolFailed, ToolOutput

MOST: Final = 64  # in one project


class Closing(Protocol):
    """What is behind a server's tools."""

    async def close(self) -> None: ...


Open = Callable[[], Awaitable[tuple[Closing, dict[str, Tool]]]]
"""Connects, and returns what to close and the tools by name."""


@dataclass
class _Connection:
    behind: Closing
    tools: dict[str, Tool]
    users: int = 0
    left: bool = False  # nobody new gets it


class Connections:
    """The open connections of one project, by our name for the server."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._open: OrderedDict[str, _Connection] = OrderedDict()
        self._opening = OneAtATime()

    def now(self, name: str) -> Mapping[str, Tool]:
        """Return the tools of a connection that is open, without using it."""
        found = self._open.get(name)
        return found.tools if found else {}

    async def tools(self, name: str, open_: Open) -> dict[str, Tool]:
        """Return the tools of a server, connecting if need be. Raises what `open_` raises."""
        async with self.used(name, open_) as tools:
            return {each: _Shared(self, name, open_, tool) for each, tool in tools.items()}

    @contextlib.asynccontextmanager
    async def used(self, name: str, open_: Open) -> AsyncIterator[Mapping[str, Tool]]:
        """Use a connection: until the block ends it is not closed, whoever else needs one."""
        connection = await self._get(name, open_)
        try:
            await self._evict()
            yield connection.tools
        finally:
            connection.users -= 1
            await self._end(connection)

    async def close(self) -> None:
        """Disconnect from all servers, whoever uses them."""
        connections, self._open = list(self._open.values()), OrderedDict()
        for connection in connections:
            await connection.behind.close()

    async def _get(self, name: str, open_: Open) -> _Connection:
        async with self._opening.of(name):  # one connection, however many ask for it at once
            if name not in self._open:
                behind, tools = await open_()
                self._open[name] = _Connection(behind, tools)
            self._open.move_to_end(name)
            connection = self._open[name]
            connection.users += 1
            return connection

    async def _evict(self) -> None:
        while len(self._open) > self._most:
            _, old = self._open.popitem(last=False)
            old.left = True
            await self._end(old)

    async def _end(self, connection: _Connection) -> None:
        if connection.left and not connection.users:
            await connection.behind.close()


class _Shared:
    """A tool of a server, over whichever connection to it is open. Implements the `Tool` port."""

    def __init__(self, all_: Connections, name: str, open_: Open, tool: Tool) -> None:
        self.spec: ToolSpec = tool.spec
        self.served_as: str = getattr(tool, "served_as", tool.spec.name)
        self._all = all_
        self._name = name
        self._open = open_

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """See `Tool.call`."""
        async with self._all.used(self._name, self._open) as tools:
            return await self._in(tools).call(arguments, context)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """See `Tool.probe`."""
        async with self._all.used(self._name, self._open) as tools:
            return await self._in(tools).probe(arguments, context)

    def _in(self, tools: Mapping[str, Tool]) -> Tool:
        tool = tools.get(self.spec.name)
        if tool is None or tool.spec != self.spec:  # what was accepted is what is called
            said = f"The server no longer offers {self.served_as} as it was; nothing was called."
            raise ToolFailed(error_info("E-MCP-GONE", "tool", said, subject=self.spec.name))
        return tool
