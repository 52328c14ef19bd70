"""What nobody works on, and whether a claim still counts."""

from collections.abc import Sequence

from perdure.ports.store import Claim, SessionRow, Store
from perdure.testing.store_harness import Pen, StoreHarness


class AbandonedContract:
    """What `abandoned` and `holds` promise."""

    tells_owners = True  # set it to False for a store that cannot tell who is alive

    async def test_what_a_dead_owner_left_running_is_abandoned(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        await _write(first, "ses_1", "running")
        if self.tells_owners:
            assert await second.abandoned() == [], "its owner is alive"
            assert await first.abandoned() == []
        await harness.kill(first)
        assert await second.abandoned() == ["ses_1"]
        pen = Pen(await second.claim("ses_1"))
        if self.tells_owners:
            assert await second.abandoned() == [], "it has a new owner"
        await second.append(pen.batch(b"2", row=SessionRow(id="ses_1", status="idle")))
        await harness.kill(second)
        assert await (await harness.open()).abandoned() == [], "its turn is over"

    async def test_what_was_released_in_the_midst_is_abandoned(self, harness: StoreHarness) -> None:
        store = await harness.open()
        claim = await store.claim("ses_1")
        pen = Pen(claim)
        await store.append(pen.batch(b"1", row=SessionRow(id="ses_1", status="running")))
        await store.append(pen.batch(b"2"))
        await store.release(claim)
        assert await store.abandoned() == ["ses_1"], "a batch without a row changes nothing"

    async def test_letters_that_nobody_takes(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        for name in ("ses_bare", "ses_idle", "ses_silent", "ses_owned"):
            await _write(first, name, "" if name == "ses_bare" else "idle")
        await first.close()
        pen = Pen(await second.claim("ses_owned"))
        for name in ("ses_bare", "ses_idle", "ses_owned"):
            await second.post(name, "k", b"do")
        third = await harness.open()
        if self.tells_owners:
            assert await third.abandoned() == ["ses_bare", "ses_idle"]
        await harness.kill(second)
        assert await third.abandoned() == ["ses_bare", "ses_idle", "ses_owned"]
        pen = Pen(await third.claim("ses_owned"))
        await third.append(pen.batch(b"2", taken=["k"]))
        await third.close()
        assert await (await harness.open()).abandoned() == ["ses_bare", "ses_idle"]

    async def test_what_rests_waits_or_sleeps_is_not(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for status in ("idle", "waiting", "sleeping", "paused", "parked", "closed"):
            await _write(store, f"ses_{status}", status)
        await harness.kill(store)
        assert await (await harness.open()).abandoned() == []

    async def test_subagents_are_not(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await _write(store, "ses_1", "running")
        await _write(store, "ses_1.a", "running", parent="ses_1")
        await _write(store, "ses_1.b", "idle", parent="ses_1")
        await store.post("ses_1.b", "k", b"do")
        await harness.kill(store)
        assert await (await harness.open()).abandoned() == ["ses_1"]

    async def test_words_in_a_row_are_not_its_fields(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        row = SessionRow(id="ses_1", title='"status":"running"', last='{"status":"running"}')
        await store.append(pen.batch(b"1", row=row))
        pen = Pen(await store.claim("ses_2"))
        row = SessionRow(id="ses_2", status="running", title='"parent":"ses_1"')
        await store.append(pen.batch(b"1", row=row))
        await harness.kill(store)
        assert await (await harness.open()).abandoned() == ["ses_2"]

    async def test_they_come_by_name_and_no_more_than_asked_for(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        names = ("ses_c", "ses_a", "ses_d", "ses_b")
        for number, name in enumerate(names):
            await _write(store, name, "running" if number % 2 else "idle")
            await store.post(name, "k", b"do")
        await harness.kill(store)
        store = await harness.open()
        assert await store.abandoned() == sorted(names)
        assert await store.abandoned(3) == ["ses_a", "ses_b", "ses_c"]

    async def test_forks_and_the_deleted_are_not(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await _write(store, "ses_1", "running")
        await _write(store, "ses_2", "running")
        await store.fork("ses_1", 1, "ses_3")
        await store.delete_session("ses_1")
        await store.delete_session("ses_2")
        await harness.kill(store)
        assert await (await harness.open()).abandoned() == []

    async def test_a_claim_holds_until_its_connection_ends(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        claims = [await store.claim(f"ses_{n}") for n, store in enumerate((first, second))]
        assert _held((first, second), claims) == [True, True]
        await first.close()
        assert _held((first, second), claims) == [False, True]
        await harness.kill(second)
        assert _held((first, second), claims) == [False, False]

    async def test_a_newer_claim_of_the_same_connection_holds(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.claim("ses_1")
        assert store.holds(await store.claim("ses_1"))


def _held(stores: Sequence[Store], claims: Sequence[Claim]) -> list[bool]:
    return [store.holds(claim) for store, claim in zip(stores, claims, strict=True)]


async def _write(store: Store, name: str, status: str, parent: str = "") -> None:
    """Make a session with one event and, unless `status` is empty, a row."""
    pen = Pen(await store.claim(name))
    row = SessionRow(id=name, status=status, parent=parent) if status else None
    await store.append(pen.batch(b"1", row=row))
