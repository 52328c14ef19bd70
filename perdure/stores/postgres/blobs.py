"""Large payloads in a table: every node reaches them without anything else to run."""

from collections.abc import Awaitable, Callable
from hashlib import sha256

from perdure.stores.blobs import check_size, damaged, is_digest, missing, packed, unpacked
from perdure.stores.postgres.tables import Tables
from perdure.stores.writes import Tables as AnyTables, Write


class PutBlob(Write):
    """Keep a blob, unless it is there."""

    def __init__(self, digest: str, data: bytes) -> None:
        super().__init__()
        self._digest, self._data = digest, data

    def run(self, tables: AnyTables) -> object:
        """See `Write.run`."""
        assert isinstance(tables, Tables)
        tables.run(tables.sql.put_blob, {"digest": self._digest, "data": self._data})
        return None


class TableBlobs:
    """Implements `Blobs`."""

    def __init__(
        self,
        put: Callable[[str, bytes], Awaitable[object]],
        get: Callable[[str], Awaitable[bytes | None]],
    ) -> None:
        self._put = put
        self._get = get

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
