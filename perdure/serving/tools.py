"""Tools of agents that were made by an API: found again from the pinned definition alone."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from perdure.core.agent import AgentSpec, EnvironmentSpec, ToolSpec
from perdure.core.codec import decode, encode
from perdure.core.errors import Forbidden, Unavailable
from perdure.core.secrets import Secret
from perdure.doors.toolmaker import McpServer
from perdure.doors.turns import OneAtATime
from perdure.engine.trees import Trees
from perdure.ports.store import Store
from perdure.ports.tool import Tool, ToolContext, ToolOutput
from perdure.ports.vault import Vault
from perdure.serving import subagents
from perdure.serving.discreet import Discreet, Shown
from perdure.tools.mcp.toolset import McpToolset
from perdure.tools.mcp.transports import Carrier

_KIND: Final = "mcp-server"
_MCP: Final = "mcp:"
_GIVEN: Final = "given:"
_TELLING: Final = ("auth", "cookie", "key", "pass", "secret", "token")  # in a header's name
_SECRET_CHARS: Final = 8  # what is shorter would be found everywhere
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_OPEN_SERVERS: Final = 64  # connections kept in one project; the one not used for longest goes

Tokens = Callable[[str, str], Awaitable[Secret]]
"""Gives the token of a credential for the server at a URL. Raises `Unavailable`, `Forbidden`."""
Workspace = Callable[[EnvironmentSpec], tuple[Tool, ...]]


class AnsweredOutside:
    """A tool that the client answers. Implements the `Tool` port; it is never called here."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Refuse: the engine leaves such a call to the client."""
        raise AssertionError("a client's tool is not run here")

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Nothing to ask."""
        return None


class ProjectTools:
    """The tools of one project's API agents. Implements `Toolmaker` and the kit's `AgentSource`.

    `tokens` gives what authorises us at a server, for each request anew; `carrier` makes the way
    to it. `vault` keeps what clients send along for their servers, beyond a restart.
    """

    def __init__(
        self,
        store: Store,
        workspace: Workspace,
        tokens: Tokens,
        carrier: Carrier | None = None,
        vault: Vault | None = None,
    ) -> None:
        self._store = store
        self._workspace = workspace
        self._tokens = tokens
        self._carrier = carrier
        self._servers: OrderedDict[str, tuple[McpToolset, dict[str, Tool]]] = OrderedDict()
        self._given: dict[str, dict[str, str]] = {}  # what clients sent along, by credential
        self._vault = vault
        self._opening = OneAtATime()  # by name of a server
        self.trees: Trees | None = None  # of the engine that these tools are run by

    def client(
        self, name: str, description: str, parameters: Mapping[str, Any], *, ask: str = ""
    ) -> ToolSpec:
        """See `Toolmaker.client`."""
        schema = msgspec.Raw(json.dumps(parameters).encode())
        return ToolSpec(name, description, schema, ask=ask, client=True)

    def workspace(self, where: EnvironmentSpec) -> tuple[ToolSpec, ...]:
        """See `Toolmaker.workspace`."""
        return tuple(tool.spec for tool in self._workspace(where))

    async def subagent(self, agent: AgentSpec, at_once: int) -> ToolSpec:
        """See `Toolmaker.subagent`."""
        return await subagents.keep(self._store, agent, at_once)

    async def mcp(
        self, server: McpServer, headers: Mapping[str, str] = _NO_HEADERS
    ) -> tuple[ToolSpec, ...]:
        """See `Toolmaker.mcp`."""
        _ensure_plain(server.url)
        if headers:
            digest = hashlib.sha256(encode(sorted(headers.items()))).hexdigest()[:16]
            server = replace(server, credential=f"{_GIVEN}{digest}")
            self._given[server.credential] = dict(headers)
            if self._vault is not None:
                await self._vault.put(server.credential, Secret(json.dumps(dict(headers))))
        name = server_name(server)
        await self._store.put_doc(_KIND, name, encode(server))
        return tuple(tool.spec for tool in (await self._of_server(name, server)).values())

    def served_as(self, spec: ToolSpec) -> str:
        """See `Toolmaker.served_as`."""
        _, tools = self._servers.get(spec.source.removeprefix(_MCP), (None, {}))
        return getattr(tools.get(spec.name), "served_as", spec.name)

    async def tools(self, spec: AgentSpec) -> Mapping[str, Tool] | None:
        """See `AgentSource.tools`."""
        workspace = {tool.spec.name: tool for tool in self._workspace(spec.environment)}
        found: dict[str, Tool] = {}
        for tool in spec.tools:
            if tool.client:
                found[tool.name] = AnsweredOutside(tool)
            elif tool.source.startswith(_MCP):
                served = await self._named(tool.source.removeprefix(_MCP))
                code = served.get(tool.name)
                if code is None:
                    return None
                found[tool.name] = _asking(code, tool)
            elif tool.name in workspace and tool.environment:
                found[tool.name] = _asking(workspace[tool.name], tool)
            elif (started := await subagents.kept(self._store, tool, self.trees)) is not None:
                found[tool.name] = started
            else:
                return None
        return found

    async def close(self) -> None:
        """Disconnect from all servers."""
        servers, self._servers = self._servers, OrderedDict()
        for toolset, _ in servers.values():
            await toolset.close()

    async def _named(self, name: str) -> dict[str, Tool]:
        doc = await self._store.doc(_KIND, name)
        return {} if doc is None else await self._of_server(name, decode(doc.data, McpServer))

    async def _of_server(self, name: str, server: McpServer) -> dict[str, Tool]:
        async with self._opening.of(name):  # one connection, however many ask for it at once
            return await self._opened(name, server)

    async def _opened(self, name: str, server: McpServer) -> dict[str, Tool]:
        if name in self._servers:
            self._servers.move_to_end(name)
            return self._servers[name][1]
        given = await self._headers_of(server.credential)
        sealed = bool(server.credential) and not server.credential.startswith(_GIVEN)
        shown = Shown()
        for secret in filter(None, map(_secret_in, given, given.values())):
            shown.add(secret)
        toolset = McpToolset(
            name,
            url=server.url,
            headers=dict(server.headers) | given,
            allow=server.allow,
            token=self._token_of(server, shown) if sealed else None,
            carrier=self._carrier,
        )
        tools: dict[str, Tool] = {tool.spec.name: tool for tool in await _opened(toolset, shown)}
        if server.credential:
            tools = {name: Discreet(tool, shown) for name, tool in tools.items()}
        self._servers[name] = (toolset, tools)
        if len(self._servers) > _OPEN_SERVERS:
            _, (old, _) = self._servers.popitem(last=False)
            await old.close()
        return tools

    async def _headers_of(self, credential: str) -> dict[str, str]:
        """Return what a client sent along, now or before a restart."""
        if credential.startswith(_GIVEN) and credential not in self._given and self._vault:
            secret = await self._vault.get(credential)
            self._given[credential] = json.loads(secret.reveal()) if secret else {}
        return self._given.get(credential, {})

    def _token_of(self, server: McpServer, shown: Shown) -> Callable[[], Awaitable[Secret]]:
        async def token() -> Secret:
            found = await self._tokens(server.credential, server.url)
            shown.add(found)
            return found

        return token


async def _opened(toolset: McpToolset, shown: Shown) -> tuple[Tool, ...]:
    """Connect; what a server says of itself must not hold the token it was shown."""
    try:
        tools = await toolset.open()
    except Unavailable as error:
        raise Unavailable(error.code, shown.scrub(error.message), error.hint) from None
    if shown.is_in(encode([tool.spec for tool in tools])):
        await toolset.close()
        raise Unavailable(
            "E-CREDENTIAL", f"{toolset.name} puts our token into its tools; they are not used."
        )
    return tools


def _ensure_plain(url: str) -> None:
    """Refuse an address with a password in it: addresses are kept and shown as they are."""
    try:
        parts = urlsplit(url)
        plain = parts.username is None and parts.password is None
    except ValueError:
        plain = True  # no address at all: whoever connects says so
    if not plain:
        raise Forbidden(
            "E-ADDRESS",
            "The address of an MCP server holds a name or a password; it was not kept.",
            "Send it as a header, or put it into a vault.",
        )


def _secret_in(name: str, value: str) -> Secret | None:
    """Return what is secret in a header that a client sent along, by the header's name."""
    bare = value.partition(" ")[2] if name.lower().endswith("authorization") else ""
    found = (bare or value).strip()
    telling = any(word in name.lower() for word in _TELLING)
    return Secret(found) if telling and len(found) >= _SECRET_CHARS else None


def server_name(server: McpServer) -> str:
    """Return our name for a server; those of its tools begin with it."""
    return "m" + hashlib.sha256(encode(server)).hexdigest()[:12]


class _Asking:
    """A tool under the conditions that its session pinned."""

    def __init__(self, tool: Tool, spec: ToolSpec) -> None:
        self._tool = tool
        self.spec = spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        return await self._tool.call(arguments, context)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        return await self._tool.probe(arguments, context)


def _asking(tool: Tool, pinned: ToolSpec) -> Tool:
    """Return `tool`; where only the conditions of asking were added, with those."""
    if tool.spec == pinned:
        return tool
    plain = replace(pinned, ask=tool.spec.ask, deny=tool.spec.deny)
    return _Asking(tool, pinned) if plain == tool.spec else tool
