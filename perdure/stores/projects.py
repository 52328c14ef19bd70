"""One store, parted into projects that cannot see each other.

A project's names are prefixed where they enter the store and bared where they leave it. Nobody can
name another project's session, because every name that comes in gets the own prefix: a foreign id
is a missing one by construction, in every method, for journals, letters, documents and lists alike.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from msgspec.structs import replace

from perdure.core.errors import InvalidRequest, PerdureError
from perdure.core.journal import Record
from perdure.ports.blobs import Blobs
from perdure.ports.store import Batch, Claim, Doc, ErrorRow, Letter, SessionRow, Store
from perdure.stores import refusals

T = TypeVar("T")

_PART: Final = "\x1f"  # the unit separator: no name of the default project may hold it
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_BEHIND: Final = "\U0010ffff"  # behind a project's prefix: behind all names of that project
_PAGE: Final = 500
_RETRY_S: Final = 1.0

DEFAULT: Final = "default"


def named_in(name: str) -> tuple[str, str]:
    """Return the project that a name of the store beneath belongs to, and its name there."""
    project, part, bare = name.partition(_PART)
    return (project, bare) if part else (DEFAULT, name)


class ProjectStores:
    """All projects of one store. The project `default` has the names as they are.

    `kind` is what parts them; a test puts a wrong one in its place.
    """

    def __init__(self, base: Store, kind: "type[ProjectStore] | None" = None) -> None:
        self.base = base
        self._kind = kind or ProjectStore
        self._projects: dict[str, ProjectStore] = {}
        self._watcher: asyncio.Task[None] | None = None

    def of(self, project: str) -> "ProjectStore":
        """Return the store of `project`. Raises `InvalidRequest` (E-PROJECT) for no such name."""
        if not _PROJECT.fullmatch(project):
            raise InvalidRequest(
                "E-PROJECT",
                f"{project!r} is no name for a project.",
                "Use small letters, digits, - and _; at most 63.",
            )
        if project not in self._projects:
            prefix = "" if project == DEFAULT else project + _PART
            self._projects[project] = self._kind(self, prefix)
        return self._projects[project]

    def parted(self, name: str) -> tuple[str, str]:
        """Return the project that a name of the store beneath belongs to, and its name there."""
        return named_in(name)

    def joined(self, project: str, name: str) -> str:
        """Return the name that a project's session has in the store beneath."""
        return name if project == DEFAULT else project + _PART + name

    def watch(self) -> None:
        """See to it that somebody listens for what other processes change."""
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._listen(), name="perdure projects")

    async def close(self) -> None:
        """Stop listening and close the store beneath."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        await self.base.close()

    async def _listen(self) -> None:
        while True:
            try:
                changed = await self.base.changed(30.0)
            except PerdureError as error:
                if error.code == refusals.closed().code:
                    return
                await asyncio.sleep(_RETRY_S)  # whoever reads meanwhile hears of it himself
                continue
            if changed:
                for project in self._projects.values():
                    project.poke()


class ProjectStore:
    """One project's store. Implements the `Store` port; closing it leaves the others open.

    A name that holds the separator is no name of any project: what reads finds nothing there,
    what writes refuses it.
    """

    def __init__(self, all_of_them: ProjectStores, prefix: str) -> None:
        self._all = all_of_them
        self._base = all_of_them.base
        self._prefix = prefix
        self._news = asyncio.Event()

    @property
    def blobs(self) -> Blobs:
        """See `Store.blobs`. Shared: a blob's name is the digest of its content."""
        return self._base.blobs

    def poke(self) -> None:
        """Another process may have changed something."""
        self._news.set()

    async def claim(self, session: str) -> Claim:
        """See `Store.claim`."""
        claim = await self._told(self._base.claim(self._made(session)))
        return claim._replace(session=session)

    async def release(self, claim: Claim) -> None:
        """See `Store.release`."""
        await self._base.release(claim._replace(session=self._at(claim.session)))

    def holds(self, claim: Claim) -> bool:
        """See `Store.holds`."""
        return self._base.holds(claim._replace(session=self._at(claim.session)))

    def append(self, batch: Batch) -> Awaitable[None]:
        """See `Store.append`."""
        row = None if batch.row is None else self._row_in(batch.row)
        errors = [replace(error, session=self._at(error.session)) for error in batch.errors]
        name = self._at(batch.session)
        appending = self._base.append(batch._replace(session=name, row=row, errors=errors))
        # A task: it is under way whether or not anybody waits for it.
        return asyncio.ensure_future(self._told(appending)) if self._prefix else appending

    async def fork(self, source: str, at: int, session: str) -> None:
        """See `Store.fork`."""
        if _PART in source:
            raise refusals.no_event(source, at)
        await self._told(self._base.fork(self._at(source), at, self._made(session)))

    async def delete_session(self, session: str) -> None:
        """See `Store.delete_session`."""
        await self._told(self._base.delete_session(self._at(session)))

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """See `Store.read`."""
        return await self._told(self._base.read(self._at(session), after, limit))

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """See `Store.post`."""
        name = self._at(session)
        if not name:
            raise refusals.unknown(session)
        return await self._told(self._base.post(name, key, body))

    async def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        return await self._base.inbox(self._at(session))

    async def mailboxes(self, prefix: str = "") -> list[str]:
        """See `Store.mailboxes`."""
        return self._bared(await self._base.mailboxes(self._prefix + prefix))

    async def ends(self, sessions: Sequence[str]) -> dict[str, int]:
        """See `Store.ends`."""
        made = {self._at(name): name for name in sessions}
        found = await self._base.ends(list(made))
        return {made[name]: seq for name, seq in found.items()}

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        """See `Store.due`."""
        most = limit
        while True:
            rows = await self._base.due(now_us, most, self._prefix + prefix)
            found = self._bared(rows)
            if len(found) >= limit or len(rows) < most:
                return found[:limit]
            most *= 4  # the default project meets what is due in others, and looks behind it

    async def abandoned(self, limit: int = 100) -> list[str]:
        """See `Store.abandoned`."""
        most = limit
        while True:
            names = await self._base.abandoned(most)
            found = self._bared(names)
            if len(found) >= limit or len(names) < most:
                return found[:limit]
            most *= 4  # as in `due`

    async def sessions(self, prefix: str = "") -> list[SessionRow]:
        """See `Store.sessions`."""
        rows = await self._base.sessions(self._prefix + prefix)
        return [self._row_out(row) for row in rows if self._is_ours(row.id)]

    async def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        row = await self._base.session(self._at(session))
        return None if row is None else self._row_out(row)

    async def errors(self, prefix: str = "") -> list[ErrorRow]:
        """See `Store.errors`."""
        rows = await self._base.errors(self._prefix + prefix)
        return [replace(r, session=self._out(r.session)) for r in rows if self._is_ours(r.session)]

    async def save_state(self, session: str, seq: int, data: bytes) -> None:
        """See `Store.save_state`."""
        await self._base.save_state(self._at(session), seq, data)

    async def load_state(self, session: str) -> tuple[int, bytes] | None:
        """See `Store.load_state`."""
        return await self._base.load_state(self._at(session))

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        """See `Store.put_doc`. Raises `InvalidRequest` (E-NAME) for a name with the separator."""
        if _PART in name:
            raise _unfit(name)
        return await self._told(self._base.put_doc(kind, self._prefix + name, data, expect=expect))

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        """See `Store.docs`."""
        behind = self._prefix + after if after else ""
        if self._prefix:
            page = await self._base.docs(
                kind, prefix=self._prefix + prefix, after=behind, limit=limit
            )
            return [doc._replace(name=self._out(doc.name)) for doc in page]
        found: list[Doc] = []
        while limit is None or len(found) < limit:
            wanted = _PAGE if limit is None else limit
            page = await self._base.docs(kind, prefix=prefix, after=behind, limit=wanted)
            foreign = next((n for n, doc in enumerate(page) if _PART in doc.name), None)
            found += page[:foreign]
            if foreign is not None:  # skip the whole of that project
                behind = page[foreign].name.partition(_PART)[0] + _PART + _BEHIND
            elif len(page) < wanted:
                break
            else:
                behind = page[-1].name
        return found[:limit]

    async def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        if _PART in name:
            return None
        found = await self._base.doc(kind, self._prefix + name)
        return None if found is None else found._replace(name=name)

    async def delete_doc(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`."""
        if _PART not in name:
            await self._base.delete_doc(kind, self._prefix + name)

    async def changed(self, timeout_s: float) -> bool:
        """See `Store.changed`."""
        self._all.watch()
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def close(self) -> None:
        """Do nothing: the store beneath is closed when all projects are done."""

    def _at(self, session: str) -> str:
        """Return where a session lies; for what names none, what names none beneath either."""
        return self._prefix + session if session and _PART not in session else ""

    def _made(self, session: str) -> str:
        """Return where a session is to lie. Raises `InvalidRequest` for no name."""
        if _PART in session:
            raise _unfit(session)
        return self._at(session)

    async def _told(self, asked: Awaitable[T]) -> T:
        """Return the answer; an error speaks of names as this project knows them."""
        try:
            return await asked
        except PerdureError as error:
            if self._prefix:
                for prefix in (self._prefix, repr(self._prefix)[1:-1]):
                    error.message = error.message.replace(prefix, "")
                    error.hint = error.hint.replace(prefix, "")
                error.args = (f"{error.code}  {error.message}",)
            raise

    def _out(self, name: str) -> str:
        return name.removeprefix(self._prefix)

    def _is_ours(self, name: str) -> bool:
        return name.startswith(self._prefix) and _PART not in name[len(self._prefix) :]

    def _bared(self, names: Sequence[str]) -> list[str]:
        return [self._out(name) for name in names if self._is_ours(name)]

    def _row_in(self, row: SessionRow) -> SessionRow:
        parent = self._at(row.parent) if row.parent else ""
        return replace(row, id=self._at(row.id), parent=parent)

    def _row_out(self, row: SessionRow) -> SessionRow:
        parent = self._out(row.parent) if row.parent else ""
        return replace(row, id=self._out(row.id), parent=parent)


def _unfit(name: str) -> InvalidRequest:
    return InvalidRequest("E-NAME", f"{name!r} holds a character that names may not hold.")
