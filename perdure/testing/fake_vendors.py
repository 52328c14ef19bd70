"""A loopback HTTP server that plays a model provider's traffic, byte by byte as a test wrote it.

Nothing but asyncio, so that a stream can be cut in the middle of a chunk. It listens on this
machine only, answers a bounded number of requests, and ends with its block. It must not know the
adapters that are tested against it.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

REQUESTS: Final = 100
BODY_BYTES: Final = 64 * 1024 * 1024
LIFE_S: Final = 60.0

Frame = bytes | asyncio.Event


class Answer(msgspec.Struct, frozen=True):
    """What is sent back: a status, headers, and frames. An `Event` frame is waited for.

    `end` is `done`, or `cut` (the connection breaks inside the body), or `silent` (nothing more
    is sent, not even a status where there are no frames, until the client goes away).
    """

    frames: tuple[Frame, ...] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/event-stream"),)
    end: str = "done"


class Seen(msgspec.Struct, frozen=True):
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer(
    status: int,
    body: Mapping[str, Any] | bytes,
    headers: Sequence[tuple[str, str]] = (),
    media_type: str = "application/json",
) -> Answer:
    """Return an answer that is one document, such as an error."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer((data,), status, (("content-type", media_type), *headers))


class FakeVendor:
    """Plays the given answers one after the other; records what was asked.

    `gone` is set when a client closed its connection before its answer was complete.
    """

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[Seen] = []
        self.connections = 0
        self.gone = asyncio.Event()

    @property
    def url(self) -> str:
        """The address, without a path."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def then(self, *answers: Answer) -> None:
        """Add answers to those that are still to be played."""
        self._answers += answers

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=BODY_BYTES)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            async with asyncio.timeout(LIFE_S):
                while await self._exchange(reader, writer):
                    pass
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            self.gone.set()
        except asyncio.CancelledError:
            pass  # by __aexit__; asyncio would log it as an error of the server
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; say whether the connection may serve another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        lines = (line.split(":", 1) for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, value in lines}
        body = await reader.readexactly(int(headers.get("content-length") or 0))
        self.requests.append(Seen(method, path, headers, body))
        nothing_left = answer(500, {"error": {"message": "the fake vendor has no answer left"}})
        bounded = self._answers and len(self.requests) <= REQUESTS
        return await self._play(self._answers.pop(0) if bounded else nothing_left, reader, writer)

    async def _play(
        self, due: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if due.end != "silent" or due.frames:
            head = [f"HTTP/1.1 {due.status} Status", "transfer-encoding: chunked"]
            head += [f"{name}: {value}" for name, value in due.headers]
            writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        for frame in due.frames:
            if isinstance(frame, bytes):
                writer.write(b"%x\r\n%s\r\n" % (len(frame), frame))
                await writer.drain()
            else:
                await _until(frame, reader)
        if due.end == "silent":
            await _until(asyncio.Event(), reader)
        if due.end == "cut":
            writer.write(b"1000\r\n")  # a chunk is announced that never comes
            await writer.drain()
            writer.close()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def _until(event: asyncio.Event, reader: asyncio.StreamReader) -> None:
    """Wait for the event, or find that the client has gone away."""
    waiting = asyncio.ensure_future(event.wait())
    # A client that waits for its answer sends nothing; what can be read is the end.
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ConnectionError
    finally:
        waiting.cancel()
        gone.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)
