"""The socket: uvicorn with our limits, and how a server ends.

The first signal: nothing new is accepted, what runs may end within `drain_s`, then streams are
told and everything is let go. The second one: at once.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from perdure.core.errors import Unavailable
from perdure.doors.settings import ServerSettings
from perdure.doors.sse import ABORT
from perdure.serving.server import Server

_LAST_PORT: Final = 65535
_HEADERS_S: Final = 20.0  # a client has this long for its first headers
_LAST_WORDS_S: Final = 2  # answers that are told to end have this long to be sent


class Connection(H11Protocol):
    """A connection that its streams can break off, and that is not held open by saying nothing."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        inner: Any = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[ABORT] = transport.abort
            await inner(scope, receive, send)

        self.app = cast(Any, app)
        self._patience = self.loop.call_later(_HEADERS_S, self._give_up)

    def handle_events(self) -> None:
        """See `H11Protocol`."""
        super().handle_events()
        begun: object = self.cycle  # there is one once the first headers were complete
        if begun is not None and self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `Unavailable` (E-PORT) when that is not possible."""
    try:
        if not 0 <= port <= _LAST_PORT:  # the resolver would take the rest of a division
            raise OSError(f"a port is a number up to {_LAST_PORT}")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:  # the latter: no host can be called so
        # A resolver's numbers are below zero, and Python's words would say the address twice.
        number = (isinstance(error, OSError) and error.errno) or 0
        why = os.strerror(number) if number > 0 else getattr(error, "strerror", "") or str(error)
        named = isinstance(error, socket.gaierror | UnicodeError)
        elsewhere = named or number == errno.EADDRNOTAVAIL
        other_port = f"perdure up --port {port + 1 if 0 < port < 65535 else 8700}"
        raise Unavailable(
            "E-PORT",
            f"Cannot listen on {host}:{port}: {why}.",
            "An address of this machine: perdure up --host 127.0.0.1" if elsewhere else other_port,
        ) from error


class Web(uvicorn.Server):
    """Serves one `Server` on one socket until it is told to end."""

    def __init__(self, server: Server, settings: ServerSettings) -> None:
        self._serving = server
        self._drain_s = settings.drain_s
        self._ending: asyncio.Task[None] | None = None
        self._begun: Callable[[], object] = lambda: None
        super().__init__(
            uvicorn.Config(
                server.app,
                http=Connection,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=False,
                # The doors refuse what is over the limits in words; this is beyond them.
                limit_concurrency=settings.max_connections * 2 or None,
                h11_max_incomplete_event_size=settings.max_header_bytes * 2 or 1 << 20,
                timeout_graceful_shutdown=_LAST_WORDS_S,
                timeout_keep_alive=30,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        self._begun()

    async def run_on(self, listener: socket.socket, begun: Callable[[], object]) -> None:
        """Serve until a signal has ended it; SIGTERM and SIGINT are ours meanwhile. `begun` is
        called as soon as it serves.
        """
        self._begun = begun
        self._serving.told_to_end = self.end_once
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        try:
            await self._serve([listener])
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            if self._ending is not None:
                self._ending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._ending

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are handled in `run_on`."""
        yield

    def end(self) -> None:
        """End in order; when called again, at once."""
        if self._ending is not None:
            self._serving.stop_streams()
            self.should_exit = self.force_exit = True
            return
        for server in getattr(self, "servers", ()):  # there are none before it has begun
            server.close()
        self._ending = asyncio.ensure_future(self._end())

    def end_once(self) -> None:
        """End in order, unless it is ending already."""
        if self._ending is None:
            self.end()

    async def _end(self) -> None:
        await self._serving.drain(self._drain_s)
        self._serving.stop_streams()
        self.should_exit = True
