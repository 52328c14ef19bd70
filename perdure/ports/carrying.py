"""Carrying everything that a store keeps into another one: a move, a backup, a restore.

What `perdure.ports.store.Store` shows is what a running engine needs. Here is the rest of it: keys
of letters that were taken long ago, where a fork's events lie, the versions of deleted documents.
`perdure.testing.store_contract_carry` holds the tests of this part.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from perdure.ports.store import ErrorRow, SessionRow


class Posted(NamedTuple):
    """A letter that was posted: the SHA-256 of its body; `body` is None once it was taken."""

    key: str
    digest: bytes
    body: bytes | None


class Stretch(NamedTuple):
    """A part of a session's events, up to `until`: it lies in the session `holder`.

    The holder that was deleted has a name that begins with NUL: the same one for all forks that
    still read it, as long as one of them does.
    """

    holder: str
    until: int


class Kept(NamedTuple):
    """A session as it was at one moment, without its events: those are what `Store.read` gives up
    to `seq`, and the hash of the last of them is `hash`.

    `row` is None when it never had one. `letters` are in the order they were posted. `past` says
    where the events lie, the first ones first; the last stretch is the session's own.
    """

    session: str
    seq: int
    hash: bytes
    row: SessionRow | None
    letters: tuple[Posted, ...]
    errors: tuple[ErrorRow, ...]
    past: tuple[Stretch, ...]


class KeptDoc(NamedTuple):
    """A document; `data` is None for one that was deleted: its version is not used again."""

    kind: str
    name: str
    version: int
    data: bytes | None


@runtime_checkable
class Carriable(Protocol):
    """A store whose content can be carried to another one, and that can take in another one's."""

    async def kept(self, session: str) -> Kept | None:
        """Return what is kept of a session beside its events, all of it as at one moment; None for
        one without events of its own.
        """
        ...

    async def keep_letters(self, session: str, letters: Sequence[Posted]) -> None:
        """Enter another store's letters, in this order and durably: those that were taken as taken,
        so that their keys count once here, too. A key that is there stays as it is.

        Raises `NotFound` (E-SESSION-UNKNOWN) for a session without events of its own.
        """
        ...

    async def kept_docs(
        self, after: tuple[str, str] | None = None, limit: int = 500
    ) -> list[KeptDoc]:
        """Return at most `limit` documents of all kinds, the deleted too, by kind and name: those
        behind `after`, which is such a pair.
        """
        ...

    async def keep_doc(self, doc: KeptDoc) -> None:
        """Enter another store's document with its version, durably. Nothing happens where the same
        version is there, deleted or not, or a higher one; but what was deleted elsewhere at the
        version that is here is deleted here.
        """
        ...

    async def neighbours(self) -> list[str]:
        """Return the names of other living processes that have the store open."""
        ...
