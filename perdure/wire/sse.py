"""Server-sent events, both ways: bytes in any pieces to events, and events to bytes.

It must not know what the data means. Every buffer has a bound.
"""

import re
from typing import Final

import msgspec

LINE_BYTES: Final = 16 * 1024 * 1024
STREAM_BYTES: Final = 256 * 1024 * 1024
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class Sse(msgspec.Struct, frozen=True):
    """One event: its name (empty where the server gave none) and its data."""

    event: str
    data: bytes


class TooLong(Exception):
    """A line or a stream passed its bound."""


class SseReader:
    """Takes a stream in pieces and returns its events. Cuts may fall anywhere, even in CR LF."""

    def __init__(self, line_bytes: int = LINE_BYTES, stream_bytes: int = STREAM_BYTES) -> None:
        self._line_bytes = line_bytes
        self._room = stream_bytes
        self._line = bytearray()
        self._held = b""
        self._event = ""
        self._data: list[bytes] = []
        self._first = True

    def feed(self, chunk: bytes) -> list[Sse]:
        """Return the events that `chunk` completes. Raises `TooLong`."""
        self._room -= len(chunk)
        if self._room < 0:
            raise TooLong("The stream is longer than its bound.")
        chunk = self._held + chunk
        self._held = b""
        if chunk.endswith(b"\r"):
            # It may be the first half of CR LF, which is one line end and not two.
            chunk, self._held = chunk[:-1], b"\r"
        *whole, rest = _LINE_END.split(chunk)
        found: list[Sse] = []
        for part in whole:
            self._extend(part)
            line = bytes(self._line)
            self._line.clear()
            self._take(line, found)
        self._extend(rest)
        return found

    def end(self) -> list[Sse]:
        """Return what the last, unfinished event held: some servers forget the blank line."""
        found: list[Sse] = []
        if self._line:
            self._take(bytes(self._line), found)
        self._line.clear()
        self._take(b"", found)
        return found

    def _extend(self, part: bytes) -> None:
        if len(self._line) + len(part) > self._line_bytes:
            raise TooLong(f"A line of the stream is longer than {self._line_bytes} bytes.")
        self._line += part

    def _take(self, line: bytes, found: list[Sse]) -> None:
        if self._first:
            line, self._first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            if self._data:
                found.append(Sse(self._event, b"\n".join(self._data)))
            self._event, self._data = "", []
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")


def encode(data: bytes, event: str = "") -> bytes:
    """Return one event as it goes over the wire. `data` is JSON, so it has no line breaks."""
    head = f"event: {event}\n".encode() if event else b""
    return head + b"data: " + data + b"\n\n"
