"""The inbox: durable, in order, each key once, and emptied only together with the journal."""

import asyncio
from typing import cast

from perdure.core.errors import Conflict, NotFound, StaleAppend
from perdure.ports.store import Batch, Letter
from perdure.testing.store_harness import StoreHarness, begin, chain, refused


class InboxContract:
    """What `post`, `inbox`, `mailboxes` and `Batch.taken` promise."""

    async def test_letters_wait_in_order(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store)
        for n in (3, 1, 2):
            assert await store.post("ses_1", f"key {n}", b"body %d" % n)
        assert await store.inbox("ses_1") == [
            Letter("key 3", b"body 3"),
            Letter("key 1", b"body 1"),
            Letter("key 2", b"body 2"),
        ]

    async def test_anyone_may_post(self, harness: StoreHarness) -> None:
        owner, other = await harness.open(), await harness.open()
        await begin(owner)
        assert await other.post("ses_1", "k", b"hello")
        assert await owner.inbox("ses_1") == [Letter("k", b"hello")]

    async def test_nobody_posts_to_what_is_not_there(self, harness: StoreHarness) -> None:
        store = await harness.open()
        error = await refused(NotFound, store.post("ses_never", "k", b""))
        assert error.code == "E-SESSION-UNKNOWN"
        await store.claim("ses_empty")
        await refused(NotFound, store.post("ses_empty", "k", b""))
        await refused(NotFound, store.post("\ud800", "k", b""))
        assert await store.inbox("ses_never") == []

    async def test_a_key_counts_once(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store)
        await begin(store, "ses_2")
        assert await store.post("ses_1", "k", b"same")
        assert not await store.post("ses_1", "k", b"same")
        error = await refused(Conflict, store.post("ses_1", "k", b"other"))
        assert error.code == "E-KEY-REUSED"
        assert await store.post("ses_2", "k", b"a key belongs to its session")
        assert await store.inbox("ses_1") == [Letter("k", b"same")]

    async def test_a_key_counts_once_at_the_same_time(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        await begin(first)
        ends = await asyncio.gather(
            *(store.post("ses_1", "k", b"same") for store in (first, second) for _ in range(4))
        )
        assert ends.count(True) == 1
        assert len(await second.inbox("ses_1")) == 1

    async def test_a_key_is_remembered_when_its_letter_is_taken(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.post("ses_1", "k", b"same")
        await store.append(pen.batch(b"2", taken=["k"]))
        assert await store.inbox("ses_1") == []
        assert not await store.post("ses_1", "k", b"same")
        await refused(Conflict, store.post("ses_1", "k", b"other"))
        assert await store.inbox("ses_1") == []

    async def test_a_key_is_remembered_after_a_restart(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.post("ses_1", "taken", b"same")
        await store.post("ses_1", "waits", b"same")
        await store.append(pen.batch(b"2", taken=["taken"]))
        await store.close()
        again = await harness.open()
        assert await again.inbox("ses_1") == [Letter("waits", b"same")]
        for key in ("taken", "waits"):
            assert not await again.post("ses_1", key, b"same")
            await refused(Conflict, again.post("ses_1", key, b"other"))

    async def test_a_letter_survives_a_crash(self, harness: StoreHarness) -> None:
        owner, other = await harness.open(), await harness.open()
        await begin(owner)
        await other.post("ses_1", "k", b"do it")
        await harness.kill(other)
        await harness.kill(owner)
        assert await (await harness.open()).inbox("ses_1") == [Letter("k", b"do it")]

    async def test_taking_and_recording_are_one(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.post("ses_1", "a", b"1")
        await store.post("ses_1", "b", b"2")
        stale = Batch("ses_1", pen.epoch, 0, chain([b"no"]), taken=["a"])
        await refused(StaleAppend, store.append(stale))
        assert [letter.key for letter in await store.inbox("ses_1")] == ["a", "b"]
        await store.append(pen.batch(b"2", taken=["a"]))
        assert [letter.key for letter in await store.inbox("ses_1")] == ["b"]

    async def test_a_crash_does_not_part_a_letter_from_its_record(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        pen = await begin(store)
        for n in range(10):
            await store.post("ses_1", f"k{n}", b"")
        for n in range(10):
            store.append(pen.batch(b"took %d" % n, taken=[f"k{n}"]))
        await asyncio.sleep(0)
        await harness.kill(store)
        again = await harness.open()
        recorded = len(await again.read("ses_1")) - 1
        assert len(await again.inbox("ses_1")) == 10 - recorded

    async def test_taking_what_does_not_wait_is_no_error(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.append(pen.batch(b"2", taken=["never posted"]))
        assert await store.post("ses_1", "never posted", b"")

    async def test_mailboxes_are_those_with_letters(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await store.mailboxes() == []
        pen = await begin(store, "ses_1")
        await begin(store, "ses_2")
        await begin(store, "ses_3")
        await store.post("ses_1", "k", b"")
        await store.post("ses_3", "k", b"")
        await store.post("ses_3", "l", b"")
        assert sorted(await store.mailboxes()) == ["ses_1", "ses_3"]
        await store.append(pen.batch(b"2", taken=["k"]))
        assert await store.mailboxes() == ["ses_3"]

    async def test_keys_and_bodies_stay_what_they_are(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store)
        letters = [
            Letter("", b""),
            Letter("a\0b", b"\0"),
            Letter("\ud800", bytes(range(256))),
            Letter("ключ", b"\xff"),
        ]
        for key, body in letters:
            assert await store.post("ses_1", key, body)
            assert not await store.post("ses_1", key, body)
        await harness.kill(store)
        assert await (await harness.open()).inbox("ses_1") == letters

    async def test_later_changes_to_a_body_do_not_matter(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store)
        body = bytearray(b"as it was")
        posting = asyncio.ensure_future(store.post("ses_1", "k", cast(bytes, body)))
        await asyncio.sleep(0)
        body[:] = b"different"
        await posting
        assert await store.inbox("ses_1") == [Letter("k", b"as it was")]
        (await store.inbox("ses_1")).clear()
        assert len(await store.inbox("ses_1")) == 1
