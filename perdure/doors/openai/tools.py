"""Tools as OpenAI's clients declare them, and how they look to them afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from perdure.core.agent import Effect, EnvironmentSpec, ToolSpec
from perdure.core.errors import InvalidRequest, Unavailable
from perdure.doors.openai.problems import Wording
from perdure.doors.toolmaker import McpServer, Toolmaker

Json = dict[str, Any]
Look = Literal["function", "custom", "mcp", "shell", "local_shell", "apply_patch"]

_TEXT_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}
_SHELL_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {
        "commands": {"type": "array", "items": {"type": "string"}},
        "timeout_ms": {"type": "integer"},
        "max_output_length": {"type": "integer"},
    },
    "required": ["commands"],
}
_PATCH_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {
        "type": {"enum": ["create_file", "update_file", "delete_file"]},
        "path": {"type": "string"},
        "diff": {"type": "string"},
    },
    "required": ["type", "path"],
}
_SHELL_WORDS: Final = "Run shell commands on the user's own machine, one after the other."
_PATCH_WORDS: Final = "Create, change or delete one file; diff is in the V4A format."


class Shown(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a tool of ours looks to the client: as what kind of item, of which server, named how."""

    look: Look
    label: str = ""
    name: str = ""


@dataclass
class Declared:
    """What a request's tools come to. `listings` are those of MCP servers."""

    specs: list[ToolSpec] = field(default_factory=list)
    shown: dict[str, Shown] = field(default_factory=dict)
    listings: list[Json] = field(default_factory=list)
    environment: EnvironmentSpec = field(default_factory=EnvironmentSpec)

    def add(self, spec: ToolSpec, shown: Shown, where: str) -> None:
        """Take a tool in. Raises `Wording` (400) where two have one name."""
        if spec.name in self.shown:
            raise Wording(400, f"There are two tools named {spec.name!r}.", param=where)
        self.specs.append(spec)
        self.shown[spec.name] = shown


async def tool_specs(tools: Sequence[object], maker: Toolmaker) -> tuple[ToolSpec, ...]:
    """Return the definitions of a request's tools. Raises `Wording` (400) for an unknown kind."""
    return tuple((await declared(tools, maker)).specs)


async def declared(tools: Sequence[object], maker: Toolmaker) -> Declared:
    """Return what a request's tools come to.

    Raises `Wording`: 400 for a kind that is not known here, 424 where an MCP server does not list.
    """
    found = Declared()
    if not isinstance(tools, list | tuple):
        raise InvalidRequest("E-BODY", "tools is no list.")
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        if not isinstance(tool, dict):
            raise Wording(400, "A tool is an object.", param=where)
        match tool.get("type"):
            case "function":
                spec = _function(tool, where, maker)
                found.add(spec, Shown("function"), where)
            case "custom":
                name = _name(tool, where)
                spec = maker.client(name, str(tool.get("description") or ""), _TEXT_SCHEMA)
                found.add(spec, Shown("custom"), where)
            case "mcp":
                await _mcp(tool, where, maker, found)
            case "shell":
                _shell(tool, where, maker, found)
            case "local_shell":
                spec = maker.client("local_shell", _SHELL_WORDS, _SHELL_SCHEMA)
                found.add(spec, Shown("local_shell"), where)
            case "apply_patch":
                spec = maker.client("apply_patch", _PATCH_WORDS, _PATCH_SCHEMA)
                found.add(spec, Shown("apply_patch"), where)
            case kind:
                said = f"Tools of type {kind!r} are not available on this server."
                raise Wording(400, said, param=f"{where}.type")
    return found


def _function(tool: Json, where: str, maker: Toolmaker) -> ToolSpec:
    parameters = tool.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise Wording(400, "parameters is a JSON Schema.", param=f"{where}.parameters")
    return maker.client(_name(tool, where), str(tool.get("description") or ""), parameters)


def _name(tool: Json, where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise Wording(400, "A function needs a name.", param=f"{where}.name")
    return name


def _shell(tool: Json, where: str, maker: Toolmaker, found: Declared) -> None:
    """A shell in a sandbox of ours, or (environment local) one that the client runs."""
    given = tool.get("environment") or {"type": "container_auto"}
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "local":
        spec = maker.client("shell", _SHELL_WORDS, _SHELL_SCHEMA)
        found.add(spec, Shown("shell", "local"), where)
        return
    if kind != "container_auto":
        said = f"A shell's environment is local or container_auto here, not {kind!r}."
        raise Wording(400, said, param=f"{where}.environment.type")
    found.environment = EnvironmentSpec("bubblewrap")
    bash = next(s for s in maker.workspace(found.environment) if s.name == "bash")
    found.add(bash, Shown("shell", "container"), where)


async def _mcp(tool: Json, where: str, maker: Toolmaker, found: Declared) -> None:
    url, label = tool.get("server_url"), str(tool.get("server_label") or "")
    if not isinstance(url, str) or not url:
        raise Wording(400, "An MCP tool needs server_url.", param=f"{where}.server_url")
    if not label:
        raise Wording(400, "An MCP tool needs server_label.", param=f"{where}.server_label")
    server = McpServer(url, label)
    try:
        specs = await maker.mcp(server, _headers(tool))
    except Unavailable as error:
        said = f"Error retrieving tool list from MCP server: '{label}'. {error.message}"
        raise Wording(424, said, code="http_error", param="tools") from error
    listed: list[Json] = []
    for spec in specs:
        name = maker.served_as(spec)
        if not _fits(tool.get("allowed_tools"), name, spec, missing=True):
            continue
        asked = _asked(tool.get("require_approval"), name, spec)
        found.add(replace(spec, ask="true") if asked else spec, Shown("mcp", label, name), where)
        schema = msgspec.json.decode(spec.input_schema)
        hints = {"read_only": spec.effect is Effect.READ}
        listed.append(
            {
                "name": name,
                "description": spec.description,
                "input_schema": schema,
                "annotations": hints,
            }
        )
    item: Json = {"type": "mcp_list_tools", "server_label": label, "tools": listed, "error": None}
    found.listings.append(item)


def _headers(tool: Json) -> dict[str, str]:
    given = tool.get("headers")
    headers = {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {}
    if tool.get("authorization"):
        headers["authorization"] = f"Bearer {tool['authorization']}"
    return headers


def _asked(rule: object, name: str, spec: ToolSpec) -> bool:
    """Whether calls of a tool need an approval. Where two filters contradict, one is asked."""
    if not isinstance(rule, Mapping):
        return rule != "never"
    always, never = rule.get("always"), rule.get("never")
    if _fits(always, name, spec, missing=False):
        return True
    if _fits(never, name, spec, missing=False):
        return False
    return always is None or never is not None


def _fits(filter_: object, name: str, spec: ToolSpec, *, missing: bool) -> bool:
    """Whether a tool passes a filter: a list of names, or names and read_only in an object."""
    if isinstance(filter_, list):
        return name in filter_
    if not isinstance(filter_, Mapping):
        return missing
    names, read_only = filter_.get("tool_names"), filter_.get("read_only")
    if isinstance(names, list) and name not in names:
        return False
    return read_only is None or bool(read_only) == (spec.effect is Effect.READ)
