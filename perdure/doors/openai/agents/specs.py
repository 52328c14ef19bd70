"""From an agent's settings to the definition that a session is pinned to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from perdure.core.agent import AgentSpec, EnvironmentSpec, Limits, ToolSpec
from perdure.core.codec import decode, encode
from perdure.core.settings import Format, ModelSettings
from perdure.doors.credentials import credential_for
from perdure.doors.openai.problems import Wording
from perdure.doors.services import Services
from perdure.doors.toolmaker import McpServer, Toolmaker

Json = dict[str, Any]

NAME: Final = "openai-agent"
_NEEDLESS: Final = ("tool_search", "programmatic_tool_calling")  # every tool is at hand as it is
_CENTS: Final = 100


@dataclass(frozen=True)
class Defined:
    """A definition, and what the client calls the servers of its tools, and these the tools."""

    spec: AgentSpec
    served: dict[str, tuple[str, str]]


async def define(
    services: Services,
    project: str,
    settings: Mapping[str, Any],
    where: EnvironmentSpec,
    spend_limit: int | None,
    vault_ids: tuple[str, ...] = (),
    told: str = "",
) -> Defined:
    """Return what `settings` mean, with a limit in US cents; the agent is `told` that beside its
    instructions. Connects to MCP servers, authorised by the credentials of those vaults.

    Raises `Wording` (400), `InvalidRequest` (E-MODEL-NAME), `Unavailable`.
    """
    maker = services.tools(project)
    tools, served = await _declared(services, project, settings["tools"], vault_ids)
    if where.kind != "none":
        tools += maker.workspace(where)
    spec = AgentSpec(
        name=NAME,
        model=services.model(settings["model"]),
        instructions="\n\n".join(filter(None, (settings["instructions"], told))),
        tools=tuple(tools),
        limits=Limits(usd=None if spend_limit is None else spend_limit / _CENTS),
        environment=where,
        deltas="stored",
        settings=_steering(settings),
    )
    spec = decode(encode(spec), AgentSpec)  # as it will be read back
    if settings["multi_agent"]["enabled"]:
        at_once = settings["multi_agent"]["max_concurrent_subagents"]
        below = await maker.subagent(_below(spec), at_once)
        spec = replace(spec, tools=(*spec.tools, below))
    _each_once(spec)
    return Defined(spec, served)


async def _declared(
    services: Services, project: str, declared: list[Json], vault_ids: tuple[str, ...]
) -> tuple[list[ToolSpec], dict[str, tuple[str, str]]]:
    """Return the tools that a client declared, and what it calls those of servers."""
    maker = services.tools(project)
    tools: list[ToolSpec] = []
    served: dict[str, tuple[str, str]] = {}
    for number, tool in enumerate(declared):
        credential = await _credential(services, project, tool, vault_ids)
        found = await _tools(tool, maker, f"tools[{number}]", credential)
        tools += found
        if tool["type"] == "mcp":
            label = tool["server_label"]
            served |= {spec.name: (label, maker.served_as(spec)) for spec in found}
    return tools, served


def _below(spec: AgentSpec) -> AgentSpec:
    """Return the definition of a subagent: the same agent, without what only the client can do;
    it is never asked below its own session.
    """
    return replace(spec, tools=tuple(t for t in spec.tools if not t.client and not t.ask))


def _steering(settings: Mapping[str, Any]) -> ModelSettings:
    reasoning, text = settings["reasoning"], settings["text"]
    form = text["format"]
    wanted = None
    if form["type"] == "json_schema":
        schema = msgspec.json.encode(form["schema"]).decode()
        wanted = Format(name="reply", schema=schema, strict=True)
    return ModelSettings(
        effort=reasoning["effort"],
        summary=reasoning["summary"] or "",
        format=wanted,
        verbosity=None if text["verbosity"] == "medium" else text["verbosity"],
    )


def _each_once(spec: AgentSpec) -> None:
    names = [tool.name for tool in spec.tools]
    for name in names:
        if names.count(name) > 1:
            raise Wording(400, f"There are two tools named {name!r}.", param="tools")


async def _credential(
    services: Services, project: str, tool: Json, vault_ids: tuple[str, ...]
) -> str:
    """Return what authorises us at a tool's server, of the session's vaults."""
    named = tool.get("credential_id") or ""
    if tool["type"] != "mcp" or tool["transport"]["type"] != "http" or not (vault_ids or named):
        return ""
    store = (await services.projects.engine(project)).kit.store
    return await credential_for(store, vault_ids, tool["transport"]["server_url"], named)


async def _tools(tool: Json, maker: Toolmaker, where: str, credential: str) -> list[ToolSpec]:
    match tool["type"]:
        case "function":
            return [maker.client(tool["name"], tool["description"], tool["parameters"])]
        case "mcp":
            return await _mcp(tool, maker, where, credential)
        case kind if kind in _NEEDLESS or tool.get("mode") == "disabled":
            return []
        case kind:
            said = f"Tools of type {kind!r} are not available on this server."
            raise Wording(400, said, param=f"{where}.type")


async def _mcp(tool: Json, maker: Toolmaker, where: str, credential: str) -> list[ToolSpec]:
    transport = tool["transport"]
    if transport["type"] != "http" or tool["connection_origin"] != "service":
        said = "MCP servers are reached from the service, over http."
        raise Wording(400, said, param=f"{where}.transport")
    allowed = tool["allowed_tools"]
    server = McpServer(
        transport["server_url"],
        tool["server_label"],
        credential=credential,
        headers=transport["headers"],
        allow=None if allowed is None else tuple(allowed),
    )
    specs = await maker.mcp(server)
    return [
        replace(spec, ask="true") if _asks(tool, maker.served_as(spec)) else spec for spec in specs
    ]


def _asks(tool: Json, name: str) -> bool:
    """Whether a tool's calls wait for an approval; `require_approval` is that of the Responses."""
    wanted = tool.get("require_approval")
    if isinstance(wanted, dict):
        always = (wanted.get("always") or {}).get("tool_names") or []
        never = (wanted.get("never") or {}).get("tool_names")
        return name in always or (never is not None and name not in never)
    return wanted == "always"
