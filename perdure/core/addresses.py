"""Which internet addresses are public: what somebody else's text may make us connect to.

Pure: decides about an address, resolves nothing.
"""

import ipaddress
from typing import Final

_TRANSLATED: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "2002::/16", "2001::/32")))
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_OF_CLOUDS: Final = frozenset({ipaddress.IPv4Address("168.63.129.16")})
"""Answered by the machine's own cloud, though the address looks public."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> Address | None:
    """Return an address in its plain form, an IPv4 address inside an IPv6 one as such; None for
    what is no address. A scope (`%eth0`) is not part of it.
    """
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet: not of this machine, its networks, its cloud,
    nor one that stands for many or for such an address in disguise.
    """
    found = parse_address(address)
    if found is None or found.is_multicast or not found.is_global or found in _OF_CLOUDS:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        return found in _GLOBAL_UNICAST and not any(found in each for each in _TRANSLATED)
    return True
