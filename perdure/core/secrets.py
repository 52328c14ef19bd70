"""A credential as a value that does not leak: printed, formatted, encoded or pickled.

It must not know where keys come from or who uses them.
"""

import hmac
import re
from typing import Final, NoReturn

MASK: Final = "***"

# What looks like a credential in a text a stranger wrote (an error body that echoes the request).
# A vendor's key, a bearer token and a basic authorisation cover what model providers hand out.
_KEY_SHAPED: Final = re.compile(
    r"\b(?:sk|pk|rk|key|xai|gsk|hf|AIza)[-_][A-Za-z0-9_\-]{12,}"
    r"|(?i:\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{8,})"
)


class Secret:
    """A key, token or password. Only `reveal` gives it away; the caller hands that to a client."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value.strip()

    def reveal(self) -> str:
        """Return the value itself. Never to be logged, stored, or put into a message."""
        return self._value

    def scrub(self, text: str) -> str:
        """Return `text` with the value, and whatever else looks like a key, masked."""
        if self._value:
            text = text.replace(self._value, MASK)
        return scrub(text)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"Secret({MASK})" if self._value else "Secret()"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Secret is never serialised.")


def scrub(text: str) -> str:
    """Return `text` with everything that looks like a key masked."""
    return _KEY_SHAPED.sub(MASK, text)
