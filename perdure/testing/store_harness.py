"""What the store's contract suite needs: several connections to the same data, and a way to die."""

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypeVar

from perdure.core.errors import PerdureError
from perdure.core.journal import GENESIS, Record, link
from perdure.ports.store import Batch, Claim, SessionRow, Store

E = TypeVar("E", bound=PerdureError)


class StoreHarness(Protocol):
    """Written once per store. `open` gives a new connection, as another process would have it."""

    async def open(self) -> Store:
        """Connect once more to the same data; the first call finds none."""
        ...

    async def kill(self, store: Store) -> None:
        """End that connection as SIGKILL ends a process: at once, and nothing is given up."""
        ...


class Pen:
    """Writes a session's journal: each batch begins where the one before it ends."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.session = claim.session
        self.epoch = claim.epoch
        self.seq = claim.seq
        self.hash = claim.hash

    def records(self, *payloads: bytes) -> list[Record]:
        """Make the next records, one for each payload."""
        made = chain(payloads, self.seq, self.hash)
        self.seq, self.hash = made[-1].seq, made[-1].hash
        return made

    def batch(
        self, *payloads: bytes, taken: Sequence[str] = (), row: SessionRow | None = None
    ) -> Batch:
        """Make the next batch."""
        expected_seq = self.seq
        records = self.records(*payloads) if payloads else []
        return Batch(self.session, self.epoch, expected_seq, records, taken, row)


def chain(payloads: Sequence[bytes], seq: int = 0, end: bytes = GENESIS) -> list[Record]:
    """Make records that follow `seq` and `end`."""
    made = []
    for data in payloads:
        seq, end = seq + 1, link(end, data)
        made.append(Record(seq, "note.recorded", data, end))
    return made


async def begin(store: Store, session: str = "ses_1", events: int = 1) -> Pen:
    """Claim a session and write its first events."""
    pen = Pen(await store.claim(session))
    if events:
        await store.append(pen.batch(*(b'{"n":%d}' % n for n in range(1, events + 1))))
    return pen


async def refused(kind: type[E], awaitable: Awaitable[Any]) -> E:
    """Return the error that `awaitable` ends with. Fails when it ends well, or otherwise."""
    try:
        await awaitable
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, and nothing was raised")


async def payloads(store: Store, session: str = "ses_1") -> list[bytes]:
    """Return what a session's records hold."""
    return [record.data for record in await store.read(session)]
