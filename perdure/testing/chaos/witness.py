"""A store that writes down what it is asked and what it answers, beside a real one."""

from collections.abc import Awaitable
from typing import Any, cast

from perdure.ports.store import Batch, Claim, Store
from perdure.testing.chaos import history as h


class _Watched:
    """Passes everything on; see `watched`."""

    def __init__(self, store: Store, notes: h.Notes, node: str) -> None:
        self._store = store
        self._notes = notes
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def claim(self, session: str) -> Claim:
        """Claim, and write down what was answered."""
        claim = await self._store.claim(session)
        self._notes.write(
            h.Claimed(self._node, session, claim.epoch, claim.seq, claim.clean, h.now_ns())
        )
        return claim

    def append(self, batch: Batch) -> Awaitable[None]:
        """Append; what is offered is written down before, what is durable after."""
        if not batch.records:
            return self._store.append(batch)
        hashes = tuple(h.shortened(record.hash) for record in batch.records)
        first = batch.expected_seq + 1
        said = (self._node, batch.session, batch.epoch, first, hashes)
        self._notes.write(h.Offered(*said, h.now_ns()))
        return self._told(self._store.append(batch), said)

    async def _told(
        self, answer: Awaitable[None], said: tuple[str, str, int, int, tuple[str, ...]]
    ) -> None:
        await answer
        self._notes.write(h.Acknowledged(*said, h.now_ns()))


def watched(store: Store, notes: h.Notes, node: str) -> Store:
    """Return `store`, with its claims and appends written into `notes`."""
    return cast(Store, _Watched(store, notes, node))
