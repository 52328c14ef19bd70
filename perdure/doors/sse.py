"""Server-sent events: frames, comments that keep a connection open, and readers that are too slow.

Format: the WHATWG HTML standard, section 9.2.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import StreamingResponse

_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}
KEEPALIVE: Final = b": keep-alive\n\n"
DONE: Final = b"data: [DONE]\n\n"


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


async def kept_alive(frames: AsyncIterator[bytes], every_s: float) -> AsyncGenerator[bytes, None]:
    """Yield the frames, and a comment whenever none has come for `every_s` seconds."""
    pending: asyncio.Task[bytes] | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(_next(frames))
            done, _ = await asyncio.wait({pending}, timeout=every_s)
            if not done:
                yield KEEPALIVE
                continue
            pending = None
            try:
                yield done.pop().result()
            except StopAsyncIteration:
                return
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
        if isinstance(frames, AsyncGenerator):
            await frames.aclose()


async def _next(frames: AsyncIterator[bytes]) -> bytes:
    return await anext(frames)


def stream(frames: AsyncIterator[bytes], every_s: float, **headers: str) -> StreamingResponse:
    """Return a response that sends `frames`."""

    async def body() -> AsyncGenerator[bytes, None]:
        async with aclosing(kept_alive(frames, every_s)) as alive:
            async for each in alive:
                yield each

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return StreamingResponse(body(), media_type="text/event-stream", headers=_HEADERS | named)
