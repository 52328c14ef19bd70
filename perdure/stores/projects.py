"""One store, parted into projects that cannot see each other.

A project's names are prefixed where they enter the store and bared where they leave it. Nobody can
name another project's session, because every name that comes in gets the own prefix: a foreign id
is a missing one by construction, in every method, for journals, letters, documents and lists alike.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Sequence
from typing import Final

from msgspec.structs import replace

from perdure.core.errors import InvalidRequest
from perdure.core.journal import Record
from perdure.ports.blobs import Blobs
from perdure.ports.store import Batch, Claim, Doc, ErrorRow, Letter, SessionRow, Store

_PART: Final = "\x1f"  # the unit separator: no name of the default project may hold it
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

DEFAULT: Final = "default"


class ProjectStores:
    """All projects of one store. The project `default` has the names as they are."""

    def __init__(self, base: Store) -> None:
        self.base = base
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
            self._projects[project] = ProjectStore(self, prefix)
        return self._projects[project]

    def parted(self, name: str) -> tuple[str, str]:
        """Return the project that a name of the store beneath belongs to, and its name there."""
        project, part, bare = name.partition(_PART)
        return (project, bare) if part else (DEFAULT, name)

    def watch(self) -> None:
        """See to it that somebody listens for what other processes change."""
        if self._watcher is None:
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
            if await self.base.changed(30.0):
                for project in self._projects.values():
                    project.poke()


class ProjectStore:
    """One project's store. Implements the `Store` port; closing it leaves the others open."""

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
        claim = await self._base.claim(self._in(session))
        return claim._replace(session=session)

    async def release(self, claim: Claim) -> None:
        """See `Store.release`."""
        await self._base.release(claim._replace(session=self._in(claim.session)))

    def append(self, batch: Batch) -> Awaitable[None]:
        """See `Store.append`."""
        row = None if batch.row is None else self._row_in(batch.row)
        errors = [replace(error, session=self._in(error.session)) for error in batch.errors]
        name = self._in(batch.session)
        return self._base.append(batch._replace(session=name, row=row, errors=errors))

    async def fork(self, source: str, at: int, session: str) -> None:
        """See `Store.fork`."""
        await self._base.fork(self._in(source), at, self._in(session))

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """See `Store.read`."""
        return await self._base.read(self._in(session), after, limit)

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """See `Store.post`."""
        return await self._base.post(self._in(session), key, body)

    async def inbox(self, session: str) -> list[Letter]:
        """See `Store.inbox`."""
        return await self._base.inbox(self._in(session))

    async def mailboxes(self) -> list[str]:
        """See `Store.mailboxes`."""
        return self._bared(await self._base.mailboxes())

    async def due(self, now_us: int, limit: int = 100) -> list[str]:
        """See `Store.due`."""
        found: list[str] = []
        most = limit
        while True:
            rows = await self._base.due(now_us, most)
            found = self._bared(rows)
            if len(found) >= limit or len(rows) < most:
                return found[:limit]
            most *= 4

    async def sessions(self) -> list[SessionRow]:
        """See `Store.sessions`."""
        return [self._row_out(r) for r in await self._base.sessions() if self._is_ours(r.id)]

    async def session(self, session: str) -> SessionRow | None:
        """See `Store.session`."""
        row = await self._base.session(self._in(session))
        return None if row is None else self._row_out(row)

    async def errors(self) -> list[ErrorRow]:
        """See `Store.errors`."""
        rows = await self._base.errors()
        return [replace(r, session=self._out(r.session)) for r in rows if self._is_ours(r.session)]

    async def save_state(self, session: str, seq: int, data: bytes) -> None:
        """See `Store.save_state`."""
        await self._base.save_state(self._in(session), seq, data)

    async def load_state(self, session: str) -> tuple[int, bytes] | None:
        """See `Store.load_state`."""
        return await self._base.load_state(self._in(session))

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        """See `Store.put_doc`."""
        return await self._base.put_doc(kind, self._in(name), data, expect=expect)

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        """See `Store.docs`."""
        behind = self._in(after) if after else ""
        found: list[Doc] = []
        while True:
            page = await self._base.docs(kind, prefix=self._in(prefix), after=behind, limit=limit)
            found += [d._replace(name=self._out(d.name)) for d in page if self._is_ours(d.name)]
            if limit is None or len(page) < limit or len(found) >= limit:
                return found[:limit]
            behind = page[-1].name  # the default project meets the names of others, and skips them

    async def doc(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        found = await self._base.doc(kind, self._in(name))
        return None if found is None else found._replace(name=name)

    async def delete_doc(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`."""
        await self._base.delete_doc(kind, self._in(name))

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

    def _in(self, name: str) -> str:
        if _PART in name:
            raise InvalidRequest("E-NAME", f"{name!r} holds a character that names may not hold.")
        return self._prefix + name

    def _out(self, name: str) -> str:
        return name.removeprefix(self._prefix)

    def _is_ours(self, name: str) -> bool:
        return name.startswith(self._prefix) and _PART not in name[len(self._prefix) :]

    def _bared(self, names: Sequence[str]) -> list[str]:
        return [self._out(name) for name in names if self._is_ours(name)]

    def _row_in(self, row: SessionRow) -> SessionRow:
        parent = self._in(row.parent) if row.parent else ""
        return replace(row, id=self._in(row.id), parent=parent)

    def _row_out(self, row: SessionRow) -> SessionRow:
        parent = self._out(row.parent) if row.parent else ""
        return replace(row, id=self._out(row.id), parent=parent)
