"""How an MCP server is reached: a process of ours that speaks over its pipes, or a URL."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from perdure.core.errors import PerdureError
from perdure.core.secrets import Secret

GUARD: Final = str(Path(__file__).with_name("_guard.py").resolve())
STDERR_KEPT: Final = 2000
CONNECT_S: Final = 30.0
_UNFIT: Final = re.compile(r"\A\s|\s\Z|[^\t\x20-\x7e\x80-\xff]")

Value = str | Secret
Token = Callable[[], Awaitable[Secret]]
"""Gives the bearer token for the next request. Raises `PerdureError` when there is none."""
Carrier = Callable[[], Any]
"""Makes the transport of an HTTP client: one that is particular about where it connects to."""


class Transport(Protocol):
    """A way to a server."""

    def connect(self) -> AbstractAsyncContextManager[Any]:
        """Open the way; gives the client's pair of streams."""
        ...

    def never_sent(self, error: BaseException) -> bool:
        """Say whether `error` proves that nothing reached the server."""
        ...

    def said(self) -> str:
        """Return the last of what the server printed beside its messages."""
        ...


class Stdio:
    """A server started by us. It and all it starts die with the connection, or with us."""

    def __init__(self, command: str, args: Sequence[str], env: Mapping[str, Value]) -> None:
        self._command = [command, *args]
        self._env = env
        self._kept = b""

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        """Start the server below our guard, with a clean environment and its own process group."""
        from mcp import StdioServerParameters, stdio_client

        # Isolated and without site packages: the guard starts in milliseconds and runs our file.
        guarded = ["-I", "-S", GUARD, str(os.getpid()), *self._command]
        parameters = StdioServerParameters(
            command=sys.executable,
            args=guarded,
            env={name: _plain(value) for name, value in self._env.items()},
        )
        with self._listening() as errors:
            async with stdio_client(parameters, errlog=errors) as streams:
                yield streams

    def never_sent(self, error: BaseException) -> bool:
        """A pipe takes what is written even when nobody reads it."""
        return False

    def said(self) -> str:
        return self._kept.decode("utf-8", "replace").strip()

    @contextlib.contextmanager
    def _listening(self) -> Any:
        """Keep the tail of the server's standard error, for when it has to be explained."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(reading, self._read, reading)
        self._kept = b""
        try:
            with os.fdopen(writing, "w") as errors:
                yield errors
        finally:
            loop.remove_reader(reading)
            self._read(reading)
            os.close(reading)

    def _read(self, descriptor: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._kept = (self._kept + os.read(descriptor, 65536))[-STDERR_KEPT:]


class Http:
    """A server at a URL, by streamable HTTP."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, Value],
        token: Token | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self._url = url
        self._headers = headers
        self._token = token
        self._carrier = carrier

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        """Open the client. It waits for an answer as long as the caller does."""
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        async with (
            httpx2.AsyncClient(
                headers={name: _fit(name, value) for name, value in self._headers.items()},
                timeout=httpx2.Timeout(CONNECT_S, read=None),
                event_hooks={
                    "request": [self._authorise],
                    "response": [_refuse_what_is_no_answer],
                },
                transport=self._carrier() if self._carrier else None,
                trust_env=self._carrier is None,
            ) as http,
            streamable_http_client(self._url, http_client=http) as streams,
        ):
            yield streams

    def never_sent(self, error: BaseException) -> bool:
        """Only an error from before the first byte proves it, or a refusal to look at any."""
        import httpx2

        before = httpx2.ConnectError | httpx2.ConnectTimeout | SessionGoneError | NoTokenError
        return isinstance(error, before)

    def said(self) -> str:
        return ""

    async def _authorise(self, request: Any) -> None:
        """Put the token of this moment into a request."""
        if self._token is None:
            return
        try:
            token = await self._token()
        except PerdureError as error:
            raise NoTokenError(error.message) from None
        request.headers["authorization"] = f"Bearer {_fit('authorization', token)}"


class NoTokenError(Exception):
    """There is nothing to authorise us with: nothing was sent."""


class SessionGoneError(Exception):
    """The server does not know our session any more: it did not look at what was sent."""


async def _refuse_what_is_no_answer(response: Any) -> None:
    """End the connection where the client would take a status for an ordinary answer.

    A 404 to a request with a session id says that the session is over. A 5xx that is not the
    server's own word is a gateway that gave up waiting: the call would pass for failed.
    """
    request = response.request
    if response.status_code == 404 and "mcp-session-id" in request.headers:
        raise SessionGoneError("the server has ended the session")
    own_word = response.headers.get("content-type", "").startswith("application/json")
    if response.status_code >= 500 and not own_word:
        raise ConnectionError(f"HTTP status {response.status_code}")


def _fit(name: str, value: Value) -> str:
    """Return a header's value. Raises `NoTokenError` for what is none: whoever would send it would
    repeat it in his error, and it may be a secret.
    """
    plain = _plain(value)
    if _UNFIT.search(plain):
        raise NoTokenError(f"what is to be sent as {name} holds characters that no header may hold")
    return plain


def _plain(value: Value) -> str:
    return value.reveal() if isinstance(value, Secret) else value
