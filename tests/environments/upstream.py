"""A small pretended internet on loopback: its servers, its names, and a client of the proxy."""

import asyncio
import contextlib
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from perdure.core.secrets import Secret
from perdure.environments.egress.authority import CertificateAuthority
from perdure.environments.egress.gate import Egress
from perdure.environments.egress.heads import HEAD_BYTES_MAX
from perdure.environments.egress.proxy import Proxy
from perdure.environments.egress.rules import Rules
from perdure.environments.egress.substitution import Substitution

PUBLIC, OTHER = "93.184.216.34", "93.184.216.35"
NAMES: Mapping[str, tuple[str, ...]] = {
    "api.test": (PUBLIC,),
    "other.test": (OTHER,),
    "inner.test": ("10.0.0.1",),
    "mixed.test": (PUBLIC, "169.254.169.254"),
    "mapped.test": ("::ffff:127.0.0.1",),
    "nothing.test": (),
}
CANARY = "canary-5d1f0c6be2"
PLACE = "perdure-secret:vault_1/cred_1"


class Internet:
    """One server that answers at every address, with what it was asked; TLS at port 443.

    `dialled` are the addresses and ports connected to, `heads` the requests that arrived.
    """

    def __init__(self) -> None:
        self.authority = CertificateAuthority(int(time.time() * 1e6))
        self.dialled: list[tuple[str, int]] = []
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.answers: dict[str, list[tuple[str, ...]]] = {}
        self._ports: dict[bool, int] = {}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Answer from NAMES, or what was said to come next for this host."""
        self.asked.append(host)
        if self.answers.get(host):
            return self.answers[host].pop(0)
        if host not in NAMES:
            raise OSError("no such name")
        return NAMES[host]

    async def connect(
        self, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the server, whatever the address."""
        self.dialled.append((address, port))
        return await asyncio.open_connection("127.0.0.1", self._ports[port == 443])

    def trust(self) -> ssl.SSLContext:
        """Return a context that trusts the servers of this internet and nothing else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.pem.decode())
        return context

    @contextlib.asynccontextmanager
    async def up(self, certified: str = "api.test") -> AsyncIterator["Internet"]:
        """Run the servers."""
        context = self.authority.context(certified)
        plain = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        secure = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        for tls, server in ((False, plain), (True, secure)):
            self._ports[tls] = server.sockets[0].getsockname()[1]
        async with plain, secure:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            length = [h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
            if b"transfer-encoding: chunked" in head.lower():
                body = await reader.readuntil(b"0\r\n\r\n")
            self.bodies.append(body)
            status, more = b"200 OK", b""
            if head.startswith(b"GET /moved"):
                status, more = b"302 Found", b"Location: http://inner.test/\r\n"
            size = f"Content-Length: {len(head) + len(body)}\r\n".encode()
            writer.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n" + more + size)
            writer.write(b"\r\n" + head + body)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def egress(internet: Internet, *, hosts: tuple[str, ...] | None = None) -> Egress:
    """Return the way out into a pretended internet; with `hosts`, a secret that is for them."""

    async def secrets_for(session: str) -> Sequence[Substitution]:
        return () if hosts is None else (Substitution(PLACE, Secret(CANARY), hosts),)

    return Egress(
        secrets_for=secrets_for,
        resolve=internet.resolve,
        connect=internet.connect,
        trust=internet.trust,
    )


class Client:
    """Speaks to a proxy in bytes."""

    def __init__(self, proxy: Proxy, path: str, authority: CertificateAuthority) -> None:
        self.proxy = proxy
        self._path = path
        self._authority = authority

    async def send(self, *pieces: bytes) -> bytes:
        """Send, and return all that comes back."""
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            for piece in pieces:
                writer.write(piece)
            with contextlib.suppress(OSError):
                await writer.drain()
            return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def get(self, url: str, *headers: str) -> bytes:
        """GET a URL through the proxy, and return the raw answer."""
        lines = "".join(f"{each}\r\n" for each in ("Host: liar.test", *headers))
        return await self.send(f"GET {url} HTTP/1.1\r\n{lines}\r\n".encode())

    async def get_tls(self, host: str, *headers: str) -> tuple[bytes, bytes]:
        """GET / in a tunnel; return the proxy's word and the answer.

        Whoever is the other end of TLS must have a certificate of the proxy's authority.
        """
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
            said = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in said:
                return said, await reader.read()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=self._authority.pem.decode())
            await writer.start_tls(context, server_hostname=host)
            lines = "".join(f"{each}\r\n" for each in (f"Host: {host}", *headers))
            writer.write(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
            return said, await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def proxied(
    internet: Internet, *network: str, make: Callable[..., Rules] = Rules,
    hosts: tuple[str, ...] | None = None, intercept: bool = True, idle_s: float = 20.0,
    notice: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Client]:  # fmt: skip
    """Run a proxy into a pretended internet."""
    out = egress(internet, hosts=hosts)
    authority = CertificateAuthority(int(time.time() * 1e6)) if intercept else internet.authority
    proxy = Proxy(
        make(network),
        substitutions=await out.secrets_for("s"),
        authority=authority if intercept else None,
        resolve=out.resolve, connect=out.connect, trust=out.trust, notice=notice, idle_s=idle_s,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "p")
        server = await asyncio.start_unix_server(proxy.serve, path, limit=HEAD_BYTES_MAX)
        async with server:
            yield Client(proxy, path, authority)
            server.close()
            await proxy.close()
