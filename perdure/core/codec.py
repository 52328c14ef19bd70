"""How values become bytes and back: JSON that loses nothing, canonical JSON, digests.

Two rules live here. A string that holds a lone surrogate (a tool printed bytes that are not
UTF-8) must survive a round trip, which UTF-8 alone cannot carry; and a digest must not depend
on the order in which keys were written.
"""

import hashlib
import json
import re
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from perdure.core.errors import InvalidRequest

T = TypeVar("T")

_ENCODER: Final = msgspec.json.Encoder()
_SORTED: Final = msgspec.json.Encoder(order="sorted")

# A lone surrogate is carried through msgspec as U+E000 and its four digits, and so is U+E000.
_LONE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    rb"|\\u([dD][89a-fA-F][0-9a-fA-F]{2}|[eE]000)|\\[^u]|(\xee\x80\x80)"
)
_LITERAL: Final = b"zzzz"  # stands for a U+E000 that was no escape, so that raw JSON stays as is
_MARKED: Final = re.compile("\ue000([0-9a-fA-F]{4}|zzzz)")
_MARKED_RAW: Final = re.compile(rb"\\ue000([0-9a-fA-F]{4}|zzzz)|\\.")


def encode(value: object) -> bytes:
    """Return `value` as UTF-8 JSON bytes. Lone surrogates become \\udXXX escapes."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return _written(msgspec.to_builtins(value, builtin_types=(msgspec.Raw,)))


class Reader(Generic[T]):
    """A decoder for one type, built once: for types that are read often."""

    def __init__(self, type: Any) -> None:
        self._type = type
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(type)

    def read(self, data: bytes | msgspec.Raw) -> T:
        """Return `data` as the type. Raises `msgspec.DecodeError` where it does not fit."""
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            return cast(T, _decode_slowly(bytes(data), self._type))


def decode(data: bytes | msgspec.Raw, type: type[T]) -> T:
    """Return `data` as a `type`. Raises `msgspec.DecodeError` where it does not fit."""
    return Reader[T](type).read(data)


def canonical(value: object) -> bytes:
    """Return the one JSON form of `value`: keys sorted, no white space. For digests."""
    try:
        return _SORTED.encode(value)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value)
        return json.dumps(plain, separators=(",", ":"), sort_keys=True).encode("ascii")


def digest(value: object) -> str:
    """Return the SHA-256 of the canonical form of `value`, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def arguments_of(text: str) -> dict[str, Any]:
    """Read the arguments of a tool call as the model wrote them.

    Raises `InvalidRequest` (E-TOOL-ARGUMENTS) when the text is not a JSON object.
    """
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("E-TOOL-ARGUMENTS", f"The arguments are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("E-TOOL-ARGUMENTS", "The arguments must be a JSON object.")
    return value


def _written(plain: Any) -> bytes:
    """Write what msgspec cannot: text with lone surrogates beside raw JSON, which stays as is."""
    match plain:
        case dict():
            pairs = (_written(key) + b":" + _written(item) for key, item in plain.items())
            return b"{" + b",".join(pairs) + b"}"
        case list() | tuple():
            return b"[" + b",".join(_written(item) for item in plain) + b"]"
        case msgspec.Raw():
            return bytes(plain)
        case _:
            return json.dumps(plain).encode("ascii")


def _decode_slowly(data: bytes, type: Any) -> Any:
    """Take the road that admits lone surrogates; msgspec refuses them while parsing."""
    marked = _LONE.sub(_mark, data)
    try:
        typed = msgspec.json.decode(marked, type=type)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return msgspec.convert(
        _unmarked(msgspec.to_builtins(typed, builtin_types=(msgspec.Raw,))), type=type
    )


def _mark(found: re.Match[bytes]) -> bytes:
    if found[2]:
        return b"\\ue000" + _LITERAL
    return b"\\ue000" + found[1] if found[1] else found[0]


def _unmarked(plain: Any) -> Any:
    match plain:
        case str():
            return _MARKED.sub(_unmark, plain)
        case dict():
            return {_unmarked(key): _unmarked(item) for key, item in plain.items()}
        case list() | tuple():
            return [_unmarked(item) for item in plain]
        case msgspec.Raw():
            return msgspec.Raw(_MARKED_RAW.sub(_unmark_raw, bytes(plain)))
        case _:
            return plain


def _unmark(found: re.Match[str]) -> str:
    return "\ue000" if found[1] == _LITERAL.decode() else chr(int(found[1], 16))


def _unmark_raw(found: re.Match[bytes]) -> bytes:
    if found[1] == _LITERAL:
        return "\ue000".encode()
    return b"\\u" + found[1] if found[1] else found[0]
