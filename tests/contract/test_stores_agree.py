"""The SQLite store against the reference: the same random calls must have the same answers."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from random import Random

import pytest

from perdure.core.errors import PerdureError
from perdure.core.journal import Record, link
from perdure.ports.store import Batch, Claim, ErrorRow, SessionRow, Store
from perdure.stores.memory import MemoryStore
from perdure.stores.offload import Inline
from perdure.testing.store_harness import StoreHarness
from tests.contract.stores import MemoryHarness, SqliteHarness

SESSIONS = ("ses_1", "ses_2", "ses_3", "ses_4")
KEYS = ("k1", "k2", "k3", "k4")


class Caller:
    """Calls two connections as a seed says, and notes every answer."""

    def __init__(self, seed: int, harness: StoreHarness) -> None:
        self._chance = Random(seed)
        self._harness = harness
        self._stores: list[Store] = []
        self._claims: list[Claim] = []
        self.answers: list[object] = []

    async def run(self, calls: int) -> None:
        self._stores = [await self._harness.open() for _ in range(2)]
        for _ in range(calls):
            at = self._chance.randrange(2)
            verbs = (
                self.claim, self.append, self.fork, self.post, self.write_doc, self.look, self.end,
            )  # fmt: skip
            weights = (4, 16, 2, 6, 3, 4, 1)
            verb = self._chance.choices(verbs, weights)[0]
            self.answers.append((verb.__name__, at, await answer(verb(at))))

    async def claim(self, at: int) -> object:
        claim = await self._stores[at].claim(self._chance.choice(SESSIONS))
        self._claims.append(claim)
        return claim

    async def append(self, at: int) -> object:
        if not self._claims:
            return None
        claim = self._chance.choice(self._claims[-4:])
        batches = [self.batch(claim) for _ in range(self._chance.randint(1, 3))]
        waiting = [answer(self._stores[at].append(batch)) for batch in batches]
        return await asyncio.gather(*waiting)

    def batch(self, claim: Claim) -> Batch:
        """Make a batch that begins where the journal probably ends."""
        seq = max(0, claim.seq + self._chance.choice((0, 0, 0, 0, 1, 2, 3, -1)))
        end, records = claim.hash, []
        for number in range(seq + 1, seq + self._chance.randint(1, 4)):
            data = self._chance.randbytes(self._chance.choice((0, 3, 300)))
            end = link(end, data)
            skip = self._chance.random() < 0.05
            records.append(Record(number + skip, "note.recorded", data, end))
        now, wake = self._chance.randrange(50), self._chance.choice((0, 10, 20))
        row = SessionRow(id=claim.session, updated_at_us=now, wake_at_us=wake)
        return Batch(
            claim.session,
            claim.epoch,
            seq,
            records,
            self._chance.sample(KEYS, self._chance.randrange(2)),
            self._chance.choice((None, row)),
            [self.error(claim.session, record) for record in records[: self._chance.randrange(3)]],
        )

    def error(self, session: str, record: Record) -> ErrorRow:
        now, turn = self._chance.randrange(50), self._chance.randrange(3)
        cause, stopped = self._chance.choice(KEYS), self._chance.random() < 0.5
        return ErrorRow(
            cause, session, cause, "tool", "", record.seq, now, now, turn=turn, stopped=stopped
        )

    async def fork(self, at: int) -> object:
        source, name = self._chance.choice(SESSIONS), self._chance.choice(SESSIONS)
        await self._stores[at].fork(source, self._chance.randrange(8), name)
        return None

    async def post(self, at: int) -> object:
        session, key = self._chance.choice(SESSIONS), self._chance.choice(KEYS)
        return await self._stores[at].post(session, key, self._chance.choice((b"", b"1")))

    async def write_doc(self, at: int) -> object:
        store, name = self._stores[at], self._chance.choice(KEYS)
        if self._chance.random() < 0.2:
            await store.delete_doc("rule", name)
        expect = self._chance.choice((None, 0, 1, 2))
        return await store.put_doc("rule", name, self._chance.randbytes(3), expect=expect)

    async def look(self, at: int) -> object:
        store, session = self._stores[at], self._chance.choice(SESSIONS)
        seq = self._chance.randrange(6)
        await store.save_state(session, seq, b"%d" % seq)
        return [
            await store.read(session, seq, 3),
            await store.inbox(session),
            sorted(await store.mailboxes()),
            await store.sessions(),
            await store.due(self._chance.choice((9, 10, 20))),
            await store.session(session),
            await store.load_state(session),
            await store.docs("rule"),
            await store.errors(),
        ]

    async def end(self, at: int) -> object:
        store = self._stores[at]
        if self._chance.random() < 0.5:
            await store.close()
        else:
            await self._harness.kill(store)
        self._stores[at] = await self._harness.open()
        return None


async def answer(call: Awaitable[object]) -> object:
    """What a call returns, or how it is refused."""
    try:
        return await call
    except PerdureError as error:
        return type(error).__name__, error.code


@pytest.mark.parametrize("seed", range(40))
async def test_both_stores_give_the_same_answers(seed: int, tmp_path: Path) -> None:
    reference = MemoryHarness(MemoryStore)
    tested = SqliteHarness(tmp_path / "perdure.db", Inline())
    callers = [Caller(seed, reference), Caller(seed, tested)]
    for caller in callers:
        await caller.run(120)
    for mine, theirs in zip(callers[0].answers, callers[1].answers, strict=True):
        assert mine == theirs
    await reference.close()
    await tested.close()


async def test_the_calls_reach_the_interesting_corners(tmp_path: Path) -> None:
    seen: set[str] = set()
    for seed in range(40):
        caller = Caller(seed, MemoryHarness())
        await caller.run(120)
        seen |= {code for code in CODES if code in repr(caller.answers)}
    assert seen == CODES


CODES = frozenset(
    [
        "E-APPEND-STALE",
        "E-JOURNAL-GAP",
        "E-DOC-CHANGED",
        "E-EVENT-UNKNOWN",
        "E-KEY-REUSED",
        "E-LEASE-LOST",
        "E-SESSION-BUSY",
        "E-SESSION-EXISTS",
        "E-SESSION-UNKNOWN",
        "clean=False",
    ]
)
