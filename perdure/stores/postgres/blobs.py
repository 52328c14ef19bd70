"""Large payloads in a table: every node reaches them without anything else to run."""

from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from typing import Final

from perdure.ports.blobs import Shelved
from perdure.stores.blobs import (
    REFRESH_US,
    check_size,
    damaged,
    is_digest,
    missing,
    packed,
    unpacked,
)
from perdure.stores.postgres.tables import Tables
from perdure.stores.writes import Tables as AnyTables, Write

_PAGE: Final = 1000


class PutBlob(Write):
    """Keep a blob, unless it is there; what is there and old counts as put now."""

    def __init__(self, digest: str, data: bytes) -> None:
        super().__init__()
        self._digest, self._data = digest, data
        self.size = len(data)

    def run(self, tables: AnyTables) -> object:
        """See `Write.run`."""
        assert isinstance(tables, Tables)
        values = {"digest": self._digest, "data": self._data, "refresh_s": REFRESH_US / 1e6}
        tables.run(tables.sql.put_blob, values)
        return None


class DropBlob(Write):
    """Remove a blob that was last put before a moment; the outcome says whether it was there."""

    def __init__(self, digest: str, before_us: int) -> None:
        super().__init__()
        self._digest, self._before_us = digest, before_us

    def run(self, tables: AnyTables) -> object:
        """See `Write.run`."""
        assert isinstance(tables, Tables)
        values = {"digest": self._digest, "before_us": self._before_us}
        return tables.one(tables.sql.delete_blob, values) is not None


class TableBlobs:
    """Implements `Blobs` and `Shelf`."""

    def __init__(
        self,
        put: Callable[[str, bytes], Awaitable[object]],
        get: Callable[[str], Awaitable[bytes | None]],
        page: Callable[[str, int], Awaitable[list[Shelved]]],
        drop: Callable[[str, int], Awaitable[object]],
    ) -> None:
        self._put = put
        self._get = get
        self._page = page
        self._drop = drop

    async def put(self, data: bytes) -> str:
        """See `Blobs.put`. Raises `InvalidRequest` (E-BLOB-SIZE) for more than 1 GiB."""
        check_size(data)
        digest = sha256(data).hexdigest()
        await self._put(digest, packed(bytes(data)))
        return digest

    async def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        stored = await self._get(digest) if is_digest(digest) else None
        if stored is None:
            raise missing(digest)
        data = unpacked(stored, digest)
        if data is None:
            raise damaged(digest, "the table of blobs")
        return data

    async def shelved(self) -> AsyncIterator[Shelved]:
        """See `Shelf.shelved`."""
        after = ""
        while page := await self._page(after, _PAGE):
            for each in page:
                yield each
            after = page[-1].digest

    async def remove(self, digest: str, before_us: int) -> bool:
        """See `Shelf.remove`."""
        return bool(await self._drop(digest, before_us))
