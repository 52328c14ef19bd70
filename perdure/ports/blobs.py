"""Large payloads, kept aside by the hash of their content."""

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol, runtime_checkable


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


class Shelved(NamedTuple):
    """A blob: when it was put last (wall clock, microseconds), and what it takes as stored."""

    digest: str
    put_us: int
    stored_bytes: int


@runtime_checkable
class Shelf(Protocol):
    """Blobs that can be listed and thrown away: what a collection of the unnamed needs.

    What is put again counts as put now, if it was put more than six hours ago. So whoever names a
    blob within half a day after it was put names one that no collection takes that spares what is
    younger than a day.
    """

    def shelved(self) -> AsyncIterator[Shelved]:
        """Yield every blob, in no order."""
        ...

    async def remove(self, digest: str, before_us: int) -> bool:
        """Remove a blob for good if it was last put before that moment; say whether it was there
        and is gone.
        """
        ...
