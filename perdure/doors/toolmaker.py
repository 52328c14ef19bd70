"""What doors need of tools: definitions for what an API client declares."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from perdure.core.agent import AgentSpec, EnvironmentSpec, ToolSpec


class McpServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An MCP server that an API client named. `credential` names what authorises us there; secrets
    are never in here. `allow` are globs over its tools' names.
    """

    url: str
    label: str = ""
    credential: str = ""
    headers: dict[str, str] = {}
    allow: tuple[str, ...] | None = None


_NONE: Final[Mapping[str, str]] = MappingProxyType({})


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

    async def subagent(self, agent: AgentSpec, at_once: int) -> ToolSpec:
        """Return a tool that gives a task to a subagent, of which `at_once` may be at work."""
        ...

    async def mcp(
        self, server: McpServer, headers: Mapping[str, str] = _NONE
    ) -> tuple[ToolSpec, ...]:
        """Connect to a server and return its tools, prefixed by a name of ours for it.

        `headers` authorise this very client there. They are kept sealed in the vault.

        Raises `Unavailable` (E-MCP-UNREACHABLE), `Forbidden` for an address not allowed.
        """
        ...

    def served_as(self, spec: ToolSpec) -> str:
        """Return the name that the MCP server itself has for a tool that `mcp` returned."""
        ...
