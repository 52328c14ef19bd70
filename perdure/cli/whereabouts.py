"""Where a server that begins is reached: on this machine, and from elsewhere."""

import ipaddress
from dataclasses import dataclass
from typing import Final

from perdure.serving.loopback import is_loopback

_NO_TLS: Final = (
    "There is no TLS here: keys and words go in the clear. Put a proxy that ends TLS in front; "
    "perdure itself sends no key to another machine without it."
)


@dataclass(frozen=True)
class Whereabouts:
    """`url` can be called, `native` can be given to `perdure`; `notes` say what holds elsewhere."""

    url: str
    native: str
    notes: tuple[str, ...] = ()


def whereabouts(host: str, port: int, machine: str) -> Whereabouts:
    """Return where a server on `host` is reached. `machine` is what this one is called."""
    if is_loopback(host):
        url = _url(host, port)
        return Whereabouts(url, url)
    if (here := _all_addresses(host)) is not None:
        url = _url(here, port)
        names = (
            f"It listens on all addresses of this machine; {url} is for here. For elsewhere put "
            f"the name that others reach it by instead of {here}: {machine}, say, or your proxy's."
        )
        return Whereabouts(url, url, (names, _NO_TLS))
    names = "NAME: what your proxy is called, on this machine too."
    return Whereabouts(_url(host, port), "https://NAME", (names, _NO_TLS))


def _all_addresses(host: str) -> str | None:
    """Return the loopback address that is among all addresses, if `host` stands for all."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    if not address.is_unspecified:
        return None
    return "127.0.0.1" if address.version == 4 else "::1"


def _url(host: str, port: int) -> str:
    bare = host.strip("[]")
    return f"http://[{bare}]:{port}" if ":" in bare else f"http://{bare}:{port}"
