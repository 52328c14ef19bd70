"""Server-sent events: frames, comments that keep a connection open, and readers that are too slow.

Format: the WHATWG HTML standard, section 9.2. A stream is pulled: the next frame is made when the
last one went into the connection, so a reader that does not read costs one connection's buffer and
no more. One that takes nothing for `stall_s` is cut off; its cursor is the last event that it got.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}
KEEPALIVE: Final = b": keep-alive\n\n"
DONE: Final = b"data: [DONE]\n\n"
STOPPING: Final = b": the server is stopping; connect again with the last id\nretry: 1000\n\n"
SCOPE: Final = "perdure.streams"  # where a request's scope holds the server's `Streams`
ABORT: Final = "perdure.abort"  # where it holds what ends the connection without sending more


def frame(data: Mapping[str, Any] | str, *, event: str = "", id: str = "") -> bytes:
    """Return one event. `data` is JSON, or a text of one line."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    lines = []
    if id:
        lines.append(f"id: {id}")
    if event:
        lines.append(f"event: {event}")
    lines.append(f"data: {text}")
    # A lone surrogate is escaped by json; in a plain text it cannot be sent as UTF-8.
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


class Streams:
    """The streams that a server has open. `stall_s`: how long a reader may take nothing."""

    def __init__(self, stall_s: float, cut_off: Callable[[], object] = lambda: None) -> None:
        self.stall_s = stall_s
        self.cut_off = cut_off
        self.stopping = False
        self._open: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def enter(self) -> "asyncio.Future[None]":
        """Take part; the future is done when the server wants its streams to end."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.add(over)
        if self.stopping:
            over.set_result(None)
        return over

    def leave(self, over: "asyncio.Future[None]") -> None:
        """The stream has ended."""
        self._open.discard(over)
        over.cancel()

    def stop(self) -> None:
        """Tell all streams, and those that are still to come, to end."""
        self.stopping = True
        for over in self._open:
            if not over.done():
                over.set_result(None)


class EventStream(Response):
    """Sends frames until they end, the client goes, it stops reading, or the server stops."""

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncIterator[bytes], every_s: float, headers: Mapping[str, str]
    ) -> None:
        super().__init__(None, headers=dict(headers))
        del self.headers["content-length"]
        self._frames = frames
        self._every_s = every_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        streams: Streams = scope[SCOPE] if SCOPE in scope else Streams(60.0)
        over = streams.enter()
        gone = asyncio.ensure_future(_gone(receive))
        try:
            begin = {"type": "http.response.start", "status": self.status_code}
            await send(begin | {"headers": self.raw_headers})
            async with aclosing(kept_alive(self._frames, self._every_s, gone, over)) as chunks:
                async for chunk in chunks:
                    await _sent(send, chunk, streams.stall_s)
            if over.done() and not over.cancelled():
                await _sent(send, STOPPING, streams.stall_s)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except _Stalled:
            streams.cut_off()
            abort = scope.get("extensions", {}).get(ABORT)
            if abort is not None:
                abort()
        except OSError:
            pass  # the client went away
        finally:
            streams.leave(over)
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone
            if isinstance(self._frames, AsyncGenerator):
                await self._frames.aclose()


class _Stalled(Exception):
    """The reader takes nothing any more."""


async def _sent(send: Send, chunk: bytes, stall_s: float) -> None:
    limit = asyncio.timeout(stall_s)
    try:
        async with limit:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except TimeoutError as error:
        if limit.expired():
            raise _Stalled from error
        raise


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def kept_alive(
    frames: AsyncIterator[bytes], every_s: float, *ends: "asyncio.Future[None]"
) -> AsyncGenerator[bytes, None]:
    """Yield the frames, and a comment whenever none has come for `every_s` seconds. Ends with the
    frames, or as soon as one of `ends` is done.
    """
    pending: asyncio.Task[bytes] | None = None
    try:
        while not any(end.done() for end in ends):
            if pending is None:
                pending = asyncio.ensure_future(_next(frames))
            first = asyncio.FIRST_COMPLETED
            awaited: set[asyncio.Future[Any]] = {pending, *ends}
            done, _ = await asyncio.wait(awaited, timeout=every_s, return_when=first)
            if not done:
                yield KEEPALIVE
            elif pending in done:
                ready, pending = pending, None
                try:
                    yield ready.result()
                except StopAsyncIteration:
                    return
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})


async def _next(frames: AsyncIterator[bytes]) -> bytes:
    return await anext(frames)


def stream(frames: AsyncIterator[bytes], every_s: float, **headers: str) -> Response:
    """Return a response that sends `frames`; they are closed when it ends, however it ends."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return EventStream(frames, every_s, _HEADERS | named)
