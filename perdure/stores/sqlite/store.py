"""`SqliteStore`: the port's face of the writer, the reader and the blobs beside the database."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from msgspec.structs import replace

from perdure.core.errors import NotFound, PerdureError
from perdure.core.journal import Record
from perdure.ports.blobs import Blobs
from perdure.ports.carrying import Kept, KeptDoc, Posted
from perdure.ports.clock import Clock
from perdure.ports.cluster import NodeRow
from perdure.ports.commits import Committed
from perdure.ports.store import Batch, Claim, Doc, ErrorRow, Letter, SessionRow
from perdure.stores import refusals, writes
from perdure.stores.blobs import DirectoryBlobs
from perdure.stores.faults import Faults
from perdure.stores.frozen import frozen
from perdure.stores.offload import Job, Lane, Offload, Threads
from perdure.stores.sqlite import carrying, jobs
from perdure.stores.system import SystemClock

if TYPE_CHECKING:
    from perdure.stores.sqlite.connect import Connections
    from perdure.stores.sqlite.reader import Reader
    from perdure.stores.sqlite.statements import Statements

T = TypeVar("T")

POLL_S: Final = 0.04
CHECKPOINT_BYTES: Final = 16 * 1024 * 1024


class SqliteStore:
    """Journals in one SQLite file, shared by the processes of one machine.

    Open it with `SqliteStore.open`; close it, or the next owner of its sessions takes this
    process for dead.
    """

    def __init__(
        self,
        path: Path,
        blobs: Blobs,
        opened: "Connections",
        sql: "Statements",
        offload: Offload,
        faults: Faults,
        *,
        poll_s: float,
        checkpoint_bytes: int,
    ) -> None:
        from perdure.stores.sqlite.reader import Checkpointer, Read, Reader
        from perdure.stores.sqlite.tables import Tables
        from perdure.stores.sqlite.writer import Writer

        self.path = path
        self._blobs = blobs
        self._node = opened.node
        self._poll_s = poll_s
        self._seen: object = opened.writer.pragma("data_version")
        self._closed = False
        self._checkpoint_step = checkpoint_bytes
        self._checkpoint_over = checkpoint_bytes
        self._checkpoint: asyncio.Task[None] | None = None
        self._writer = Writer(Tables(path, opened.writer, sql, opened.node), faults)
        reader = Reader(path, opened.reader, sql)
        checkpointer = Checkpointer(opened.checkpointer)
        self._writes: Lane[writes.Write] = offload.lane(
            "perdure-store-writes", self._writer.work, self._writer.end
        )
        self._make_read = Read
        self._reads: Lane[Read] = offload.lane("perdure-store-reads", reader.work, reader.end)
        self._checkpoints: Lane[Job] = offload.lane(
            "perdure-store-checkpoints", checkpointer.work, checkpointer.end
        )

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        fsync: bool = True,
        offload: Offload | None = None,
        faults: Faults | None = None,
        node: str = "node",
        blobs: Blobs | None = None,
        sqlite_version: str = "",
        poll_s: float = POLL_S,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> Self:
        """Open the database, making it if there is none.

        Without `fsync` a power cut may take the last commits, but never their order. `offload`
        and `faults` are a simulator's; `sqlite_version` replaces the library's word, for tests.
        Raises `Unavailable` with what to do, `InvalidRequest` for what is no database of ours.
        """
        from perdure.stores.sqlite import connect, statements

        path = Path(path)
        connect.check_path(path)
        connect.check_version(sqlite_version or connect.library_version())
        offload = offload or Threads()
        sql = statements.load()
        # Names are never used twice: the lock of a dead process must not look like its heir's.
        name = f"{node}-{secrets.token_hex(8)}"
        opened = await offload.call(lambda: connect.open_database(path, name, sql, fsync=fsync))
        beside = path.with_name(path.name + ".blobs")
        return cls(
            path,
            blobs or DirectoryBlobs(beside, fsync=fsync, offload=offload),
            opened,
            sql,
            offload,
            faults or Faults(),
            poll_s=poll_s,
            checkpoint_bytes=checkpoint_bytes,
        )

    @property
    def blobs(self) -> Blobs:
        """Large payloads, in a directory beside the database."""
        return self._blobs

    def tell_commits(self, told: Committed, clock: Clock) -> None:
        """See `Commits.tell_commits`."""
        self._writer.meter.watch(told, clock)

    async def claim(self, session: str) -> Claim:
        """See `Store.claim`."""
        claim: Claim = await self._write(lambda: writes.MakeClaim(session))
        return claim

    async def release(self, claim: Claim) -> None:
        """See `Store.release`."""
        await self._write(lambda: writes.Release(claim))

    def holds(self, claim: Claim) -> bool:
        """See `Store.holds`: ownership is a lock, which nobody takes from a living process."""
        return not self._closed

    def append(self, batch: Batch) -> asyncio.Future[None]:
        """See `Store.append`."""
        return self._write(lambda: writes.Append(frozen(batch)))

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
        return await self._read(lambda reader: reader.abandoned(limit, self._node.is_dead))

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
        version: int = await self._write(lambda: writes.PutDoc(kind, name, bytes(data), expect))
        return version

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

    @property
    def node(self) -> str:
        """See `Cluster.node`."""
        return self._node.name

    @property
    def draining(self) -> bool:
        """See `Cluster.draining`."""
        return not self._closed and self._node.draining

    async def announce(self, address: str) -> None:
        """See `Cluster.announce`."""
        about = (version("perdure"), socket.gethostname())
        await self._read(lambda _: self._node.announce(address, *about))

    async def nodes(self) -> list[NodeRow]:
        """See `Cluster.nodes`: the processes of this machine. A dead one is none."""
        from perdure.stores.sqlite.connect import SCHEMA

        rows, owners = await self._read(lambda reader: (self._node.others(), reader.owners()))
        seen = {"seen_at_us": SystemClock().now_us(), "schema": SCHEMA}
        nothing = (0, 0)
        counts = [(row, *owners.get(row.name, nothing)) for row in rows]
        return [replace(row, sessions=n, behind=behind, **seen) for row, n, behind in counts]

    async def drain_node(self, node: str) -> None:
        """See `Cluster.drain_node`."""
        if not await self._read(lambda _: self._node.ask_to_drain(node)):
            raise NotFound("E-NODE-UNKNOWN", f"There is no node {node!r}.", "perdure nodes")

    async def owner(self, session: str) -> NodeRow | None:
        """See `Cluster.owner`."""

        def find(reader: "Reader") -> NodeRow | None:
            name = reader.owner(session)
            alive = name is not None and not self._node.is_dead(name)
            return self._node.row(name) if name is not None and alive else None

        return await self._read(find)

    async def owned(self, node: str, limit: int = 1000) -> list[str]:
        """See `Cluster.owned`."""
        return await self._read(lambda reader: reader.owned(node, limit))

    async def changed(self, timeout_s: float) -> bool:
        """See `Store.changed`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            # Asked of the writer, because to it our own commits are no news.
            version = await self._write(jobs.DataVersion)
            if version != self._seen:
                self._seen = version
                return True
            left_s = deadline - loop.time()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(self._poll_s, left_s))

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
        folder = self.path.with_name(self.path.name + ".nodes")
        return await self._read(lambda _: carrying.neighbours(folder, self._node.name))

    async def check(self) -> list[tuple[str, str]]:
        """Return what SQLite finds wrong with the file: a session's name, or "", and what."""
        return await self._read(lambda reader: reader.check())

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint])
        last = writes.ReleaseAll()
        self._writes.put(last)
        with suppress(PerdureError):  # no room even for that: then the next owner sees a death
            await last.future
        for lane in (self._reads, self._checkpoints, self._writes):
            await lane.stop()
        self._node.leave()

    def kill(self) -> None:
        """Die as if by SIGKILL: what waits is not written, and nothing is given up in order."""
        if self._closed:
            return
        self._closed = True
        self._writer.dead = True
        if self._checkpoint is not None:
            self._checkpoint.cancel()
        for lane in (self._reads, self._checkpoints, self._writes):
            lane.abandon()
        self._node.drop()

    def _write(self, job: Callable[[], writes.Write]) -> asyncio.Future[Any]:
        if self._closed:
            return _refused()
        made = job()
        self._writes.put(made)
        if self._writer.wal_bytes > self._checkpoint_over and self._checkpoint is None:
            self._checkpoint = asyncio.get_running_loop().create_task(self._move_log())
        return made.future

    async def _read(self, run: "Callable[[Reader], T]") -> T:
        if self._closed:
            raise refusals.closed()
        job = self._make_read(run)
        self._reads.put(job)
        answer: T = await job.future
        return answer

    async def _move_log(self) -> None:
        """Move the log into the database: most of it in the background, the end between commits.

        Commits go on meanwhile, so only the writer itself can find a moment when all is moved,
        and only then does the log start anew instead of growing.
        """
        try:
            background = Job()
            self._checkpoints.put(background)
            await background.future
            rest = jobs.CheckpointRest()
            self._writes.put(rest)
            await rest.future
        except PerdureError:
            pass  # the log keeps everything until the next time
        finally:
            # A reader of another process may pin the log; then try again when it has grown.
            self._checkpoint_over = max(
                self._checkpoint_step, self._writer.wal_bytes + self._checkpoint_step // 4
            )
            self._checkpoint = None


def _refused() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(refusals.closed())
    return future
