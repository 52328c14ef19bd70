"""Secrets that commands use without having them: put in on the way out, taken out on the way back.

Inside the sandbox there is a placeholder. In the headers of a request to a host that the secret is
for, the placeholder becomes the secret; in what that host answers, the secret becomes stars.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import msgspec

from perdure.core.errors import InvalidRequest
from perdure.core.secrets import Secret
from perdure.environments.egress.heads import Header
from perdure.environments.egress.rules import Refused, Rule, parse_rule

_STAR: Final = b"*"
_BASIC: Final = b"basic "


class Substitution(msgspec.Struct, frozen=True):
    """A secret, what stands for it inside, and the hosts that it is for; None for all that the
    environment may reach.
    """

    placeholder: str
    secret: Secret
    hosts: tuple[str, ...] | None = None

    def is_for(self, host: str, port: int) -> bool:
        """Whether the secret may be sent there."""
        if self.hosts is None:
            return True
        return any(rule.fits(host, port) for each in self.hosts if (rule := _rule(each)))


class Substitutes:
    """The secrets that are for one host."""

    def __init__(self, every: Sequence[Substitution], host: str, port: int) -> None:
        fitting = [each for each in every if each.secret and each.is_for(host, port)]
        # The longest first: a placeholder may begin like another one.
        fitting.sort(key=lambda each: -len(each.placeholder))
        self._pairs = [(s.placeholder.encode(), s.secret.reveal().encode()) for s in fitting]
        self._packed: list[bytes] = []  # what a secret became inside an encoding

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def put_in(self, header: Header) -> Header:
        """Return a header with the secrets in it. Raises `Refused` for one that would be another
        header.
        """
        name, value = header
        if self._pairs and name.lower() == b"accept-encoding":
            return name, b"identity"  # what is packed cannot be searched on its way back
        if value[: len(_BASIC)].lower() == _BASIC:
            return name, value[: len(_BASIC)] + self._in_base64(value[len(_BASIC) :])
        return name, self._replaced(value)

    def mask(self) -> "Mask":
        """Return what takes the secrets out of an answer."""
        return Mask([*(secret for _, secret in self._pairs), *self._packed])

    def _replaced(self, value: bytes) -> bytes:
        for placeholder, secret in self._pairs:
            if placeholder in value:
                if any(byte < 0x20 or byte == 0x7F for byte in secret):
                    raise Refused("a secret with control characters cannot go into a header")
                value = value.replace(placeholder, secret)
        return value

    def _in_base64(self, value: bytes) -> bytes:
        try:
            plain = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            return self._replaced(value)
        changed = self._replaced(plain)
        packed = base64.b64encode(changed)
        if changed != plain:
            self._packed.append(packed)
        return packed


class Mask:
    """Replaces secrets in a stream by as many stars, wherever the pieces of it are cut."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = sorted((s for s in secrets if s), key=len, reverse=True)
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be passed on; the start of a secret is held back."""
        data = self._rest + data
        for secret in self._secrets:
            data = data.replace(secret, _STAR * len(secret))
        held = max((_overlap(data, secret) for secret in self._secrets), default=0)
        self._rest = data[len(data) - held :]
        return data[: len(data) - held]

    def finish(self) -> bytes:
        """Return what was held back, at the end of the stream."""
        rest, self._rest = self._rest, b""
        return rest


def _overlap(data: bytes, secret: bytes) -> int:
    """Return how many bytes at the end of `data` may be the start of the secret."""
    longest = min(len(data), len(secret) - 1)
    return next((n for n in range(longest, 0, -1) if secret.startswith(data[-n:])), 0)


def _rule(text: str) -> Rule | None:
    try:
        return parse_rule(text)
    except InvalidRequest:
        return None  # a host that nobody has: the secret is not sent for it
