"""The head of an HTTP/1.1 request, read strictly: what two readers may read differently is refused.

Pure.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

HEAD_BYTES_MAX: Final = 64 * 1024
_LINE: Final = re.compile(rb"([A-Z]{1,16}) ([\x21-\x7e]+) HTTP/1\.[01]\Z")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}\Z")
_OF_ONE_HOP: Final = frozenset(
    b"connection proxy-connection proxy-authorization keep-alive te upgrade host".split()
)
_KEPT: Final = frozenset((b"content-length", b"transfer-encoding"))

Header = tuple[bytes, bytes]


class Malformed(Exception):
    """A request that is not passed on, because it cannot be read in one way only."""


class Head(msgspec.Struct, frozen=True):
    """A request's first line and headers, in the order in which they came."""

    method: str
    target: str
    headers: tuple[Header, ...]

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of a header; `name` in lower case."""
        return [value for each, value in self.headers if each.lower() == name]

    def body_bytes(self) -> int:
        """Return how long the body is; -1 when it comes in chunks. Raises `Malformed`."""
        lengths, codings = self.all(b"content-length"), self.all(b"transfer-encoding")
        if codings:
            if lengths or [each.lower() for each in codings] != [b"chunked"]:
                raise Malformed("the length of the body is not clear")
            return -1
        if not lengths:
            return 0
        if len(lengths) > 1 or not _DIGITS.match(lengths[0]):
            raise Malformed("the length of the body is not clear")
        return int(lengths[0])


def parse_head(raw: bytes) -> Head:
    """Return the head of a request; `raw` ends with its empty line. Raises `Malformed`."""
    lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    first = _LINE.match(lines[0])
    if first is None:
        raise Malformed("the first line is no request")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.match(name) or not _VALUE.match(value):
            raise Malformed("a header cannot be read")
        headers.append((name, value.strip(b" \t")))
    return Head(first[1].decode(), first[2].decode(), tuple(headers))


def passed_on(head: Head, target: str, host: str, change: Callable[[Header], Header]) -> bytes:
    """Return the head as the other side gets it: one request, then the connection ends.

    `host` is what was checked, whatever the client's own Host header said.
    """
    connection = b",".join(head.all(b"connection"))
    named = {each.strip().lower() for each in connection.split(b",")}
    dropped = (named - _KEPT) | _OF_ONE_HOP
    kept: Iterable[Header] = (h for h in head.headers if h[0].lower() not in dropped)
    lines = [f"{head.method} {target} HTTP/1.1".encode(), b"Host: " + host.encode()]
    lines += [b": ".join(change(header)) for header in kept]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])
