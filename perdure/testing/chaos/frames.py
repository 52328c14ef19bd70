"""PostgreSQL's protocol, as far as somebody in the middle must read it: where a message ends, which
statement it carries, and when the server has answered.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_LENGTH: Final = struct.Struct("!I")
_CODE: Final = struct.Struct("!II")
_WANTS_ENCRYPTION: Final = frozenset([80877103, 80877104])  # SSLRequest, GSSENCRequest
READY: Final = b"Z"
_ENDS_A_REQUEST: Final = frozenset([b"Q", b"S"])  # the server answers each with READY


class Frame(NamedTuple):
    """One message whole. `statement` is the SQL it runs, "" where it runs none; `kind` is empty in
    the messages a connection begins with.
    """

    raw: bytes
    kind: bytes = b""
    statement: str = ""

    @property
    def wants_encryption(self) -> bool:
        """Whether the client asks for TLS or GSSAPI, to which the answer is one byte."""
        return not self.kind and _CODE.unpack_from(self.raw)[1] in _WANTS_ENCRYPTION

    @property
    def ends_a_request(self) -> bool:
        """Whether the server will say READY once it has done all up to here."""
        if not self.kind:
            return not self.wants_encryption  # logged in, it says READY for the first time
        return self.kind in _ENDS_A_REQUEST


class Frames:
    """Cuts a stream into messages. `starting` is how a client's side begins: without kinds."""

    def __init__(self, *, starting: bool) -> None:
        self.options: dict[str, str] = {}
        self._starting = starting
        self._rest = b""
        self._prepared: dict[bytes, str] = {}

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the messages that are whole now; keep the rest."""
        self._rest += data
        while True:
            before = 0 if self._starting else 1
            if len(self._rest) < before + 4:
                return
            size = before + _LENGTH.unpack_from(self._rest, before)[0]
            if len(self._rest) < size:
                return
            raw, self._rest = self._rest[:size], self._rest[size:]
            yield self._started(raw) if self._starting else self._frame(raw)

    def _started(self, raw: bytes) -> Frame:
        frame = Frame(raw)
        if not frame.wants_encryption:
            self._starting = False
            words = raw[8:].split(b"\0")
            pairs = zip(words[::2], words[1::2], strict=False)
            self.options = {key.decode(): value.decode() for key, value in pairs if key}
        return frame

    def _frame(self, raw: bytes) -> Frame:
        kind, body = raw[:1], raw[5:]
        match kind:
            case b"Q":
                return Frame(raw, kind, _text(body))
            case b"P":  # the statement is run by what is bound to its name
                name, _, rest = body.partition(b"\0")
                self._prepared[name] = _text(rest)
                return Frame(raw, kind)
            case b"B":
                _, _, rest = body.partition(b"\0")
                return Frame(raw, kind, self._prepared.get(rest.partition(b"\0")[0], ""))
            case _:
                return Frame(raw, kind)


def _text(body: bytes) -> str:
    return body.partition(b"\0")[0].decode(errors="replace")
