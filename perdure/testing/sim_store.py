"""The store of a simulated process: slow to answer, and now and then without room."""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from perdure.core.journal import Record
from perdure.ports.blobs import Blobs
from perdure.ports.store import Batch, Claim, Doc, ErrorRow, Letter, SessionRow, Store
from perdure.testing.faults import Injector, Process
from perdure.testing.world import World

T = TypeVar("T")


class SimBlobs:
    """Blobs on the simulated disk, which may be full."""

    def __init__(self, inner: Blobs, world: World, process: Process, injector: Injector) -> None:
        self._inner = inner
        self._world = world
        self._process = process
        self._injector = injector

    async def put(self, data: bytes) -> str:
        """See `Blobs.put`."""
        await self._world.point(self._process, "blob")
        self._injector.room(self._process)
        return await self._inner.put(data)

    async def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        return await self._inner.get(digest)


class StoreProxy:
    """A store that passes everything on. Subclasses change what they are there for."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    @property
    def blobs(self) -> Blobs:
        """See `Store.blobs`."""
        return self._inner.blobs

    async def claim(self, session: str) -> Claim:
        """See `Store.claim`."""
        return await self._inner.claim(session)

    async def release(self, claim: Claim) -> None:
        """See `Store.release`."""
        await self._inner.release(claim)

    def holds(self, claim: Claim) -> bool:
        """See `Store.holds`."""
        return self._inner.holds(claim)

    def append(self, batch: Batch) -> Awaitable[None]:
        """See `Store.append`."""
        return self._inner.append(batch)

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """See `Store.read`."""
        return await self._inner.read(session, after, limit)

    async def fork(self, source: str, at: int, session: str) -> None:
        """See `Store.fork`."""
        await self._inner.fork(source, at, session)

    async def delete_session(self, session: str) -> None:
        """See `Store.delete_session`."""
        await self._inner.delete_session(session)

    async def ends(self, sessions: Sequence[str]) -> dict[str, int]:
        """See `Store.ends`."""
        return await self._inner.ends(sessions)

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        """See `Store.due`."""
        return await self._inner.due(now_us, limit, prefix)

    async def abandoned(self, limit: int = 100) -> list[str]:
        """See `Store.abandoned`."""
        return await self._inner.abandoned(limit)

    async def errors(self, prefix: str = "") -> list[ErrorRow]:
        """See `Store.errors`."""
        return await self._inner.errors(prefix)

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        """See `Store.put_doc`."""
        return await self._inner.put_doc(kind, name, data, expect=expect)

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        """See `Store.docs`."""
        return await self._inner.docs(kind, prefix=prefix, after=after, limit=limit)

    async def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        return await self._inner.doc(kind, name)

    async def delete_doc(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`."""
        await self._inner.delete_doc(kind, name)

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """See `Store.post`."""
        return await self._inner.post(session, key, body)

    async def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        return await self._inner.inbox(session)

    async def mailboxes(self, prefix: str = "") -> list[str]:
        """See `Store.mailboxes`."""
        return await self._inner.mailboxes(prefix)

    async def sessions(self, prefix: str = "") -> list[SessionRow]:
        """See `Store.sessions`."""
        return await self._inner.sessions(prefix)

    async def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        return await self._inner.session(session)

    async def save_state(self, session: str, seq: int, data: bytes) -> None:
        """See `Store.save_state`."""
        await self._inner.save_state(session, seq, data)

    async def load_state(self, session: str) -> tuple[int, bytes] | None:
        """See `Store.load_state`."""
        return await self._inner.load_state(session)

    async def changed(self, timeout_s: float) -> bool:
        """See `Store.changed`."""
        return await self._inner.changed(timeout_s)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._inner.close()


class SimStore(StoreProxy):
    """A process's store whose reads take their time and whose blobs may find no room."""

    def __init__(self, inner: Store, world: World, process: Process, injector: Injector) -> None:
        super().__init__(inner)
        self._world = world
        self._process = process
        self._blobs = SimBlobs(inner.blobs, world, process, injector)

    @property
    def blobs(self) -> Blobs:
        """See `Store.blobs`."""
        return self._blobs

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """See `Store.read`."""
        return await self._later(await super().read(session, after, limit))

    async def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        return await self._later(await super().inbox(session))

    async def errors(self, prefix: str = "") -> list[ErrorRow]:
        """See `Store.errors`."""
        return await self._later(await super().errors(prefix))

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        """See `Store.docs`."""
        found = await super().docs(kind, prefix=prefix, after=after, limit=limit)
        return await self._later(found)

    async def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        return await self._later(await super().doc(kind, name))

    async def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        return await self._later(await super().session(session))

    async def _later(self, answer: T) -> T:
        """Answer with how things were a moment ago."""
        await self._world.point(self._process, "store.read")
        return answer
