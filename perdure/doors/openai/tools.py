"""Tools as OpenAI's clients declare them."""

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from perdure.core.agent import ToolSpec
from perdure.doors.openai.problems import Wording
from perdure.doors.toolmaker import McpServer, Toolmaker

_TEXT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}


async def tool_specs(tools: Sequence[object], maker: Toolmaker) -> tuple[ToolSpec, ...]:
    """Return the definitions of a request's tools. Raises `Wording` (400) for an unknown kind."""
    found: list[ToolSpec] = []
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        if not isinstance(tool, dict):
            raise Wording(400, "A tool is an object.", param=where)
        match tool.get("type"):
            case "function":
                found.append(_function(tool, where, maker))
            case "custom":
                name = _name(tool, where)
                found.append(maker.client(name, str(tool.get("description") or ""), _TEXT_SCHEMA))
            case "mcp":
                found += await _mcp(tool, where, maker)
            case kind:
                said = f"Tools of type {kind!r} are not available on this server."
                raise Wording(400, said, param=f"{where}.type")
    return tuple(found)


def _function(tool: dict[str, Any], where: str, maker: Toolmaker) -> ToolSpec:
    parameters = tool.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise Wording(400, "parameters is a JSON Schema.", param=f"{where}.parameters")
    return maker.client(_name(tool, where), str(tool.get("description") or ""), parameters)


def _name(tool: dict[str, Any], where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise Wording(400, "A function needs a name.", param=f"{where}.name")
    return name


async def _mcp(tool: dict[str, Any], where: str, maker: Toolmaker) -> Sequence[ToolSpec]:
    url = tool.get("server_url")
    if not isinstance(url, str) or not url:
        raise Wording(400, "An MCP tool needs server_url.", param=f"{where}.server_url")
    allowed = tool.get("allowed_tools")
    names = allowed.get("tool_names") if isinstance(allowed, dict) else allowed
    server = McpServer(
        url,
        str(tool.get("server_label") or ""),
        allow=tuple(str(n) for n in names) if isinstance(names, list) else None,
    )
    specs = await maker.mcp(server)
    never = tool.get("require_approval") == "never"
    return specs if never else [replace(spec, ask="true") for spec in specs]
