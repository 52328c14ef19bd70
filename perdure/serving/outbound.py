"""Connections that an API client makes us open: never to an address inside, unless allowed.

A client of the API names URLs (of MCP servers, of token endpoints), and the server would connect
from where it stands. The address is looked at where the connection is made, so what a name resolves
to in between makes no difference, and no redirect is followed.
"""

import asyncio
import contextlib
import fnmatch
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from perdure.core.addresses import is_public
from perdure.core.errors import Forbidden, Unavailable
from perdure.doors.authorising import Answered

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S: Final = 30.0
_BODY_MAX: Final = 1024 * 1024


class Outbound:
    """What clients may make us connect to. `private` are globs over hosts that are allowed though
    their addresses are private: "mcp.internal", "127.0.0.1".
    """

    def __init__(self, private: Iterable[str] = ()) -> None:
        self._private = tuple(each.lower() for each in private)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host that may be connected to. Raises `Forbidden`
        (E-ADDRESS) when one of them is private, `Unavailable` when there are none.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unavailable("E-ADDRESS", f"The host {host} is not known.") from error
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if not any(fnmatch.fnmatchcase(host.lower(), glob) for glob in self._private):
            for address in addresses:
                if not is_public(address):
                    raise Forbidden(
                        "E-ADDRESS",
                        f"The server does not connect to {host} for a client: its address is not "
                        "public.",
                        "The operator may allow it: [server] private_hosts",
                    )
        return addresses

    def transport(self) -> "httpx2.AsyncBaseTransport":
        """Return a transport for an HTTP client that connects to allowed addresses only."""
        import httpcore2
        import httpx2

        outer = self

        class Guarded(httpcore2.AnyIOBackend):
            async def connect_tcp(self, host: str, port: int, *rest: Any, **more: Any) -> Any:
                try:
                    addresses = await outer.addresses(host, port)
                except (Forbidden, Unavailable) as error:
                    raise httpcore2.ConnectError(error.message) from error
                last: Exception = httpcore2.ConnectError(f"{host} has no address")
                for address in addresses:
                    try:
                        return await super().connect_tcp(address, port, *rest, **more)
                    except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                        last = error
                raise last

        transport = httpx2.AsyncHTTPTransport(trust_env=False)
        transport._pool = httpcore2.AsyncConnectionPool(  # noqa: SLF001  # it takes no backend
            ssl_context=httpx2.create_ssl_context(), network_backend=Guarded()
        )
        return transport

    async def post_form(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> Answered:
        """Post a form. Raises `Forbidden` and `Unavailable` (E-ADDRESS, E-VAULT-REFRESH)."""
        import httpx2

        try:
            target = httpx2.URL(url)
            if target.scheme not in ("http", "https") or not target.host:
                raise Forbidden("E-ADDRESS", "A token endpoint is an http or https URL.")
            port = target.port or (443 if target.scheme == "https" else 80)
            await self.addresses(target.host, port)
            async with (
                self._client() as client,
                client.stream("POST", target, data=dict(form), headers=dict(headers)) as response,
            ):
                return Answered(response.status_code, await _some(response))
        except httpx2.InvalidURL as error:
            raise Forbidden("E-ADDRESS", "A token endpoint is an http or https URL.") from error
        except httpx2.HTTPError as error:
            raise Unavailable(
                "E-VAULT-REFRESH",
                f"The token endpoint cannot be reached ({type(error).__name__}). Nothing changed.",
            ) from None  # the cause may hold the request, and the request the secret

    @contextlib.asynccontextmanager
    async def _client(self) -> "AsyncIterator[httpx2.AsyncClient]":
        import httpx2

        async with httpx2.AsyncClient(
            transport=self.transport(), timeout=TIMEOUT_S, follow_redirects=False, trust_env=False
        ) as client:
            yield client


async def _some(response: "httpx2.Response") -> bytes:
    """Return the start of a body; a longer one is no answer of a token endpoint."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _BODY_MAX:
            return b""
    return body
