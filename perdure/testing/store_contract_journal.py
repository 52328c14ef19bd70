"""Appending and reading: order, atomicity, durability, and bytes that stay what they are."""

import asyncio
from typing import cast

from perdure.core import codec
from perdure.core.errors import PerdureError, StaleAppend
from perdure.core.events import Event, NoteRecorded
from perdure.core.journal import GENESIS, Record, aside, check, read as read_event, write
from perdure.ports.store import Batch, SessionRow
from perdure.testing.store_harness import Pen, StoreHarness, begin, chain, payloads, refused


class JournalContract:
    """What `append` and `read` promise."""

    async def test_a_new_session_begins_with_nothing(self, harness: StoreHarness) -> None:
        store = await harness.open()
        claim = await store.claim("ses_1")
        assert (claim.session, claim.seq, claim.hash) == ("ses_1", 0, GENESIS)
        assert claim.clean
        assert await store.read("ses_1") == []

    async def test_what_was_appended_is_read(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        batch = pen.batch(b'{"a":1}', b'{"b":2}')
        await store.append(batch)
        assert await store.read("ses_1") == list(batch.records)

    async def test_seq_is_dense_and_the_chain_holds(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        for size in (1, 3, 2):
            await store.append(pen.batch(*[b"x"] * size))
        end = GENESIS
        for seq, record in enumerate(await store.read("ses_1"), 1):
            check(record, end, seq)
            end = record.hash
        assert end == pen.hash

    async def test_read_pages(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=7)
        assert [r.seq for r in await store.read("ses_1", 0, 3)] == [1, 2, 3]
        assert [r.seq for r in await store.read("ses_1", 3, 3)] == [4, 5, 6]
        assert [r.seq for r in await store.read("ses_1", after=6)] == [7]
        assert await store.read("ses_1", after=7) == []

    async def test_an_unknown_session_has_no_records(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await store.read("ses_never") == []
        assert await store.read("") == []
        assert await store.read("\ud800") == []

    async def test_pipelined_appends_keep_their_order(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        waiting = [store.append(pen.batch(b"%d" % n)) for n in range(50)]
        await asyncio.gather(*waiting)
        assert await payloads(store) == [b"%d" % n for n in range(50)]

    async def test_pipelines_over_several_commits_keep_their_order(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        waiting = []
        for n in range(30):
            waiting.append(store.append(pen.batch(b"%d" % n)))
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        assert await payloads(store) == [b"%d" % n for n in range(30)]

    async def test_many_sessions_at_once(self, harness: StoreHarness) -> None:
        store = await harness.open()
        claims = await asyncio.gather(*(store.claim(f"ses_{n}") for n in range(500)))
        pens = [Pen(claim) for claim in claims]
        for _ in range(2):
            await asyncio.gather(*(store.append(pen.batch(pen.session.encode())) for pen in pens))
        for pen in pens:
            assert await payloads(store, pen.session) == [pen.session.encode()] * 2

    async def test_an_acknowledged_batch_survives_a_crash(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.append(pen.batch(b"last words"))
        await harness.kill(store)
        assert (await payloads(await harness.open()))[-1:] == [b"last words"]

    async def test_what_a_crash_leaves_of_a_pipeline_is_its_beginning(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        for n in range(20):
            store.append(pen.batch(b"%d.a" % n, b"%d.b" % n))
        await asyncio.sleep(0)
        await harness.kill(store)
        left = await payloads(await harness.open())
        whole = [text for n in range(20) for text in (b"%d.a" % n, b"%d.b" % n)]
        assert left == whole[: len(left)]
        assert len(left) % 2 == 0, "a batch was torn"

    async def test_it_is_there_after_closing(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store, events=3)
        await store.close()
        again = await harness.open()
        claim = await again.claim("ses_1")
        assert (claim.seq, claim.hash) == (3, pen.hash)
        assert len(await again.read("ses_1")) == 3

    async def test_closing_writes_what_waits(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        waiting = store.append(pen.batch(b"just in time"))
        await store.close()
        await waiting
        assert (await payloads(await harness.open()))[-1:] == [b"just in time"]

    async def test_a_stale_append_writes_nothing(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store, events=3)
        late = Batch("ses_1", pen.epoch, 2, chain([b"late"], 2))
        await refused(StaleAppend, store.append(late))
        early = Batch("ses_1", pen.epoch, 5, chain([b"early"], 5))
        await refused(StaleAppend, store.append(early))
        assert len(await store.read("ses_1")) == 3
        await store.append(pen.batch(b"next"))

    async def test_a_batch_with_a_gap_is_refused_whole(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        first, _, third = chain([b"2", b"3", b"4"], pen.seq, pen.hash)
        row = SessionRow(id="ses_1", title="gap")
        batch = Batch("ses_1", pen.epoch, pen.seq, [first, third], row=row)
        await refused(PerdureError, store.append(batch))
        assert [r.seq for r in await store.read("ses_1")] == [1]
        found = await store.session("ses_1")
        assert found is not None
        assert found.title == ""

    async def test_a_bad_batch_fails_alone(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pens = [await begin(store, f"ses_{n}") for n in range(5)]
        pens[2].seq += 1
        waiting = [store.append(pen.batch(b"go")) for pen in pens]
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(end, StaleAppend) for end in ends] == [n == 2 for n in range(5)]
        assert [len(await store.read(pen.session)) for pen in pens] == [2, 2, 1, 2, 2]

    async def test_what_follows_a_refused_batch_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        stale = store.append(Batch("ses_1", pen.epoch, 0, chain([b"no"])))
        pen.seq = 1
        good = store.append(pen.batch(b"2"))
        pen.seq += 1
        skipping = store.append(pen.batch(b"4"))
        await refused(StaleAppend, stale)
        await good
        await refused(StaleAppend, skipping)
        assert await payloads(store) == [b'{"n":1}', b"2"]

    async def test_a_batch_without_records_writes_its_row(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.append(pen.batch(row=SessionRow(id="ses_1", title="only a row")))
        found = await store.session("ses_1")
        assert found is not None
        assert found.title == "only a row"
        await store.append(pen.batch(b"2"))

    async def test_bytes_stay_what_they_are(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        odd = [
            b"",
            b"\0",
            b"a\0b",
            bytes(range(256)),
            b"\xff\xfe not utf-8",
            codec.encode({"text": "\0 and \ud800"}),
        ]
        await store.append(pen.batch(*odd))
        await harness.kill(store)
        assert await payloads(await harness.open()) == odd

    async def test_a_giant_payload_lies_aside(self, harness: StoreHarness) -> None:
        store = await harness.open()
        claim = await store.claim("ses_1")
        said = Event(1, "0" * 26, 1, 0, NoteRecorded("0123456789" * 1_000_000))
        record, blob = write(said, GENESIS)
        assert blob is not None
        digest = await store.blobs.put(blob)
        await store.append(Batch("ses_1", claim.epoch, 0, [record]))
        await harness.kill(store)
        again = await harness.open()
        found = (await again.read("ses_1"))[0]
        where = aside(found)
        assert where is not None
        assert where.blob == digest
        assert len(found.data) < 1000
        assert read_event(found, await again.blobs.get(digest)) == said

    async def test_later_changes_to_what_was_given_do_not_matter(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        data = bytearray(b"as it was")
        records = [record._replace(data=cast(bytes, data)) for record in pen.records(bytes(data))]
        keys: list[str] = []
        waiting = store.append(Batch("ses_1", pen.epoch, 0, records, keys))
        records.append(Record(2, "note.recorded", b"smuggled", bytes(32)))
        data[:] = b"different"
        await waiting
        assert await payloads(store) == [b"as it was"]

    async def test_later_changes_to_what_was_read_do_not_matter(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        pen = await begin(store, events=2)
        (await store.read("ses_1")).clear()
        assert len(await store.read("ses_1")) == 2
        await store.append(pen.batch(b"3"))
        before = await store.read("ses_1")
        await store.append(pen.batch(b"4"))
        assert len(before) == 3
