"""The proxy that a sandbox speaks to: it connects to what the rules allow, and to nothing else.

A name is resolved once for each connection, every address it has is checked, and one of exactly
those is connected to. Each connection carries one request or one tunnel. Redirects are the
client's business: following one is a new request, and is checked like one.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from perdure.core.addresses import parse_address
from perdure.environments.egress.authority import CertificateAuthority
from perdure.environments.egress.heads import Head, Malformed, parse_head, passed_on
from perdure.environments.egress.pipes import (
    Reader,
    Side,
    Writer,
    linger,
    read_head,
    relay,
    send_body,
    shut,
)
from perdure.environments.egress.rules import Refused, Rules, split_authority
from perdure.environments.egress.substitution import Substitutes, Substitution

CONNECTIONS_MAX: Final = 64
_HOSTS_COUNTED: Final = 256
_DIAL_S: Final = 15.0

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Connect = Callable[[str, int], Awaitable[tuple[Reader, Writer]]]


class Count(msgspec.Struct):
    """How often a host was connected to, and how often that was refused."""

    allowed: int = 0
    refused: int = 0


class Proxy:
    """The way out of one session. `notice` gets a sentence for the first refusal of each host.

    `resolve` and `connect` are the network; a connection is always to an address, never to a name.
    With an `authority`, TLS to hosts that a secret is for ends here and begins again; `trust` is
    what their own certificates must be signed by.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        substitutions: Sequence[Substitution] = (),
        authority: CertificateAuthority | None = None,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
        trust: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        notice: Callable[[str], None] = lambda _: None,
        idle_s: float = 120.0,
    ) -> None:
        self._rules = rules
        self._substitutions = tuple(substitutions)
        self._authority = authority
        self._resolve = resolve or system_resolve
        self._connect = connect or asyncio.open_connection
        self._trust = trust
        self._notice = notice
        self._idle_s = idle_s
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: dict[str, Count] = {}

    def serve(self, reader: Reader, writer: Writer) -> None:
        """Begin to serve a connection: what a server is given as its callback."""
        task = asyncio.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: Reader, writer: Writer) -> None:
        try:
            said = await self._served(reader, writer)
            if said is not None:
                await _answer(writer, *said)
                await linger(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # somebody went away, or said nothing for too long
        finally:
            await shut(writer)

    async def close(self) -> None:
        """End all connections."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _served(self, reader: Reader, writer: Writer) -> tuple[int, str] | None:
        """Serve a connection; return what is to be said instead of an answer from outside."""
        if len(self._tasks) > CONNECTIONS_MAX:
            return 503, "too many connections at once"
        try:
            head = parse_head(await read_head(reader, self._idle_s))
            if head.method == "CONNECT":
                await self._tunnel(head, (reader, writer))
            else:
                await self._plain(head, (reader, writer))
        except Malformed as error:
            return 400, str(error)
        except Refused as error:
            return 403, str(error)
        except Unreached as error:
            return 502, str(error)
        return None

    async def _tunnel(self, head: Head, inside: Side) -> None:
        reader, writer = inside
        host, port = self._authority_of(head.target)
        if not port:
            raise Malformed("CONNECT names a host and a port")
        substitutes = Substitutes(self._substitutions, host, port)
        outside = await self._reach(host, port)
        try:
            if substitutes and self._authority is not None:
                await self._secure(outside[1], host)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await writer.start_tls(self._authority.context(host), ssl_handshake_timeout=_DIAL_S)
                inner = parse_head(await read_head(reader, self._idle_s))
                if not inner.target.startswith("/") and inner.target != "*":
                    raise Malformed("this is no request to a server")
                named = _authority_text(host, port, 443)
                text = passed_on(inner, inner.target, named, substitutes.put_in)
                await self._exchange(inner, text, inside, outside, substitutes)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await relay(inside, outside, self._idle_s)
        finally:
            await shut(outside[1])

    async def _plain(self, head: Head, inside: Side) -> None:
        scheme, _, rest = head.target.partition("://")
        if scheme.lower() != "http" or not rest:
            raise Malformed("ask a proxy for http://host/…, or to CONNECT")
        netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
        path = rest[len(netloc) :].partition("#")[0]
        host, named = self._authority_of(netloc)
        port = named or 80
        substitutes = Substitutes(self._substitutions, host, port)
        path = path if path.startswith("/") else f"/{path}"
        head.body_bytes()  # before anything is connected to
        text = passed_on(head, path, _authority_text(host, port, 80), substitutes.put_in)
        outside = await self._reach(host, port)
        try:
            await self._exchange(head, text, inside, outside, substitutes)
        finally:
            await shut(outside[1])

    async def _exchange(
        self, head: Head, text: bytes, inside: Side, outside: Side, substitutes: Substitutes
    ) -> None:
        """Send one request and pass its answer back, the secrets taken out of it."""
        length = head.body_bytes()
        outside[1].write(text)
        sending = asyncio.create_task(send_body(inside[0], outside[1], length, self._idle_s))
        try:
            mask = substitutes.mask()
            async with asyncio.timeout(self._idle_s) as patience:
                loop = asyncio.get_running_loop()
                while data := await outside[0].read(1 << 16):
                    patience.reschedule(loop.time() + self._idle_s)
                    inside[1].write(mask.feed(data))
                    await inside[1].drain()
            inside[1].write(mask.finish())
            await inside[1].drain()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _reach(self, host: str, port: int) -> Side:
        """Connect to a host that may be reached. Raises `Refused` and `Unreached`."""
        try:
            self._rules.check_name(host, port)
            addresses = self._rules.check_addresses(host, port, await self._addresses(host, port))
        except Refused as error:
            if self._count(host).refused == 0:
                self._notice(f"{error}.")
            self._count(host).refused += 1
            raise
        self._count(host).allowed += 1
        for address in addresses:
            try:
                async with asyncio.timeout(_DIAL_S):
                    return await self._connect(address, port)
            except (OSError, TimeoutError):
                continue
        raise Unreached(f"{host} does not answer")

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        if parse_address(host) is not None:
            return [host]
        try:
            async with asyncio.timeout(_DIAL_S):
                return await self._resolve(host, port)
        except (OSError, UnicodeError, TimeoutError):
            raise Unreached(f"the name {host} is not known") from None

    async def _secure(self, writer: Writer, host: str) -> None:
        try:
            await writer.start_tls(
                self._trust(), server_hostname=host, ssl_handshake_timeout=_DIAL_S
            )
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "verify_message", "") or "TLS failed"
            raise Unreached(f"{host} is not trusted: {why}") from None

    def _authority_of(self, text: str) -> tuple[str, int]:
        try:
            return split_authority(text)
        except Refused:
            if self._count("").refused == 0:
                self._notice("a host was named in a way that can be read differently.")
            self._count("").refused += 1
            raise

    def _count(self, host: str) -> Count:
        if host not in self.counts and len(self.counts) >= _HOSTS_COUNTED:
            host = "…"
        return self.counts.setdefault(host, Count())


class Unreached(Exception):
    """A host that is allowed and cannot be reached."""


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, as this machine knows them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


async def _answer(writer: Writer, status: int, text: str) -> None:
    """Say in the first line too what is the matter: of a CONNECT many clients show only that."""
    code = {403: "E-EGRESS-REFUSED", 502: "E-EGRESS-UNREACHED"}.get(status, "E-EGRESS-REQUEST")
    body = f"{code} {text}.\n".encode("ascii", "replace")
    head = f"HTTP/1.1 {status} {code} {text}\r\n".encode("ascii", "replace")
    head += b"Content-Type: text/plain\r\nConnection: close\r\n"
    writer.write(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


def _authority_text(host: str, port: int, usual: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port == usual else f"{shown}:{port}"
