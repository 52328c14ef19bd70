"""Stores of PostgreSQL that are wrong on purpose, each in one way that only several nodes notice.

The nodes of `perdure.testing.chaos` open them by name; the checker of histories, or a test of its
own, must catch every one.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from perdure.ports.store import Batch
from perdure.stores.postgres import statements
from perdure.stores.postgres.parts import Parts
from perdure.stores.postgres.store import PostgresStore

_NOW: Final = "clock_timestamp()"


class NoEpochCheck(PostgresStore):
    """Appends for whoever knows where the journal ends, be he its owner or not."""

    def __init__(self, parts: Parts, *others: Any) -> None:
        super().__init__(parts, *others)
        sql = statements.load()
        owner = 'AND s.owner = %(node)b::text COLLATE "C"'
        append = _without(_without(sql.append, owner), "AND s.epoch = u.epoch")
        _put(parts, sql._replace(append=append))


class LeaseOnNodesClock(PostgresStore):
    """Compares leases with the clock of whoever looks, which is wrong by `skew_s`."""

    def use_clock(self, skew_s: float) -> None:
        """Take this node's clock for the time. On one machine that is the database's, and wrong."""
        wrong = f"({_NOW} + interval '{skew_s} s')"
        sql = statements.load()
        changed = [text.replace(_NOW, wrong) for text in sql]
        assert tuple(changed) != sql, "no statement asks for the time any more"
        _put(self._parts, statements.Statements(*changed))
        self._parts.lease.renew_now()


class AcknowledgesBeforeCommit(PostgresStore):
    """Says that it is durable when it is on its way."""

    def append(self, batch: Batch) -> asyncio.Future[None]:
        """See `Store.append`."""
        super().append(batch).add_done_callback(_unheard)
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        told.set_result(None)
        return told


class NoPollingFloor(PostgresStore):
    """Looks only when it was notified."""

    async def changed(self, timeout_s: float) -> bool:
        """See `Store.changed`."""
        while True:
            self._heard.clear()
            seen = await self._read(lambda reader: reader.changes(self.node))
            if seen != (self._seen or []):
                self._seen = seen
                return True
            await self._heard.wait()


VARIANTS: Final[Mapping[str, type[PostgresStore]]] = {
    "no epoch check": NoEpochCheck,
    "lease on the node's clock": LeaseOnNodesClock,
    "acknowledges before commit": AcknowledgesBeforeCommit,
    "no polling floor": NoPollingFloor,
}


async def opened(variant: str, url: str, skew_s: float) -> PostgresStore:
    """Open the variant of that name, for a node whose clock is wrong by `skew_s`."""
    store = await VARIANTS[variant].open(url)
    if isinstance(store, LeaseOnNodesClock):
        store.use_clock(skew_s)
    return store


def _put(parts: Parts, sql: statements.Statements) -> None:
    """Give all parts other statements than those they were made with."""
    for part in (parts.writer, parts.lease, *parts.readers):
        vars(part)["_sql"] = sql


def _without(text: str, words: str) -> str:
    assert words in text, f"the statement has changed: {words} is not in it"
    return text.replace(words, "")


def _unheard(done: asyncio.Future[None]) -> None:
    """Whatever became of it, nobody is told."""
    if not done.cancelled():
        done.exception()
