"""Moving bytes between two connections, with an end to all waiting."""

import asyncio
import contextlib
import re
import ssl
from typing import Final

from perdure.environments.egress.heads import HEAD_BYTES_MAX, Malformed

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Side = tuple[Reader, Writer]

_HEAD_S: Final = 30.0
_PIECE: Final = 1 << 16
_CLOSES_WITHIN_S: Final = 1.0
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]*)?\r\n\Z")


async def read_head(reader: Reader, idle_s: float) -> bytes:
    """Return a request's head, with its empty line. Raises `Malformed` for one that is too long."""
    try:
        async with asyncio.timeout(min(idle_s, _HEAD_S)):
            raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Malformed("the headers are too long") from None
    if len(raw) > HEAD_BYTES_MAX:
        raise Malformed("the headers are too long")
    return raw


async def relay(one: Side, other: Side, idle_s: float) -> None:
    """Pass bytes both ways until both sides are done, or nothing has moved for `idle_s`."""
    loop = asyncio.get_running_loop()

    async def pump(reader: Reader, writer: Writer) -> None:
        while data := await reader.read(_PIECE):
            patience.reschedule(loop.time() + idle_s)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async with asyncio.timeout(idle_s) as patience:
        tasks = [asyncio.create_task(pump(one[0], other[1]))]
        tasks.append(asyncio.create_task(pump(other[0], one[1])))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def send_body(reader: Reader, writer: Writer, length: int, idle_s: float) -> None:
    """Pass on a request's body and not a byte more; `length` -1 when it comes in chunks."""
    if length >= 0:
        await _pass(reader, writer, length, idle_s)
        return
    while True:
        async with asyncio.timeout(idle_s):
            line = await reader.readuntil(b"\r\n")
        found = _CHUNK.match(line)
        if found is None:
            raise Malformed("the body's chunks cannot be read")
        size = int(found[1], 16)
        writer.write(f"{size:x}\r\n".encode())
        if size == 0:
            break
        await _pass(reader, writer, size, idle_s)
        if await reader.readexactly(2) != b"\r\n":
            raise Malformed("the body's chunks cannot be read")
        writer.write(b"\r\n")
    writer.write(b"\r\n")  # trailers are not passed on
    await writer.drain()


async def linger(reader: Reader, writer: Writer) -> None:
    """Let the other side read what was said last, though it may still be sending."""
    if not writer.can_write_eof():
        return
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSES_WITHIN_S):
            while await reader.read(_PIECE):
                pass


async def shut(writer: Writer) -> None:
    """Close a connection and wait until it is; not for long."""
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
        async with asyncio.timeout(_CLOSES_WITHIN_S):
            await writer.wait_closed()
    writer.transport.abort()


async def _pass(reader: Reader, writer: Writer, count: int, idle_s: float) -> None:
    while count:
        async with asyncio.timeout(idle_s):
            data = await reader.read(min(count, _PIECE))
            if not data:
                raise asyncio.IncompleteReadError(b"", count)
            count -= len(data)
            writer.write(data)
            await writer.drain()
