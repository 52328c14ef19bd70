"""Requests that may come again: what one has begun is gone on with, and not begun anew.

What a request makes has an id, and that id is kept under the request's key before anything is
made. All that is done then has names that follow from the id, so whoever sends the request again
finds it done, or completes it where a crash had cut it short.

Keys lie on shelves: documents whose number is fixed, changed by compare-and-swap. Each change of a
shelf drops what is too old, so what is kept is what came within the time, and no more.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from perdure.core.codec import Reader, canonical
from perdure.core.errors import Conflict, PerdureError, SessionBusy, Unavailable
from perdure.doors.documents import Documents
from perdure.doors.http import Call

KEYED: Final = "repeat.keyed"
UNKEYED: Final = "repeat.unkeyed"
KEYED_S: Final = 24 * 3600  # for so long a key stands for its request
UNKEYED_S: Final = 600  # and for so long the same body, when the client says that it comes again
_SHELF: Final = 3  # hexadecimal digits of its name: 4096 shelves in a project
_PLACE: Final = 4  # the same of the places where requests without a key are kept, one in each
_PATIENCE_S: Final = 120.0  # for another process that makes the same
_BUSY: Final = "key."  # what is claimed in the store while something is made


class Kept(msgspec.Struct, frozen=True):
    """A request that came: the digest of its body, the id of what it makes, and until when it is
    remembered (seconds).
    """

    name: str
    digest: str
    made: str
    until: int


class Shelf(msgspec.Struct, frozen=True):
    """What is kept side by side in one document."""

    kept: list[Kept] = []


_SHELVES: Final = Reader[Shelf](Shelf)


class Repeat:
    """One request, as one that may have come before. `scope` is what its key is good for, `body`
    what must be the same under the same key.
    """

    def __init__(self, call: Call, scope: str, body: object) -> None:
        self._call = call
        key = call.header("idempotency-key")
        self.keyed = bool(key)
        self._again = call.header("x-stainless-retry-count") not in ("", "0")
        self._digest = _digest(canonical(body))
        named = "\0".join((call.principal.id, scope, key or self._digest))
        self._name = _digest(named.encode())
        self._shelves = Documents(call.engine.kit.store, KEYED, Shelf)
        self._places = Documents(call.engine.kit.store, UNKEYED, Kept)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let nobody else make the same meanwhile, in any process. Without a key nobody waits.

        Raises `Unavailable` (E-KEY-BUSY) when another process is at it for too long.
        """
        if not self.keyed:
            yield
            return
        store, name = self._call.engine.kit.store, f"{_BUSY}{self._name}"
        # One process claims a name twice and does not notice, so it waits for itself first.
        async with self._call.services.turns.of(f"{self._call.principal.project}\0{name}"):
            await self._claim(name)
            try:
                yield
            finally:
                with contextlib.suppress(PerdureError):
                    await store.delete_session(name)

    async def before(self) -> str:
        """Return the id of what this request makes, if it came before; otherwise "".

        Raises `Conflict` (E-KEY-REUSED) when its key came with another body.
        """
        if self.keyed:
            shelf = await self._shelves.find(self._name[:_SHELF]) or Shelf()
            found = next((each for each in shelf.kept if each.name == self._name), None)
        else:
            found = await self._places.find(self._name[:_PLACE]) if self._again else None
        if found is None or found.name != self._name or found.until < self._now():
            return ""
        if found.digest != self._digest:
            raise Conflict(
                "E-KEY-REUSED",
                "This Idempotency-Key was used for another request; nothing was done.",
                "Send each request under a key of its own.",
            )
        return found.made

    async def makes(self, made: str) -> None:
        """Keep the id of what this request makes, durably: before it is made."""
        seconds = KEYED_S if self.keyed else UNKEYED_S
        await self._keep(Kept(self._name, self._digest, made, self._now() + seconds))

    async def forget(self) -> None:
        """Make the next try of this request a first one: nothing came of this."""
        await self._keep(Kept(self._name, self._digest, "", 0))

    async def _keep(self, kept: Kept) -> None:
        if not self.keyed:  # a second one takes the place of a first: a retry comes soon, or never
            await self._places.put(self._name[:_PLACE], kept)
            return
        name = self._name[:_SHELF]
        while True:
            found = await self._call.engine.kit.store.doc(KEYED, name)
            shelf = Shelf() if found is None else _SHELVES.read(found.data)
            others = [each for each in shelf.kept if each.name != self._name]
            left = [each for each in (*others, kept) if each.until >= self._now()]
            version = 0 if found is None else found.version
            with contextlib.suppress(Conflict):  # somebody put another key there just now
                await self._shelves.put(name, Shelf(left), expect=version)
                return

    async def _claim(self, name: str) -> None:
        """Become the one who makes it. The claim of a process that died is void."""
        poll_s = self._call.engine.kit.bounds.poll_s
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    with contextlib.suppress(SessionBusy):
                        await self._call.engine.kit.store.claim(name)
                        return
                    await asyncio.sleep(poll_s)
        except TimeoutError as error:
            raise Unavailable(
                "E-KEY-BUSY",
                "Another process still works on a request with this Idempotency-Key.",
                "Send it again later.",
            ) from error

    def _now(self) -> int:
        return self._call.services.seconds()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
