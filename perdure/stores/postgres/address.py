"""Which database is meant: the address that a user writes, taken apart."""

from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from perdure.core.errors import InvalidRequest, Unavailable

SCHEMES: Final = ("postgresql", "postgres")
_LEASE_S: Final = 5.0
_OURS: Final = ("schema", "lease_s", "outage_s", "patience_s", "unsafe")


class Address(NamedTuple):
    """`libpq` is the address without our own parameters; it may hold a password: never show it.

    `shown` is for people. `lease_s`: how long this node counts as alive without a word. `outage_s`:
    how long a write waits for a database that is away. `patience_s`: how long one commit may take
    before its connection counts as dead; a read may take three times as long. `unsafe`: a database
    that may lose what it has acknowledged is accepted.
    """

    libpq: str
    shown: str
    schema: str = "perdure"
    lease_s: float = _LEASE_S
    outage_s: float = 300.0
    patience_s: float = 20.0
    unsafe: bool = False


def is_postgres(url: str) -> bool:
    """Whether the address of a store names a PostgreSQL database."""
    return url.partition(":")[0] in SCHEMES


def parse(url: str) -> Address:
    """Take an address apart. Raises `InvalidRequest` (E-STORE-URL); never shows a password."""
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in given if name in _OURS}
    rest = [(name, value) for name, value in given if name not in _OURS]
    schema = ours.get("schema", "perdure")
    if not schema.isidentifier() or not schema.isascii() or schema != schema.lower():
        raise _unfit(f"{schema!r} is no name for a schema: small letters, digits and _")
    libpq = _joined(parts.netloc, parts.path, urlencode(rest))
    return Address(
        libpq,
        _shown(parts.netloc, parts.path, [*rest, *ours.items()]),
        schema,
        _seconds(ours, "lease_s", _LEASE_S, least=0.3),
        _seconds(ours, "outage_s", 300.0, least=0.0),
        _seconds(ours, "patience_s", 20.0, least=0.1),
        ours.get("unsafe", "0") not in ("", "0"),
    )


def _shown(host: str, path: str, parameters: list[tuple[str, str]]) -> str:
    user, at, place = host.rpartition("@")
    kept = [(name, value) for name, value in parameters if "password" not in name]
    name = user.partition(":")[0]
    return _joined(f"{name}{at}{place}", path, urlencode(kept, safe="/"))


def _joined(host: str, path: str, query: str) -> str:
    return f"postgresql://{host}{path}" + (f"?{query}" if query else "")


def _seconds(given: dict[str, str], name: str, default: float, *, least: float) -> float:
    try:
        value = float(given.get(name, default))
    except ValueError:
        raise _unfit(f"{name} is a number of seconds") from None
    if not least <= value <= 3600:
        raise _unfit(f"{name} lies between {least:g} and 3600 seconds")
    return value


def _unfit(what: str) -> InvalidRequest:
    return InvalidRequest(
        "E-STORE-URL",
        f"The address of the store is not understood: {what}.",
        "Write postgresql://user@host/database?schema=perdure&lease_s=5",
    )


def check_installed() -> None:
    """Raise `Unavailable` (E-STORE-DRIVER) where psycopg is not there."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            "E-STORE-DRIVER",
            "PostgreSQL needs a driver that is not installed.",
            "pip install 'perdure[postgres]'",
        ) from error
