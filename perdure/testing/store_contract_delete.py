"""Deleting a session: nothing of it is left but what a fork of it reads."""

from msgspec.structs import replace

from perdure.core.errors import LeaseLost, NotFound, SessionBusy, Unavailable
from perdure.ports.store import ErrorRow, SessionRow, Store
from perdure.testing.store_contract_fork import is_chained
from perdure.testing.store_harness import Pen, StoreHarness, begin, payloads, refused

ERROR = ErrorRow("f1", "ses_1", "E-TOOL-RAISED", "tool", "no such file", 2, 10, 10, turn=1)


class DeleteContract:
    """What `delete_session` promises."""

    async def test_nothing_is_left_of_a_deleted_session(self, harness: StoreHarness) -> None:
        first = await harness.open()
        await _full(first, "ses_1")
        await _full(first, "ses_2")
        await first.delete_session("ses_1")
        await harness.kill(first)
        store = await harness.open()
        await _is_gone(store, "ses_1")
        assert [row.id for row in await store.sessions()] == ["ses_2"]
        assert await store.mailboxes() == ["ses_2"]
        assert [row.session for row in await store.errors()] == ["ses_2"]
        assert await store.due(100) == ["ses_2"]
        assert len(await store.read("ses_2")) == 2
        assert await store.load_state("ses_2") == (2, b"state")

    async def test_deleting_what_is_not_there(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for name in ("ses_never", "", "\ud800", "a\0b"):
            await store.delete_session(name)
        await begin(store)
        await store.delete_session("ses_1")
        await store.delete_session("ses_1")
        await store.close()
        await refused(Unavailable, store.delete_session("ses_1"))

    async def test_a_living_owner_keeps_its_session(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        pen = await begin(first)
        await refused(SessionBusy, second.delete_session("ses_1"))
        await first.append(pen.batch(b"2"))
        await harness.kill(first)
        await second.delete_session("ses_1")
        await _is_gone(second, "ses_1")

    async def test_the_owner_has_lost_what_it_deletes(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.delete_session("ses_1")
        await refused(LeaseLost, store.append(pen.batch(b"2")))
        assert await store.read("ses_1") == []

    async def test_a_name_used_anew_is_another_session(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await _full(store, "ses_1")
        old = await store.claim("ses_1")
        await store.delete_session("ses_1")
        claim = await store.claim("ses_1")
        assert (claim.seq, claim.hash) == (0, bytes(32))
        assert claim.epoch > old.epoch, "what the old owner still writes must not fit"
        await refused(LeaseLost, store.append(Pen(old._replace(seq=0)).batch(b"late")))
        await store.append(Pen(claim).batch(b"new"))
        assert await payloads(store) == [b"new"]
        assert await store.inbox("ses_1") == []
        assert await store.post("ses_1", "k", b"another body"), "its keys are forgotten"
        assert await store.load_state("ses_1") is None
        assert await store.errors() == []

    async def test_what_comes_together_keeps_its_order(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        appending = store.append(pen.batch(b"2"))
        await store.delete_session("ses_1")
        await appending
        await _is_gone(store, "ses_1")

    async def test_a_fork_keeps_its_past(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=6)
        await store.save_state("ses_1", 2, b"two")
        await store.fork("ses_1", 3, "ses_2")
        past = await store.read("ses_2")
        await store.append(Pen(await store.claim("ses_2")).batch(b"4"))
        await store.delete_session("ses_1")
        await _is_gone(store, "ses_1")
        assert [row.id for row in await store.sessions()] == ["ses_2"]
        assert (await store.read("ses_2"))[:3] == past
        assert await store.load_state("ses_2") == (2, b"two")
        await is_chained(store, "ses_2")
        await store.fork("ses_2", 2, "ses_3")
        await store.append(Pen(await store.claim("ses_3")).batch(b"other"))
        await is_chained(store, "ses_3")

    async def test_a_fork_does_not_find_a_new_session_of_that_name(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await begin(store, events=3)
        await store.fork("ses_1", 2, "ses_2")
        past = await store.read("ses_2")
        await store.delete_session("ses_1")
        await store.append(Pen(await store.claim("ses_1")).batch(b"new"))
        assert await store.read("ses_2") == past
        assert await payloads(store) == [b"new"]
        await store.delete_session("ses_1")
        assert await store.read("ses_2") == past

    async def test_a_chain_of_forks_loses_its_middle(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, "ses_1", events=4)
        await store.fork("ses_1", 3, "ses_2")
        await store.append(Pen(await store.claim("ses_2")).batch(b"4", b"5"))
        await store.fork("ses_2", 4, "ses_3")
        await store.fork("ses_2", 5, "ses_4")
        whole = {name: await store.read(name) for name in ("ses_3", "ses_4")}
        await store.delete_session("ses_2")
        await store.delete_session("ses_1")
        for name, records in whole.items():
            assert await store.read(name) == records
        await store.delete_session("ses_4")
        await _is_gone(store, "ses_4")
        assert await store.read("ses_3") == whole["ses_3"]
        assert (await store.claim("ses_3")).seq == 4
        await store.delete_session("ses_3")
        assert await store.sessions() == []


async def _full(store: Store, name: str) -> None:
    """Make a session that has everything a session can have."""
    pen = await begin(store, name)
    row = SessionRow(id=name, updated_at_us=5, wake_at_us=7)
    error = replace(ERROR, session=name)
    await store.append(pen.batch(b"2", row=row)._replace(errors=[error]))
    await store.save_state(name, 2, b"state")
    await store.post(name, "k", b"body")


async def _is_gone(store: Store, name: str) -> None:
    assert await store.read(name) == []
    assert await store.session(name) is None
    assert await store.inbox(name) == []
    assert await store.load_state(name) is None
    assert name not in await store.mailboxes()
    assert name not in [row.session for row in await store.errors()]
    assert name not in await store.due(1 << 60)
    await refused(NotFound, store.post(name, "k", b"body"))
    await refused(NotFound, store.fork(name, 1, "ses_of_nothing"))
