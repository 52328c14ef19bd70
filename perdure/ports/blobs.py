"""Large payloads, kept aside by the hash of their content."""

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable


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


@runtime_checkable
class Shelf(Protocol):
    """Blobs that can be listed and thrown away: what a collection of the unnamed needs.

    What is put again counts as put now, if it was put more than six hours ago. So whoever names a
    blob within half a day after it was put names one that no collection takes that spares what is
    younger than a day.
    """

    def names(self) -> AsyncIterator[tuple[str, int]]:
        """Yield every blob's digest, and when it was put last (wall clock, microseconds)."""
        ...

    async def remove(self, digest: str) -> None:
        """Remove a blob for good. One that is not there is no error."""
        ...
