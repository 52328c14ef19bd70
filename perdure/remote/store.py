"""A server's store, read over HTTP. The server owns all sessions: nothing is claimed from here."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from typing import Final, NoReturn, TypeVar

from perdure.core import journal
from perdure.core.codec import decode
from perdure.core.errors import CorruptJournal, Forbidden, SessionBusy, Unavailable
from perdure.core.inbox import Post
from perdure.core.journal import Record
from perdure.doors.native.bodies import Posted
from perdure.doors.native.bodies_raw import (
    Mailboxes,
    PostLetter,
    RawErrors,
    RawLetters,
    RawRecords,
    RawRow,
    RawRows,
)
from perdure.ports.blobs import Blobs
from perdure.ports.store import Batch, Claim, Doc, ErrorRow, Letter, SessionRow
from perdure.remote.link import Link, part

T = TypeVar("T")
_PAGE: Final = 500
_REMEMBERED: Final = 4096


class RemoteBlobs:
    """The payloads that events name. Implements `Blobs`; each is asked for by its event."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._where: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def note(self, session: str, record: Record) -> None:
        """Remember which event names which payload."""
        aside = journal.aside(record)
        names = [aside.blob] if aside else []
        if record.type == "tool.finished" and aside is None:
            payload = journal.read(record).payload
            names += [full] if (full := getattr(payload, "full", "")) else []
        for name in names:
            self._where[name] = (session, record.seq)
            self._where.move_to_end(name)
        while len(self._where) > _REMEMBERED:
            self._where.popitem(last=False)

    async def put(self, data: bytes) -> str:
        """See `Blobs.put`: refused."""
        _refuse()

    async def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        found = self._where.get(digest)
        if found is None:
            raise CorruptJournal("E-BLOB-MISSING", f"No event that was read names {digest}.")
        session, seq = found
        path = f"/store/sessions/{part(session)}/records/{seq}/blobs/{digest}"
        return await self._link.octets("GET", path)


class RemoteStore:
    """Implements the parts of `Store` that read, and `post`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._blobs = RemoteBlobs(link)
        self._closed = False

    @property
    def blobs(self) -> Blobs:
        """See `Store.blobs`."""
        return self._blobs

    async def claim(self, session: str) -> Claim:
        """See `Store.claim`: the server has it."""
        raise SessionBusy("E-SESSION-BUSY", f"{session} belongs to {self._link.url}.")

    async def release(self, claim: Claim) -> None:
        """See `Store.release`."""

    def holds(self, claim: Claim) -> bool:
        """See `Store.holds`: nothing is held from here."""
        return False

    def append(self, batch: Batch) -> Awaitable[None]:
        """See `Store.append`: refused."""
        _refuse()

    async def fork(self, source: str, at: int, session: str) -> None:
        """See `Store.fork`: refused; `RemoteSession.fork` asks the server."""
        _refuse()

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """See `Store.read`."""
        found: list[Record] = []
        while len(found) < limit:
            wanted = min(_PAGE, limit - len(found))
            path = f"/store/sessions/{part(session)}/records"
            page = (await self._ask(path, RawRecords, after=after, limit=wanted)).records
            for raw in page:
                record = Record(raw.seq, raw.type, bytes(raw.data), bytes.fromhex(raw.hash))
                self._blobs.note(session, record)
                found.append(record)
                after = raw.seq
            if len(page) < wanted:
                break
        return found

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """See `Store.post`."""
        letter: Post = decode(body, Post)  # type: ignore[arg-type]  # a union is a type, too
        path = f"/store/sessions/{part(session)}/inbox"
        return (await self._link.ask("POST", path, Posted, PostLetter(key, letter))).fresh

    async def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        found = await self._ask(f"/store/sessions/{part(session)}/inbox", RawLetters)
        return [Letter(each.key, bytes(each.body)) for each in found.letters]

    async def mailboxes(self, prefix: str = "") -> list[str]:
        """See `Store.mailboxes`."""
        names = (await self._ask("/store/mailboxes", Mailboxes)).sessions
        return [name for name in names if name.startswith(prefix)]

    async def sessions(self, prefix: str = "") -> list[SessionRow]:
        """See `Store.sessions`."""
        rows = (await self._ask("/store/sessions", RawRows)).rows
        return [row for row in rows if row.id.startswith(prefix)]

    async def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        return (await self._ask(f"/store/sessions/{part(session)}", RawRow)).row

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        """See `Store.due`: what is due is the server's business."""
        return []

    async def ends(self, sessions: Sequence[str]) -> dict[str, int]:
        """See `Store.ends`: sessions are followed by streams, which say so themselves."""
        return {}

    async def abandoned(self, limit: int = 100) -> list[str]:
        """See `Store.abandoned`: what nobody works on is the server's business."""
        return []

    async def errors(self, prefix: str = "") -> list[ErrorRow]:
        """See `Store.errors`."""
        rows = (await self._ask("/store/errors", RawErrors)).errors
        return [row for row in rows if row.session.startswith(prefix)]

    async def delete_session(self, session: str) -> None:
        """See `Store.delete_session`: refused."""
        _refuse()

    async def save_state(self, session: str, seq: int, data: bytes) -> None:
        """See `Store.save_state`: nothing is kept here."""

    async def load_state(self, session: str) -> tuple[int, bytes] | None:
        """See `Store.load_state`: what is read is folded and checked here."""
        return None

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        """See `Store.put_doc`: refused."""
        _refuse()

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        """See `Store.docs`: refused; rules and schedules have methods of their own."""
        _refuse()

    async def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`: refused."""
        _refuse()

    async def delete_doc(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`: refused."""
        _refuse()

    async def changed(self, timeout_s: float) -> bool:
        """See `Store.changed`: something may have changed; sessions are followed by streams."""
        await asyncio.sleep(timeout_s)
        return True

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        await self._link.close()

    async def _ask(self, path: str, type_: type[T], **query: int) -> T:
        if self._closed:
            raise Unavailable("E-STORE-CLOSED", "The connection was closed.")
        return await self._link.ask("GET", path, type_, **query)


def _refuse() -> NoReturn:
    raise Forbidden(
        "E-REMOTE-STORE", "Only the server writes its store. Nothing was changed.",
        "Ask it by the methods of Runtime and Session.",
    )  # fmt: skip
