"""Large payloads by the hash of their content: in memory."""

from hashlib import sha256

from perdure.core.errors import CorruptJournal


class MemoryBlobs:
    """Blobs that live as long as their `MemoryDisk`."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        """See `Blobs.put`."""
        digest = sha256(data).hexdigest()
        self._data.setdefault(digest, bytes(data))
        return digest

    async def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        found = self._data.get(digest)
        if found is None:
            raise missing(digest)
        return found


def missing(digest: str) -> CorruptJournal:
    """Nothing has this name."""
    return CorruptJournal(
        "E-BLOB-MISSING",
        f"The payload {digest} is not in the store.",
        "Restore it from a backup: the directory of blobs belongs to the database.",
    )
