"""`PostgresStore`: the port's face of the writer, the readers, the lease and the bell."""

import asyncio
import contextlib
import os
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from perdure.core.errors import LeaseLost, NotFound, PerdureError
from perdure.core.journal import Record
from perdure.ports.blobs import Blobs
from perdure.ports.carrying import Kept, KeptDoc, Posted
from perdure.ports.clock import Clock
from perdure.ports.cluster import NodeRow
from perdure.ports.commits import Committed
from perdure.ports.store import Batch, Claim, Doc, ErrorRow, Letter, SessionRow
from perdure.stores import refusals, writes
from perdure.stores.faults import Faults
from perdure.stores.frozen import frozen
from perdure.stores.offload import Inline, Lane, Offload, Threads
from perdure.stores.postgres import carrying
from perdure.stores.postgres.address import check_installed, parse
from perdure.stores.system import SystemClock

if TYPE_CHECKING:
    from perdure.stores.postgres.parts import Parts
    from perdure.stores.postgres.reader import Reader

T = TypeVar("T")

POLL_S: Final = 0.25  # the floor under every wake-up: a lost NOTIFY costs no more than this
GAP_S: Final = 0.02  # under steady change, how often this node looks at all
READERS: Final = 2


class PostgresStore:
    """One node's connection to a database. Open it with `PostgresStore.open`; close it, or the
    others wait for its lease to run out before they take its sessions. Implements `Store` and
    `Cluster`.
    """

    def __init__(
        self, parts: "Parts", offload: Offload, blobs: Blobs | None, poll_s: float
    ) -> None:
        from perdure.stores.postgres.blobs import DropBlob, PutBlob, TableBlobs
        from perdure.stores.postgres.reader import Read

        self._parts = parts
        self._offload = offload
        self._poll_s = poll_s
        self._make_read = Read
        self._closed = False
        self._next_reader = 0
        self._seen: object = None
        self._heard = asyncio.Event()
        self._looked_at = -GAP_S
        self._loop = asyncio.get_running_loop()
        self._writes: Lane[writes.Write] = offload.lane(
            "perdure-store-writes", parts.writer.work, parts.writer.end
        )
        self._reads: list[Lane[Read]] = [
            offload.lane(f"perdure-store-reads-{n}", reader.work, reader.end)
            for n, reader in enumerate(parts.readers)
        ]
        self._blobs = blobs or TableBlobs(
            lambda digest, data: self._write(lambda: PutBlob(digest, data)),
            lambda digest: self._read(lambda reader: reader.blob(digest)),
            lambda after, limit: self._read(lambda reader: reader.blobs(after, limit)),
            lambda digest, before_us: self._write(lambda: DropBlob(digest, before_us)),
        )

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        offload: Offload | None = None,
        faults: Faults | None = None,
        node: str = "",
        blobs: Blobs | None = None,
        clock: Clock | None = None,
        poll_s: float = POLL_S,
    ) -> Self:
        """Open the database, making the tables if there are none.

        `offload` and `faults` are a simulator's. Raises `InvalidRequest` (E-STORE-URL),
        `Unavailable` with what to do.
        """
        check_installed()
        from perdure.stores.postgres.assembly import assemble

        address = parse(url)
        offload = offload or Threads()
        # Names are never used twice: a dead process must not look like its heir.
        name = f"{node or _node_name()}-{secrets.token_hex(4)}"
        threads = not isinstance(offload, Inline)
        ear = _Ear() if threads else None
        who = (name, version("perdure"), socket.gethostname())
        watch, readers = clock or SystemClock(), READERS if threads else 1
        parts = await offload.call(
            lambda: assemble(address, who, faults or Faults(), watch, ear, readers=readers)
        )
        store = cls(parts, offload, blobs, poll_s)
        if ear is not None:
            ear.store = store
        return store

    @property
    def blobs(self) -> Blobs:
        """Large payloads: in a table, unless another place was given."""
        return self._blobs

    def tell_commits(self, told: Committed, clock: Clock) -> None:
        """See `Commits.tell_commits`."""
        self._parts.writer.meter.watch(told, clock)

    @property
    def node(self) -> str:
        """See `Cluster.node`."""
        return self._parts.lease.node

    @property
    def draining(self) -> bool:
        """See `Cluster.draining`."""
        return self._parts.lease.draining

    @property
    def guarantee(self) -> str:
        """What the database's settings promise for what was acknowledged, in a sentence."""
        return self._parts.guarantee

    @property
    def shown(self) -> str:
        """The address, without any password."""
        return self._parts.address.shown

    async def claim(self, session: str) -> Claim:
        """See `Store.claim`."""
        claim: Claim = await self._write(lambda: writes.MakeClaim(session))
        self._parts.claims.note(claim)
        return claim

    async def release(self, claim: Claim) -> None:
        """See `Store.release`."""
        await self._write(lambda: writes.Release(claim))
        self._parts.claims.forget(claim)

    def holds(self, claim: Claim) -> bool:
        """See `Store.holds`."""
        return not self._closed and self._parts.claims.holds(claim)

    def append(self, batch: Batch) -> asyncio.Future[None]:
        """See `Store.append`."""
        future = self._write(lambda: writes.Append(frozen(batch)))
        future.add_done_callback(lambda done: self._appended(batch, done))
        return future

    def _appended(self, batch: Batch, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and isinstance(done.exception(), LeaseLost):
            self._parts.claims.lose(batch.session, batch.epoch)

    async def fork(self, source: str, at: int, session: str) -> None:
        """See `Store.fork`."""
        await self._write(lambda: writes.Fork(source, at, session))

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """See `Store.read`."""
        return await self._read(lambda reader: reader.events(session, after, limit))

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """See `Store.post`."""
        return bool(await self._write(lambda: writes.Post(session, key, bytes(body))))

    async def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        return await self._read(lambda reader: reader.inbox(session))

    async def mailboxes(self, prefix: str = "") -> list[str]:
        """See `Store.mailboxes`."""
        return await self._read(lambda reader: reader.mailboxes(prefix))

    async def sessions(self, prefix: str = "") -> list[SessionRow]:
        """See `Store.sessions`."""
        return await self._read(lambda reader: reader.sessions(prefix))

    async def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        return await self._read(lambda reader: reader.session(session))

    async def ends(self, sessions: Sequence[str]) -> dict[str, int]:
        """See `Store.ends`."""
        names = list(sessions)
        return await self._read(lambda reader: reader.ends(names))

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        """See `Store.due`."""
        return await self._read(lambda reader: reader.due(now_us, limit, prefix))

    async def abandoned(self, limit: int = 100) -> list[str]:
        """See `Store.abandoned`."""
        return await self._read(lambda reader: reader.abandoned(limit))

    async def errors(self, prefix: str = "") -> list[ErrorRow]:
        """See `Store.errors`."""
        return await self._read(lambda reader: reader.errors(prefix))

    async def delete_session(self, session: str) -> None:
        """See `Store.delete_session`."""
        await self._write(lambda: writes.DeleteSession(session))

    async def save_state(self, session: str, seq: int, data: bytes) -> None:
        """See `Store.save_state`."""
        await self._write(lambda: writes.SaveState(session, seq, bytes(data)))

    async def load_state(self, session: str) -> tuple[int, bytes] | None:
        """See `Store.load_state`."""
        return await self._read(lambda reader: reader.state(session))

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        """See `Store.put_doc`."""
        made: int = await self._write(lambda: writes.PutDoc(kind, name, bytes(data), expect))
        return made

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        """See `Store.docs`."""
        return await self._read(lambda reader: reader.docs(kind, prefix, after, limit))

    async def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        return await self._read(lambda reader: reader.doc(kind, name))

    async def delete_doc(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`."""
        await self._write(lambda: writes.DeleteDoc(kind, name))

    async def changed(self, timeout_s: float) -> bool:
        """See `Store.changed`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        # Where there is always news, looking for it must not become all that is done.
        early_s = self._looked_at + GAP_S - loop.time()
        if 0 < early_s < timeout_s:
            await asyncio.sleep(early_s)
        while True:
            self._heard.clear()
            self._looked_at = loop.time()
            seen = await self._read(lambda reader: reader.changes(self.node))
            if seen != (self._seen or []):
                self._seen = seen
                return True
            left_s = deadline - loop.time()
            if left_s <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), min(self._poll_s, left_s))

    def poke(self) -> None:
        """Another node says that it has changed something."""
        self._heard.set()

    async def kept(self, session: str) -> Kept | None:
        """See `Carriable.kept`."""
        return await self._read(lambda reader: carrying.kept(reader, session))

    async def keep_letters(self, session: str, letters: Sequence[Posted]) -> None:
        """See `Carriable.keep_letters`."""
        await self._write(lambda: carrying.keep_letters(session, letters))

    async def kept_docs(
        self, after: tuple[str, str] | None = None, limit: int = 500
    ) -> list[KeptDoc]:
        """See `Carriable.kept_docs`."""
        return await self._read(lambda reader: carrying.kept_docs(reader, after, limit))

    async def keep_doc(self, doc: KeptDoc) -> None:
        """See `Carriable.keep_doc`."""
        await self._write(lambda: carrying.keep_doc(doc))

    async def neighbours(self) -> list[str]:
        """See `Carriable.neighbours`."""
        return [each.name for each in await self.nodes() if each.alive and each.name != self.node]

    async def check(self) -> list[tuple[str, str]]:
        """Return what is wrong with the tables: a session's name, or "", and what."""
        return await self._read(lambda reader: reader.check())

    async def announce(self, address: str) -> None:
        """See `Cluster.announce`."""
        # Nobody reaches a node at what cannot be written down, and its word must not fail for it.
        self._parts.lease.address = address if refusals.is_name(address) else ""
        self._parts.lease.renew_now()

    async def nodes(self) -> list[NodeRow]:
        """See `Cluster.nodes`."""
        return await self._read(lambda reader: reader.nodes())

    async def drain_node(self, node: str) -> None:
        """See `Cluster.drain_node`."""
        from perdure.stores.postgres.claims import DrainNode

        if not refusals.is_name(node) or not await self._write(lambda: DrainNode(node)):
            raise NotFound("E-NODE-UNKNOWN", f"There is no node {node!r}.", "perdure nodes")
        if node == self.node:
            self._parts.lease.draining = True

    async def owner(self, session: str) -> NodeRow | None:
        """See `Cluster.owner`."""
        return await self._read(lambda reader: reader.owner(session))

    async def owned(self, node: str, limit: int = 1000) -> list[str]:
        """See `Cluster.owned`."""
        return await self._read(lambda reader: reader.owned(node, limit))

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        last = writes.ReleaseAll()
        self._writes.put(last)
        with contextlib.suppress(PerdureError):  # then the next owner waits for the lease
            await self._answered(last.future)
        for lane in self._reads:
            await lane.stop()
        await self._writes.stop()
        await self._offload.call(self._parts.lease.stop)
        if self._parts.bell is not None:
            await self._offload.call(self._parts.bell.stop)
        if self._parts.watchdog is not None:  # last: it frees the others of dead connections
            self._parts.watchdog.stop()

    async def _answered(self, future: asyncio.Future[Any]) -> None:
        """Wait as long as the database is there; then what was to be given up has run out."""
        while not (await asyncio.wait([future], timeout=POLL_S))[0]:
            if self._parts.writer.give_up(self._parts.address.lease_s):
                for reader in self._parts.readers:
                    reader.abort()
        await future

    def kill(self) -> None:
        """Die as if by SIGKILL: what waits is not written, and nothing is given up in order."""
        if self._closed:
            return
        self._closed = True
        self._parts.writer.dead = True
        for lane in self._reads:
            lane.abandon()
        self._writes.abandon()
        self._parts.lease.kill()
        if self._parts.watchdog is not None:
            self._parts.watchdog.stop()
        if self._parts.bell is not None:
            self._parts.bell.kill()

    def _write(self, job: Callable[[], writes.Write]) -> asyncio.Future[Any]:
        if self._closed:
            return _refused()
        made = job()
        self._writes.put(made)
        return made.future

    async def _read(self, run: "Callable[[Reader], T]") -> T:
        if self._closed:
            raise refusals.closed()
        job = self._make_read(run)
        self._next_reader = (self._next_reader + 1) % len(self._reads)
        self._reads[self._next_reader].put(job)
        return cast(T, await job.future)


class _Ear:
    """Called by a thread that hears of a change; tells the event loop's."""

    def __init__(self) -> None:
        self.store: PostgresStore | None = None
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        if self.store is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.store.poke)


def _node_name() -> str:
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:24] or "node"
    return f"{host}-{os.getpid()}"


def _refused() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(refusals.closed())
    return future
