"""What doors keep beside the sessions: resources of one kind in one project, as documents."""

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from perdure.core.codec import Reader, encode
from perdure.core.errors import Conflict, NotFound
from perdure.ports.store import Store

T = TypeVar("T")

_PAGE = 200


class Documents(Generic[T]):
    """Documents of one kind, read as `type_`. Their names sort in the order they were made when
    they are ids of `Ids`.
    """

    def __init__(self, store: Store, kind: str, type_: type[T]) -> None:
        self._store = store
        self._kind = kind
        self._reader = Reader[T](type_)

    async def find(self, name: str) -> T | None:
        """Return the document of that name, or None."""
        doc = await self._store.doc(self._kind, name)
        return None if doc is None else self._reader.read(doc.data)

    async def get(self, name: str) -> T:
        """Return the document of that name. Raises `NotFound` (E-MISSING)."""
        found = await self.find(name)
        if found is None:
            raise NotFound("E-MISSING", f"There is no {self._kind.rpartition('.')[2]} {name}.")
        return found

    async def versioned(self, name: str) -> tuple[T, int]:
        """Return the document with its version, for `put(expect=…)`. Raises `NotFound`."""
        doc = await self._store.doc(self._kind, name)
        if doc is None:
            raise NotFound("E-MISSING", f"There is no {self._kind.rpartition('.')[2]} {name}.")
        return self._reader.read(doc.data), doc.version

    async def put(self, name: str, value: T, *, expect: int | None = None) -> int:
        """Write it, durably; return its version. See `Store.put_doc`."""
        return await self._store.put_doc(self._kind, name, encode(value), expect=expect)

    async def add(self, name: str, value: T) -> bool:
        """Write it unless there is one of that name; False when there is."""
        try:
            await self.put(name, value, expect=0)
        except Conflict:
            return False
        return True

    async def delete(self, name: str) -> None:
        """Delete it. Raises `NotFound` when there is none."""
        await self.get(name)
        await self._store.delete_doc(self._kind, name)

    async def page(self, *, after: str = "", limit: int = 20, prefix: str = "") -> list[T]:
        """Return at most `limit` whose names sort behind `after`, by name."""
        docs = await self._store.docs(self._kind, prefix=prefix, after=after, limit=limit)
        return [self._reader.read(doc.data) for doc in docs]

    async def each(self, *, prefix: str = "") -> AsyncIterator[tuple[str, T]]:
        """Yield all, by name, page by page."""
        after = ""
        while True:
            docs = await self._store.docs(self._kind, prefix=prefix, after=after, limit=_PAGE)
            for doc in docs:
                yield doc.name, self._reader.read(doc.data)
            if len(docs) < _PAGE:
                return
            after = docs[-1].name
