"""What the nodes of one store know and nobody else: a secret that the first of them makes.

It lies in the store, which all of them can read anyway. It never leaves a process: what a node
sends to another one opens one path only, and is made from the secret and that path.
"""

import hmac
from collections.abc import Callable
from typing import Final

from perdure.core.errors import Conflict, Unavailable
from perdure.ports.clock import Clock
from perdure.ports.store import Store

KIND: Final = "cluster"
_NAME: Final = "secret"
_SIZE: Final = 32
_REREAD_S: Final = 5.0  # a stranger who tries tokens makes us read no more often


class ClusterSecret:
    """The secret of a store. `fresh` gives random octets."""

    def __init__(self, store: Store, clock: Clock, fresh: Callable[[int], bytes]) -> None:
        self._store = store
        self._clock = clock
        self._fresh = fresh
        self._known: bytes | None = None
        self._read_at = 0.0

    def __repr__(self) -> str:
        return "ClusterSecret(…)"

    async def token(self, path: str) -> str:
        """Return what opens `path` at another node. Raises `Unavailable`."""
        return _made(await self._secret(), path)

    async def opens(self, token: str, path: str) -> bool:
        """Whether the token was made for that path by a node of this store."""
        given = token.encode("utf-8", "replace")
        if hmac.compare_digest(given, _made(await self._secret(), path).encode()):
            return True
        # It may have been put anew, by a backup that was restored.
        if self._clock.monotonic() < self._read_at + _REREAD_S:
            return False
        return hmac.compare_digest(given, _made(await self._read(), path).encode())

    async def forget(self) -> None:
        """Read it anew the next time: another node did not know it."""
        if self._clock.monotonic() >= self._read_at + _REREAD_S:
            self._known = None

    async def _secret(self) -> bytes:
        return self._known or await self._read()

    async def _read(self) -> bytes:
        for _ in range(2):
            found = await self._store.doc(KIND, _NAME)
            if found is not None:
                self._known, self._read_at = found.data, self._clock.monotonic()
                return found.data
            try:
                await self._store.put_doc(KIND, _NAME, self._fresh(_SIZE), expect=0)
            except Conflict:
                continue  # another node was faster: its secret is ours
        found = await self._store.doc(KIND, _NAME)
        if found is None:
            raise Unavailable("E-NODE-SECRET", "The store does not keep the secret of its nodes.")
        self._known, self._read_at = found.data, self._clock.monotonic()
        return found.data


def _made(secret: bytes, path: str) -> str:
    return hmac.new(secret, path.encode("utf-8", "surrogatepass"), "sha256").hexdigest()
