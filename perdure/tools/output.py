"""Any Python value as the text that a model reads. Never fails: the effect has happened already."""

from typing import Any, Final

import msgspec

from perdure.core.codec import encode
from perdure.ports.tool import ToolOutput

NO_OUTPUT: Final = "(no output)"
TEXT_MAX: Final = 64 * 1024


def as_output(value: object, limit: int = TEXT_MAX) -> ToolOutput:
    """Return a function's result as a tool's output; a `ToolOutput` is passed through."""
    if isinstance(value, ToolOutput):
        return value
    text, full = cut(text_of(value), limit)
    return ToolOutput(text, full=full)


def text_of(value: object) -> str:
    """Text as it is, nothing as a remark, bytes as the text they may be, the rest as JSON."""
    if value is None:
        return NO_OUTPUT
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "surrogateescape")
    try:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_foreign)
        return encode(plain).decode("utf-8", "surrogateescape")
    except Exception:  # noqa: BLE001 - a value that cannot be shown must not undo a success
        return f"(a {type(value).__qualname__} that has no text form)"


def cut(text: str, limit: int = TEXT_MAX) -> tuple[str, bytes | None]:
    """Return `text` with its middle left out where it is longer, and then all of it as bytes."""
    if len(text) <= limit:
        return text, None
    head, tail = text[: limit * 2 // 3], text[len(text) - limit // 3 :]
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n[... {left_out} characters left out ...]\n{tail}", as_bytes(text)


def as_bytes(text: str) -> bytes:
    """Return the bytes that `text` was read from, or at least bytes that keep all of it."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _foreign(value: Any) -> Any:
    """Give msgspec something it knows for an object that it does not."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(value)
