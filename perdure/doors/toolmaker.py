"""What doors need of tools: definitions for what an API client declares."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from perdure.core.agent import EnvironmentSpec, ToolSpec


class McpServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An MCP server that an API client named. `credential` names what authorises us there; secrets
    are never in here. `allow` are globs over its tools' names.
    """

    url: str
    label: str = ""
    credential: str = ""
    headers: dict[str, str] = {}
    allow: tuple[str, ...] | None = None


class Toolmaker(Protocol):
    """Makes tool definitions in one project; the engine finds their code by the definition alone,
    in this process and after a restart.
    """

    def client(
        self, name: str, description: str, parameters: Mapping[str, Any], *, ask: str = ""
    ) -> ToolSpec:
        """Return a tool that the client answers. `parameters` is JSON Schema."""
        ...

    def workspace(self, where: EnvironmentSpec) -> tuple[ToolSpec, ...]:
        """Return the tools of an environment."""
        ...

    async def mcp(self, server: McpServer) -> tuple[ToolSpec, ...]:
        """Connect to a server and return its tools, prefixed by a name of ours for it.

        Raises `Unavailable` (E-MCP-UNREACHABLE), `Forbidden` for an address not allowed.
        """
        ...
