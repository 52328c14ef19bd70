"""Ownership: at most one owner, epochs that grow, and nothing written under an old one."""

import asyncio

from perdure.core.errors import InvalidRequest, LeaseLost, SessionBusy, Unavailable
from perdure.ports.store import Batch, Claim
from perdure.testing.store_harness import Pen, StoreHarness, begin, chain, payloads, refused


class OwnerContract:
    """What `claim`, `release` and `close` promise."""

    async def test_a_live_owner_keeps_its_session(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        pen = await begin(first)
        await refused(SessionBusy, second.claim("ses_1"))
        await first.append(pen.batch(b"still mine"))

    async def test_claiming_again_gives_a_new_epoch(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        claim = await store.claim("ses_1")
        assert claim.epoch > pen.epoch
        assert (claim.seq, claim.hash, claim.clean) == (pen.seq, pen.hash, True)
        await refused(LeaseLost, store.append(pen.batch(b"old epoch")))
        await store.append(Pen(claim).batch(b"new epoch"))

    async def test_a_released_session_is_free_and_clean(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        claim = await first.claim("ses_1")
        pen = Pen(claim)
        await first.append(pen.batch(b"1"))
        await first.release(claim)
        after = await second.claim("ses_1")
        assert after.epoch > claim.epoch
        assert (after.seq, after.hash, after.clean) == (1, pen.hash, True)

    async def test_an_old_owner_cannot_write(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        claim = await first.claim("ses_1")
        await first.release(claim)
        await refused(LeaseLost, first.append(Pen(claim).batch(b"released")))
        newer = Pen(await second.claim("ses_1"))
        await refused(LeaseLost, first.append(Pen(claim).batch(b"taken over")))
        stolen = Batch("ses_1", newer.epoch, 0, chain([b"guessed the epoch"]))
        await refused(LeaseLost, first.append(stolen))
        await second.append(newer.batch(b"mine"))
        assert await payloads(second) == [b"mine"]

    async def test_only_owners_write(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await refused(LeaseLost, store.append(Batch("ses_1", 1, 0, chain([b"1"]))))
        await refused(LeaseLost, store.append(Batch("ses_1", 0, 0, chain([b"1"]))))
        assert await store.session("ses_1") is None

    async def test_a_dead_owner_is_noticed(self, harness: StoreHarness) -> None:
        first = await harness.open()
        pen = await begin(first, events=2)
        await harness.kill(first)
        second = await harness.open()
        claim = await second.claim("ses_1")
        assert claim.epoch > pen.epoch
        assert (claim.seq, claim.hash, claim.clean) == (2, pen.hash, False)
        again = await second.claim("ses_1")
        assert again.clean, "this time the owner is alive"

    async def test_the_dead_do_not_block_the_living(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        await begin(first)
        await refused(SessionBusy, second.claim("ses_1"))
        await harness.kill(first)
        assert not (await second.claim("ses_1")).clean

    async def test_closing_releases(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        await begin(first)
        await first.close()
        assert (await second.claim("ses_1")).clean

    async def test_a_closed_store_says_so(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.close()
        await store.close()
        await refused(Unavailable, store.append(pen.batch(b"too late")))
        await refused(Unavailable, store.claim("ses_1"))
        await refused(Unavailable, store.post("ses_1", "k", b""))
        await refused(Unavailable, store.read("ses_1"))
        await refused(Unavailable, store.sessions())

    async def test_a_claim_survives_a_crash(self, harness: StoreHarness) -> None:
        first = await harness.open()
        epoch = (await first.claim("ses_1")).epoch
        await harness.kill(first)
        claim = await (await harness.open()).claim("ses_1")
        assert claim.epoch > epoch
        assert not claim.clean

    async def test_one_of_two_rivals_wins(self, harness: StoreHarness) -> None:
        stores = [await harness.open() for _ in range(4)]
        ends = await asyncio.gather(
            *(store.claim("ses_1") for store in stores), return_exceptions=True
        )
        assert sorted(isinstance(end, Claim) for end in ends) == [False, False, False, True]
        assert all(isinstance(end, Claim | SessionBusy) for end in ends)

    async def test_releasing_what_is_not_owned_changes_nothing(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        old = await first.claim("ses_1")
        claim = await first.claim("ses_1")
        await first.release(old)
        await second.release(claim)
        await second.release(Claim("ses_never", 1, 0, bytes(32), True))
        await refused(SessionBusy, second.claim("ses_1"))
        await first.release(claim)
        await first.release(claim)
        await second.claim("ses_1")

    async def test_a_claim_knows_what_landed_before_it(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        before = [store.append(pen.batch(b"before")) for _ in range(3)]
        claiming = asyncio.ensure_future(store.claim("ses_1"))
        await asyncio.sleep(0)
        after = [store.append(pen.batch(b"after")) for _ in range(3)]
        claim = await claiming
        ends = await asyncio.gather(*before, *after, return_exceptions=True)
        assert claim.seq == 1 + ends.count(None)
        assert all(end is None or isinstance(end, LeaseLost) for end in ends)
        assert ends[-1] is not None, "written under an epoch that was over"
        assert len(await store.read("ses_1")) == claim.seq

    async def test_an_append_queued_behind_a_release_is_refused(
        self, harness: StoreHarness
    ) -> None:
        first, second = await harness.open(), await harness.open()
        claim = await first.claim("ses_1")
        releasing = asyncio.ensure_future(first.release(claim))
        await asyncio.sleep(0)
        late = first.append(Pen(claim).batch(b"late"))
        await releasing
        await refused(LeaseLost, late)
        assert (await second.claim("ses_1")).seq == 0

    async def test_names_that_nobody_can_write_down(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for name in ("", "\ud800", "a\0b"):
            await refused(InvalidRequest, store.claim(name))
