"""Large payloads, kept aside by the hash of their content."""

from typing import Protocol


class Blobs(Protocol):
    """A content-addressed store. What `put` returned can be read for ever by `get`."""

    async def put(self, data: bytes) -> str:
        """Make `data` durable and return its SHA-256 in hexadecimal. The same data is kept once.

        Raises `StoreFull` when there is no room; then nothing refers to it yet.
        """
        ...

    async def get(self, digest: str) -> bytes:
        """Return the data. Raises `CorruptJournal` when it is missing or does not match."""
        ...
