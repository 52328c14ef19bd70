"""Reading the key set of an OpenID provider, from its address or from a file."""

import asyncio
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2

from perdure.core.errors import InvalidRequest
from perdure.doors.tokens import Fetch
from perdure.serving.loopback import is_loopback

_MOST_BYTES: Final = 1024 * 1024
_WAIT_S: Final = 10.0


def key_set_at(where: str) -> Fetch:
    """Return what reads the key set. Raises `InvalidRequest` (E-OIDC) for no place for one.

    An address must be https, or on this machine: whoever can change the keys on their way is
    everybody.
    """
    parts = urlsplit(where)
    if not where or parts.scheme not in ("http", "https"):
        return _file(Path(where.removeprefix("file://"))) if where else _refuse(where)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        return _refuse(where)

    async def fetch() -> bytes:
        """Ask the provider."""
        try:
            async with (
                httpx2.AsyncClient(timeout=_WAIT_S, follow_redirects=False) as client,
                client.stream("GET", where) as response,
            ):
                response.raise_for_status()
                data = b""
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > _MOST_BYTES:
                        raise OSError(f"{where} sends more than {_MOST_BYTES} bytes")
                return data
        except httpx2.HTTPError as error:
            raise OSError(f"{where}: {type(error).__name__} {error}") from error

    return fetch


def _file(path: Path) -> Fetch:
    async def fetch() -> bytes:
        """Read the file."""
        return await asyncio.to_thread(path.read_bytes)

    return fetch


def _refuse(where: str) -> Fetch:
    raise InvalidRequest(
        "E-OIDC", f"[server.oidc] jwks = {where!r} is no place to trust.", "https://… or a file"
    )
