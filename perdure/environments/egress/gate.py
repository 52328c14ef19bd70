"""The way out of one session: a socket in its home while a command runs, and a proxy behind it.

The socket is the only thing of the network that a sandbox is shown. It is made for each command and
gone with it, so no connection outlives what began it.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perdure.core.agent import EnvironmentSpec
from perdure.environments.egress.authority import CertificateAuthority, system_bundle
from perdure.environments.egress.heads import HEAD_BYTES_MAX
from perdure.environments.egress.proxy import Connect, Proxy, Resolve
from perdure.environments.egress.rules import Rules
from perdure.environments.egress.substitution import Substitution
from perdure.environments.homes import Home
from perdure.ports.clock import Clock

SOCKET: Final = "proxy"
CERTIFICATES: Final = "ca.pem"
_NOTICES_MAX: Final = 8

SecretsFor = Callable[[str], Awaitable[Sequence[Substitution]]]


async def no_secrets(session: str) -> Sequence[Substitution]:
    """Return nothing: sessions without a vault."""
    return ()


@dataclass(frozen=True)
class Egress:
    """How all sessions of an environment get out.

    `trusted` says that a list of hosts may open private networks by naming their addresses: it is
    the operator's own, not a client's. `private` are globs over hosts that may be private in any
    case. `secrets_for` gives the secrets of a session, for each command anew. The rest is the
    network; None for this machine's.
    """

    trusted: bool = True
    private: tuple[str, ...] = ()
    secrets_for: SecretsFor = no_secrets
    resolve: Resolve | None = None
    connect: Connect | None = None
    trust: Callable[[], ssl.SSLContext] = ssl.create_default_context
    idle_s: float = 120.0


class Gate:
    """The way out of one session. Raises `InvalidRequest` (E-EGRESS-RULE) when made."""

    def __init__(
        self, egress: Egress, session: str, home: Home, spec: EnvironmentSpec, clock: Clock
    ) -> None:
        self._egress = egress
        self._session = session
        self._home = home
        self._clock = clock
        self._rules = Rules(spec.network, trusted=egress.trusted, private=egress.private)
        self._authority: CertificateAuthority | None = None
        self._said: set[str] = set()
        self._notices: list[str] = []

    @property
    def folder(self) -> Path:
        """Where the socket is, on the host."""
        return self._home.folder / "egress"

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve while a command runs."""
        secrets = await self._egress.secrets_for(self._session)
        await asyncio.to_thread(self._lay_out, secured=bool(secrets))
        proxy = Proxy(
            self._rules,
            substitutions=secrets,
            authority=self._authority if secrets else None,
            resolve=self._egress.resolve,
            connect=self._egress.connect,
            trust=self._egress.trust,
            notice=self._notice,
            idle_s=self._egress.idle_s,
        )
        with self._listening() as listening:
            server = await asyncio.start_unix_server(
                proxy.serve, sock=listening, limit=HEAD_BYTES_MAX
            )
            try:
                yield
            finally:
                server.close()
                await proxy.close()

    def notices(self) -> bytes:
        """Return what is to be said below a command's output, once: the hosts that were refused."""
        said, self._notices = self._notices, []
        return "".join(f"[egress] {each}\n" for each in said).encode()

    def _notice(self, text: str) -> None:
        if text not in self._said and len(self._notices) < _NOTICES_MAX:
            self._said.add(text)
            self._notices.append(text)

    def _lay_out(self, *, secured: bool) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o755)
        if secured:
            if self._authority is None:
                self._authority = CertificateAuthority(self._clock.now_us())
            file = self.folder / CERTIFICATES
            file.write_bytes(system_bundle() + b"\n" + self._authority.pem)
            file.chmod(0o644)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        # Through the directory's descriptor: the address of a socket has room for 107 bytes only.
        at = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = self.folder / SOCKET
        try:
            made.bind(f"/proc/self/fd/{at}/{SOCKET}")
            path.chmod(0o600)
            if self._home.owner is not None:
                os.chown(path, *self._home.owner)
            yield made
        finally:
            made.close()
            os.close(at)
            path.unlink(missing_ok=True)
