"""Which database is meant: the address that a user writes, taken apart."""

import difflib
import re
from collections.abc import Collection
from typing import Final, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from perdure.core.errors import InvalidRequest, Unavailable

SCHEMES: Final = ("postgresql", "postgres")
_LEASE_S: Final = 5.0
_LONGEST: Final = 55  # with "perdure_" before it, it is a channel's name, too: 63 bytes at most
_HOSTS: Final = re.compile(
    r"(?:(?:\[[^][@]*\]|[^][:@,]*)(?::\d*)?)(?:,(?:\[[^][@]*\]|[^][:@,]*)(?::\d*)?)*"
)
_SECRET: Final = re.compile(r"password|secret|scram")
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
    parts = _split(url)
    given = [_parameter(each) for each in parts.query.split("&") if each]
    ours = {name: value for name, value in given if name in _OURS}
    rest = [(name, value) for name, value in given if name not in _OURS]
    schema = ours.get("schema", "perdure")
    plain = schema.isidentifier() and schema.isascii() and schema == schema.lower()
    if not plain or len(schema) > _LONGEST:
        what = f"small letters, digits and _, {_LONGEST} at most"
        raise _unfit(f"{schema!r} is no name for a schema: {what}")
    # A comma parts several hosts: left as it is, it says that there are some.
    libpq = _joined(parts.netloc, parts.path, urlencode(rest, safe="/,", quote_via=quote))
    return Address(
        libpq,
        _shown(parts.netloc, parts.path, [*rest, *ours.items()]),
        schema,
        _seconds(ours, "lease_s", _LEASE_S, least=0.3),
        _seconds(ours, "outage_s", 300.0, least=0.0),
        _seconds(ours, "patience_s", 20.0, least=0.1),
        ours.get("unsafe", "0") not in ("", "0"),
    )


def stranger(shown: str, libpq: Collection[str]) -> InvalidRequest | None:
    """Return the error (E-STORE-URL) for an option of an address that neither we nor libpq, which
    has these, know; None when there is no such option.
    """
    names = [_parameter(each)[0] for each in urlsplit(shown).query.split("&") if each]
    odd = [name for name in names if name not in libpq and name not in _OURS]
    if not odd:
        return None
    ours = f"Ours are {', '.join(_OURS)}; all others are libpq's."
    # What a person mistypes is one of ours more often than one of libpq's many.
    close = difflib.get_close_matches(odd[0].lower(), _OURS, n=1)
    close = close or difflib.get_close_matches(odd[0].lower(), sorted(libpq), n=1)
    return InvalidRequest(
        "E-STORE-URL",
        f"The address of the store has an option {odd[0]!r} that nobody knows. Nothing was opened.",
        (f"Did you mean {close[0]}? " if close else "") + ours,
    )


def _split(url: str) -> SplitResult:
    """Take it apart, if nothing of what could be a password lies where it would be shown."""
    try:
        parts = urlsplit(url)
    except ValueError:  # whose words quote it
        parts = None
    if (
        parts is None
        or parts.fragment
        or "@" in parts.path
        or not _HOSTS.fullmatch(parts.netloc.rpartition("@")[2])
        or any("@" in each.partition("=")[0] for each in parts.query.split("&"))
    ):
        raise _unfit(
            "a special character in a user's name or password is written as % and two digits"
            " (# is %23, / is %2F, ? is %3F, @ is %40)"
        )
    return parts


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")  # as libpq reads it: a + is a +
    return unquote(name), unquote(value)


def _shown(host: str, path: str, parameters: list[tuple[str, str]]) -> str:
    user, at, place = host.rpartition("@")
    kept = [(name, value) for name, value in parameters if not _SECRET.search(name)]
    name = user.partition(":")[0]
    return _joined(f"{name}{at}{place}", path, urlencode(kept, safe="/", quote_via=quote))


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
