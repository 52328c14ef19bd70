"""Reading JSON that a stranger wrote: the value where it has the type hoped for, else nothing.

It must not know any dialect. Local servers leave fields out, send null for text and objects for
strings; none of that is worth failing a session for.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from perdure.core.codec import encode

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def text(value: Mapping[str, Any], key: str) -> str:
    """Return the string at `key`, or an empty one."""
    found = value.get(key)
    return found if isinstance(found, str) else ""


def number(value: Mapping[str, Any], key: str) -> int:
    """Return the count at `key`, or 0: never negative."""
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return 0
    return int(found) if 0 <= found < 2**53 else 0


def child(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object at `key`, or an empty one."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def children(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in the list at `key`; what is not an object is left out."""
    found = value.get(key)
    return [x for x in found if isinstance(x, dict)] if isinstance(found, list) else []


def merge(into: dict[str, Any], piece: Mapping[str, Any], skip: frozenset[str]) -> None:
    """Add a piece of a streamed object: strings and lists grow, objects merge, the rest replaces.

    It is how every dialect streams, so a field that was invented later survives too.
    """
    for key, value in piece.items():
        if key in skip or value is None:
            continue
        old = into.get(key)
        if isinstance(value, str) and isinstance(old, str):
            into[key] = old + value
        elif isinstance(value, list) and isinstance(old, list):
            into[key] = [*old, *value]
        elif isinstance(value, dict) and isinstance(old, dict):
            into[key] = dict(old)
            merge(into[key], value, frozenset())
        else:
            into[key] = value


def arguments(value: object) -> str:
    """Return the arguments of a call as JSON text: some servers send the object itself."""
    if isinstance(value, str):
        return value
    return "" if value is None else encode(value).decode()


def raw(value: object) -> msgspec.Raw:
    """Freeze a JSON value, to be journaled and sent back byte for byte.

    A lone surrogate that the provider wrote itself is not repeated to it: it would be refused.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except UnicodeEncodeError:
        return msgspec.Raw(msgspec.json.encode(clean_all(value)))


def joined(pieces: Iterable[str]) -> str:
    """Join streamed pieces; a surrogate pair that was cut in two becomes its letter again."""
    whole = "".join(pieces)
    if not _SURROGATE.search(whole):
        return whole
    return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def clean(value: str) -> str:
    """Replace lone surrogates by U+FFFD: UTF-8 cannot carry them, and vendors refuse them."""
    return _SURROGATE.sub("\ufffd", value)


def clean_all(value: Any) -> Any:
    """Clean every string of a JSON value."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [clean_all(v) for v in value]
    if isinstance(value, dict):
        return {clean(key): clean_all(v) for key, v in value.items()}
    return value
