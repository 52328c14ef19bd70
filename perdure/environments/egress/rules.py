"""Where a session's commands may connect to: decided on the name, then on each address it has.

Pure. A host is brought into one spelling first; what has several readings (octal numbers, odd
characters) is refused, not guessed at.
"""

import fnmatch
import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from perdure.core.addresses import is_public, parse_address
from perdure.core.errors import InvalidRequest

PORTS: Final = (80, 443)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_NAME_CHARS: Final = 253


class Refused(Exception):
    """A connection that is not made. The text says why, to whoever runs the command."""


class Rule(msgspec.Struct, frozen=True):
    """One entry of a list. `below` is for all hosts below `name`; name "" is any host. With a
    `network` it is for addresses. Port 0 stands for 80 and 443.
    """

    name: str = ""
    below: bool = False
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    port: int = 0
    excepted: bool = False

    def fits(self, host: str, port: int) -> bool:
        """Whether this entry is for a host in its one spelling, at a port."""
        if self.excepted:  # with what is below it, at all ports unless it names one
            same = host == self.name or host.endswith(f".{self.name}") or self._holds(host)
            return same and self.port in (0, port)
        if port not in ((self.port,) if self.port else PORTS):
            return False
        if self.network is not None:
            return self._holds(host)
        if self.below:
            return host.endswith(f".{self.name}")
        return not self.name or host == self.name

    def _holds(self, host: str) -> bool:
        found = parse_address(host) if self.network is not None else None
        return found is not None and self.network is not None and found in self.network


class Rules:
    """What a session may reach. `private` are globs over hosts that may have private addresses.

    `trusted` says that whoever wrote the list may also open private networks with it, by listing
    their addresses. Raises `InvalidRequest` (E-EGRESS-RULE) for an entry with no clear meaning.
    """

    def __init__(
        self, patterns: Iterable[str], *, trusted: bool = True, private: Iterable[str] = ()
    ) -> None:
        rules = [parse_rule(pattern) for pattern in patterns]
        self._allowed = tuple(rule for rule in rules if not rule.excepted)
        self._excepted = tuple(rule for rule in rules if rule.excepted)
        self._trusted = trusted
        self._private = tuple(glob.lower() for glob in private)

    def check_name(self, host: str, port: int) -> None:
        """Raise `Refused` unless the list allows a host (in its one spelling) at a port."""
        if any(rule.fits(host, port) for rule in self._excepted):
            raise Refused(f"{host} is excepted from what this environment may reach")
        fitting = [rule for rule in self._allowed if rule.fits(host, port)]
        if self._excepted and parse_address(host) is not None:
            # Behind a bare address may be a name that is excepted: only a listed one will do.
            fitting = [rule for rule in fitting if rule.network is not None]
        if not fitting:
            raise Refused(f"{host}:{port} is not among what this environment may reach")

    def check_addresses(self, host: str, port: int, found: Sequence[str]) -> list[str]:
        """Return the addresses that may be connected to: all that the host has, or none of them.

        Raises `Refused`.
        """
        addresses = list(dict.fromkeys(str(parse_address(each) or each) for each in found))
        if not addresses:
            raise Refused(f"{host} has no address")
        for address in addresses:
            if any(rule.network and rule.fits(address, port) for rule in self._excepted):
                raise Refused(f"{host} has an address that is excepted")
            if not is_public(address) and not self._listed(host, address, port):
                raise Refused(f"{host} has an address that is not public")
        return addresses

    def _listed(self, host: str, address: str, port: int) -> bool:
        if parse_address(address) is None:
            return False
        if any(fnmatch.fnmatchcase(host, glob) for glob in self._private):
            return True
        opened = (r for r in self._allowed if r.network is not None and r.network.prefixlen)
        return self._trusted and any(rule.fits(address, port) for rule in opened)


def parse_rule(pattern: str) -> Rule:
    """Return an entry of a list. Raises `InvalidRequest` (E-EGRESS-RULE)."""
    text = pattern.removeprefix("!")
    try:
        return _rule(text, excepted=text != pattern)
    except (Refused, ValueError) as error:
        raise InvalidRequest(
            "E-EGRESS-RULE",
            f"{pattern!r} does not say where commands may connect to: {error}.",
            "Write host, *.host, host:port, an address or network (10.0.0.0/8), or *.",
        ) from None


def plain_host(text: str) -> str:
    """Return a host in its one spelling: lower case, punycode, without the last dot; an address as
    `ipaddress` writes it. Raises `Refused` for what is no host, or has several readings.
    """
    if text.startswith("[") and text.endswith("]"):
        found = parse_address(text[1:-1]) if ":" in text and "%" not in text else None
        if found is None:
            raise Refused("this is no IPv6 address")
        return str(found)
    host = _ascii(text).removesuffix(".")
    labels = host.split(".")
    if len(host) > _NAME_CHARS or not all(_LABEL.match(label) for label in labels):
        raise Refused("this is no host's name")
    if _NUMBER.match(labels[-1]):
        found = parse_address(host)
        if found is None or str(found) != host or not text.isascii():
            raise Refused("an address is written as four decimal numbers")
    return host


def plain_port(text: str) -> int:
    """Return a port. Raises `Refused`."""
    if not _PORT.match(text) or int(text) > 65535:
        raise Refused("this is no port")
    return int(text)


def split_authority(text: str) -> tuple[str, int]:
    """Return a host in its one spelling and a port, 0 when none is named. Raises `Refused`."""
    if text.startswith("["):
        host, _, rest = text.partition("]")
        if rest and not rest.startswith(":"):
            raise Refused("this is no host and port")
        return plain_host(f"{host}]"), plain_port(rest[1:]) if rest else 0
    host, colon, port = text.partition(":")
    return plain_host(host), plain_port(port) if colon else 0


def _rule(text: str, *, excepted: bool) -> Rule:
    if text == "*" and not excepted:
        return Rule()
    if text.startswith("*:") and not excepted:
        return Rule(port=plain_port(text[2:]))
    if text.startswith("*."):
        host, port = split_authority(text[2:])
        if parse_address(host) is not None:
            raise Refused("below an address there is nothing")
        return Rule(host, below=True, port=port, excepted=excepted)
    if text.count(":") > 1 and not text.startswith("["):
        return Rule(network=ipaddress.ip_network(text), name=text, excepted=excepted)
    if "/" in text:
        return _network(text, excepted=excepted)
    host, port = split_authority(text)
    found = parse_address(host)
    network = ipaddress.ip_network(str(found)) if found is not None else None
    return Rule(host, network=network, port=port, excepted=excepted)


def _network(text: str, *, excepted: bool) -> Rule:
    head, _, tail = text.partition("/")
    length, colon, port = tail.partition(":")
    network = ipaddress.ip_network(f"{head.strip('[]')}/{length.removesuffix(']')}")
    number = plain_port(port) if colon else 0
    return Rule(str(network), network=network, port=number, excepted=excepted)


def _ascii(text: str) -> str:
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text).lower().replace("\u3002", ".")
    if not all(each in "-._" or unicodedata.category(each)[0] in "LMN" for each in folded):
        raise Refused("this is no host's name")
    try:
        # Twice the same, or it is not one name: what else looks like it must not pass for it.
        coded = folded.encode("idna").decode("ascii")
        if coded.encode("ascii").decode("idna").encode("idna").decode("ascii") != coded:
            raise Refused("this is no host's name")
    except UnicodeError:
        raise Refused("this is no host's name") from None
    return coded
