"""A connection to an MCP server, and what an error on it means for the call that was under way.

The question that matters after every failure is here: can the call have happened?
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from perdure.core.errors import Unavailable, error_info
from perdure.ports.tool import OutcomeUnknown, ToolContext, ToolFailed, ToolOutput
from perdure.tools.mcp.mapping import output_of
from perdure.tools.mcp.transports import Transport

if TYPE_CHECKING:
    from mcp import Client

KEY_FIELD: Final = "perdure/idempotencyKey"
PAGES_MAX: Final = 100
CLOSE_S: Final = 10.0


class NotSentError(Exception):
    """The call certainly never reached the server."""


class Connection:
    """One connection, held open by a task of its own: the client's task groups must be entered
    and left by the same task, and calls come from many.
    """

    def __init__(self, server: str, transport: Transport) -> None:
        self.definitions: dict[str, Any] = {}
        self.stale = False
        self._server = server
        self._transport = transport
        self._closing = asyncio.Event()
        self._lost = asyncio.Event()
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._in_flight = 0

    @property
    def lost(self) -> bool:
        return self._lost.is_set() or self._task is None or self._task.done()

    async def open(self, timeout_s: float) -> None:
        """Connect and list. Raises `Unavailable` (E-MCP-UNREACHABLE)."""
        ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready), name=f"mcp {self._server}")
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.wait(
                {self._task, ready}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if not ready.done():
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=CLOSE_S)
        if not ready.done():
            raise self._unreachable(f"no answer within {timeout_s:g} s")

    async def close(self) -> None:
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_S)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_S)

    async def relist(self, timeout_s: float) -> None:
        """Ask again what is offered."""
        assert self._client is not None
        self.stale = False
        try:
            async with asyncio.timeout(timeout_s):
                self.definitions = await _list(self._client)
        except Exception as error:
            raise self._unreachable(str(error)) from error

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Forget the tools that are not wanted."""
        self.definitions = {name: d for name, d in self.definitions.items() if wanted(name)}

    async def call(
        self, tool: str, arguments: Mapping[str, Any], context: ToolContext
    ) -> ToolOutput:
        from mcp import MCPError
        from pydantic import ValidationError

        self._in_flight += 1
        try:
            return output_of(await self._send(tool, arguments, context), tool)
        except MCPError as error:
            raise await self._meaning(error, tool) from error
        except ValidationError as error:
            raise OutcomeUnknown(
                f"{self._server} answered {tool} with something that is no tool result: "
                f"{error.errors()[0].get('msg', '')}"
            ) from error
        finally:
            self._in_flight -= 1

    async def _send(
        self, tool: str, arguments: Mapping[str, Any], context: ToolContext
    ) -> dict[str, Any]:
        import mcp_types as types
        from pydantic import TypeAdapter

        async def show(progress: float, total: float | None, message: str | None) -> None:
            of = f" of {total:g}" if total is not None else ""
            context.progress(f"{progress:g}{of} {message or ''}".rstrip() + "\n")

        plain: Any = TypeAdapter(dict[str, Any])
        meta: Any = {KEY_FIELD: context.idempotency_key}
        assert self._client is not None
        # The plain request, not the client's call_tool: that may raise after a success, when the
        # server's structured content does not fit its own schema.
        result: dict[str, Any] = await self._client.session.send_request(
            types.CallToolRequest(
                params=types.CallToolRequestParams(name=tool, arguments=dict(arguments), _meta=meta)
            ),
            plain,
            progress_callback=show,
        )
        if result.get("resultType") == "input_required":
            raise ToolFailed(
                error_info(
                    "E-MCP-INPUT", "tool", f"{tool} asked for more input than its arguments."
                )
            )
        return result

    async def _meaning(self, error: Exception, tool: str) -> Exception:
        """Say what an error means for a call that was under way."""
        import mcp_types as types

        code, message = getattr(error, "code", 0), str(error)
        if code not in {types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT, types.PARSE_ERROR}:
            info = error_info("E-TOOL-FAILED", "tool", message[:2000], subject=tool)
            return ToolFailed(info)
        cause = await self._cause()
        if cause and self._in_flight == 1 and all(self._transport.never_sent(c) for c in cause):
            return NotSentError(f"{self._server} cannot be reached: {cause[0]}")
        why = "; ".join(str(each) or type(each).__name__ for each in cause) or message
        return OutcomeUnknown(
            f"The connection to {self._server} broke while {tool} was running ({why}). "
            "Whether it happened is not known."
        )

    async def _cause(self) -> list[BaseException]:
        """Return what ended the connection, if its own task ended by an error just now."""
        if self._task is None:
            return []
        await asyncio.wait({self._task}, timeout=1.0)
        if not self._task.done() or self._task.cancelled():
            return []
        error = self._task.exception()
        return _leaves(error) if error is not None else []

    async def _live(self, ready: "asyncio.Future[None]") -> None:
        from mcp import Client

        try:
            transport = self._watched(self._transport.connect())
            async with Client(transport, cache=None, message_handler=self._heard) as client:
                self.definitions = await _list(client)
                self._client = client
                ready.set_result(None)
                await _first(self._closing, self._lost)
        finally:
            self._lost.set()

    @contextlib.asynccontextmanager
    async def _watched(self, transport: Any) -> AsyncIterator[Any]:
        """Notice the end of what the server sends, which the client keeps to itself."""
        async with transport as (reading, writing):
            yield _Watched(reading, self._lost), writing

    async def _heard(self, message: Any) -> None:
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            self.stale = True

    def _unreachable(self, problem: str) -> Unavailable:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            problem = "; ".join(str(e) or type(e).__name__ for e in _leaves(error)) or problem
        said = self._transport.said()
        return Unavailable(
            "E-MCP-UNREACHABLE",
            f"MCP server {self._server!r} cannot be used: {problem}"
            + (f"\nIt printed: {said}" if said else ""),
        )


class _Watched:
    """A stream of messages that sets an event when it ends."""

    def __init__(self, inner: Any, ended: asyncio.Event) -> None:
        self._inner = inner
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._inner.__anext__()
        except StopAsyncIteration:
            self._ended.set()
            raise

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> Any:
        return await self._inner.__aexit__(*raised)


async def _list(client: "Client") -> dict[str, Any]:
    """Return every definition a server offers, by name, exactly as it was written."""
    import mcp_types as types
    from pydantic import TypeAdapter

    plain: Any = TypeAdapter(dict[str, Any])
    found: dict[str, Any] = {}
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        page: dict[str, Any] = await client.session.send_request(
            types.ListToolsRequest(params=types.PaginatedRequestParams(cursor=cursor)), plain
        )
        found |= {tool["name"]: tool for tool in page["tools"]}
        cursor = page.get("nextCursor")
        if not cursor:
            break
    if "x-mcp-header" in json.dumps(found):  # the client must have seen these itself to send them
        await client.list_tools()
    return found


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


def _leaves(error: BaseException | None) -> list[BaseException]:
    """Return the plain errors in an error that may be a group of groups."""
    if error is None:
        return []
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
