"""Tools of agents that were made by an API: found again from the pinned definition alone."""

import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from perdure.core.agent import AgentSpec, EnvironmentSpec, ToolSpec
from perdure.core.codec import decode, encode
from perdure.core.errors import Conflict, Forbidden, Unavailable
from perdure.core.secrets import Secret
from perdure.doors.toolmaker import McpServer
from perdure.engine.trees import Trees
from perdure.ports.clock import Clock
from perdure.ports.store import Store
from perdure.ports.tool import Tool, ToolContext, ToolOutput
from perdure.ports.vault import Vault
from perdure.serving import subagents
from perdure.serving.connections import Connections
from perdure.serving.discreet import Discreet, Shown
from perdure.tools.mcp.toolset import McpToolset
from perdure.tools.mcp.transports import Carrier

_KIND: Final = "mcp-server"
_MCP: Final = "mcp:"
_GIVEN: Final = "given:"
_TELLING: Final = ("auth", "cookie", "key", "pass", "secret", "token")  # in a header's name
_SECRET_CHARS: Final = 8  # what is shorter would be found everywhere
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_KEPT_S: Final = 30 * 24 * 3600  # what no session has used for so long is forgotten
_TOUCH_S: Final = 24 * 3600  # how often it is written down that a server is still in use
_SWEPT: Final = 8  # how many others are looked at when a server is new

Tokens = Callable[[str, str], Awaitable[Secret]]
"""Gives the token of a credential for the server at a URL. Raises `Unavailable`, `Forbidden`."""
Workspace = Callable[[EnvironmentSpec], tuple[Tool, ...]]


class _Known(McpServer, frozen=True, omit_defaults=True):
    """A server as it is kept. `used_at` is about when a session used it last, in seconds."""

    used_at: int = 0


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
        *,
        clock: Clock,
    ) -> None:
        self._store = store
        self._workspace = workspace
        self._tokens = tokens
        self._carrier = carrier
        self._clock = clock
        self._connections = Connections()
        self._given: dict[str, dict[str, str]] = {}  # what clients sent along, by credential
        self._vault = vault
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
            # Each server has its own, even where they are the same: they are forgotten together.
            whole = encode([server, sorted(headers.items())])
            digest = hashlib.sha256(whole).hexdigest()[:16]
            server = replace(server, credential=f"{_GIVEN}{digest}")
            self._given[server.credential] = dict(headers)
            if self._vault is not None:
                await self._vault.put(server.credential, Secret(json.dumps(dict(headers))))
        name = server_name(server)
        await self._note(name, server)
        return tuple(tool.spec for tool in (await self._of_server(name, server)).values())

    def served_as(self, spec: ToolSpec) -> str:
        """See `Toolmaker.served_as`."""
        tools = self._connections.now(spec.source.removeprefix(_MCP))
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
        await self._connections.close()

    async def _note(self, name: str, server: McpServer) -> None:
        """Keep a server for whoever finds its tools in a definition, and that it is in use."""
        doc, now = await self._store.doc(_KIND, name), self._clock.now_us() // 1_000_000
        if doc is not None and decode(doc.data, _Known).used_at > now - _TOUCH_S:
            return
        known = _Known(**{each: getattr(server, each) for each in McpServer.__struct_fields__})
        await self._store.put_doc(_KIND, name, encode(replace(known, used_at=now)))
        if doc is None:
            await self._sweep(name, now)

    async def _sweep(self, name: str, now: int) -> None:
        """Forget, of a few that come behind this one, those that nobody has used for long. Names
        are digests, so each is looked at some time.
        """
        docs = await self._store.docs(_KIND, after=name, limit=_SWEPT)
        if len(docs) < _SWEPT:  # on from the first
            docs += await self._store.docs(_KIND, limit=_SWEPT - len(docs))
        for doc in docs:
            known = decode(doc.data, _Known)
            if known.used_at > now - _KEPT_S:
                continue
            if not known.used_at:  # nobody wrote it down: its time begins now
                with contextlib.suppress(Conflict):
                    fresh = encode(replace(known, used_at=now))
                    await self._store.put_doc(_KIND, doc.name, fresh, expect=doc.version)
                continue
            if known.credential.startswith(_GIVEN):
                self._given.pop(known.credential, None)
                if self._vault is not None:
                    await self._vault.delete(known.credential)
            await self._store.delete_doc(_KIND, doc.name)

    async def _named(self, name: str) -> dict[str, Tool]:
        doc = await self._store.doc(_KIND, name)
        if doc is None:
            return {}
        server = decode(doc.data, McpServer)
        await self._note(name, server)
        return await self._of_server(name, server)

    async def _of_server(self, name: str, server: McpServer) -> dict[str, Tool]:
        return await self._connections.tools(name, lambda: self._opened(name, server))

    async def _opened(self, name: str, server: McpServer) -> tuple[McpToolset, dict[str, Tool]]:
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
        return toolset, tools

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
