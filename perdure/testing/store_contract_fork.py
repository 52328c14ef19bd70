"""Forks: a session that begins with another's past, shares it, and never touches it."""

import asyncio

from perdure.core.errors import Conflict, InvalidRequest, LeaseLost, NotFound, SessionBusy
from perdure.core.journal import check
from perdure.ports.store import SessionRow, Store
from perdure.testing.store_harness import Pen, StoreHarness, begin, payloads, refused


class ForkContract:
    """What `fork` promises."""

    async def test_a_fork_begins_where_it_was_cut(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=5)
        await store.fork("ses_1", 3, "ses_2")
        past = await store.read("ses_1")
        claim = await store.claim("ses_2")
        assert (claim.seq, claim.hash, claim.clean) == (3, past[2].hash, True)
        assert await store.read("ses_2") == past[:3]
        await store.append(Pen(claim).batch(b"other"))
        assert [r.seq for r in await store.read("ses_2")] == [1, 2, 3, 4]
        await is_chained(store, "ses_2")

    async def test_a_fork_and_its_origin_go_their_own_ways(self, harness: StoreHarness) -> None:
        store = await harness.open()
        origin = await begin(store, events=2)
        await store.fork("ses_1", 2, "ses_2")
        fork = Pen(await store.claim("ses_2"))
        await asyncio.gather(
            store.append(origin.batch(b"here", b"here too")), store.append(fork.batch(b"there"))
        )
        assert (await payloads(store))[2:] == [b"here", b"here too"]
        assert (await payloads(store, "ses_2"))[2:] == [b"there"]
        for session in ("ses_1", "ses_2"):
            await is_chained(store, session)

    async def test_a_fork_is_durable(self, harness: StoreHarness) -> None:
        first = await harness.open()
        pen = await begin(first, events=4)
        await first.fork("ses_1", 2, "ses_2")
        await harness.kill(first)
        second = await harness.open()
        claim = await second.claim("ses_2")
        assert claim.seq == 2
        assert claim.hash == (await second.read("ses_1"))[1].hash != pen.hash
        assert len(await second.read("ses_2")) == 2

    async def test_what_was_asked_for_before_is_forked(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        appending = store.append(pen.batch(b"2", b"3"))
        await store.fork("ses_1", 3, "ses_2")
        await appending
        assert await payloads(store, "ses_2") == [b'{"n":1}', b"2", b"3"]

    async def test_forks_of_forks(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=4)
        for number in range(2, 6):
            before, name = f"ses_{number - 1}", f"ses_{number}"
            await store.fork(before, number + 2, name)
            pen = Pen(await store.claim(name))
            await store.append(pen.batch(*(b"%d.%d" % (number, n) for n in range(3))))
            await is_chained(store, name)
        # Each goes on after the first event that the one before it wrote itself.
        tail = (await payloads(store, "ses_5"))[4:]
        assert tail == [b"2.0", b"3.0", b"4.0", b"5.0", b"5.1", b"5.2"]
        assert (await payloads(store, "ses_3"))[4:] == [b"2.0", b"3.0", b"3.1", b"3.2"]
        assert len(await store.read("ses_1")) == 4
        await store.fork("ses_5", 2, "ses_early")
        assert await store.read("ses_early") == (await store.read("ses_1"))[:2]

    async def test_pages_do_not_show_the_seams(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=5)
        await store.fork("ses_1", 4, "ses_2")
        await store.append(Pen(await store.claim("ses_2")).batch(b"5", b"6"))
        await store.fork("ses_2", 5, "ses_3")
        await store.append(Pen(await store.claim("ses_3")).batch(b"6", b"7"))
        everything = await store.read("ses_3")
        assert [record.seq for record in everything] == [1, 2, 3, 4, 5, 6, 7]
        for after in range(9):
            for limit in range(9):
                page = await store.read("ses_3", after, limit)
                assert page == everything[after : after + limit]

    async def test_a_fork_is_shown_with_its_first_event(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=3)
        await store.fork("ses_1", 3, "ses_2")
        assert [row.id for row in await store.sessions()] == ["ses_1"]
        assert await store.session("ses_2") is None
        await refused(NotFound, store.post("ses_2", "k", b""))
        pen = Pen(await store.claim("ses_2"))
        await store.append(pen.batch(b"4"))
        assert await store.session("ses_2") == SessionRow(id="ses_2", seq=4)
        assert {row.id for row in await store.sessions()} == {"ses_1", "ses_2"}
        assert await store.post("ses_2", "k", b"")
        assert await store.mailboxes() == ["ses_2"], "the origin's inbox is its own"

    async def test_where_nothing_can_be_forked(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=2)
        await store.claim("ses_empty")
        for source, at in (("ses_1", 3), ("ses_1", 0), ("ses_1", -1), ("ses_empty", 1), ("no", 1)):
            await refused(NotFound, store.fork(source, at, "ses_2"))
        assert (await store.claim("ses_2")).seq == 0
        for name in ("", "\ud800", "a\0b"):
            await refused(InvalidRequest, store.fork("ses_1", 1, name))

    async def test_a_name_that_is_taken(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        await begin(first, events=2)
        await begin(first, "ses_2", events=3)
        error = await refused(Conflict, first.fork("ses_1", 1, "ses_2"))
        assert error.code == "E-SESSION-EXISTS"
        await refused(Conflict, first.fork("ses_1", 1, "ses_1"))
        assert len(await first.read("ses_2")) == 3
        await first.claim("ses_3")
        await refused(SessionBusy, second.fork("ses_1", 1, "ses_3"))

    async def test_a_fork_left_empty_may_be_made_anew(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=4)
        await begin(store, "ses_other", events=3)
        await store.fork("ses_1", 4, "ses_2")
        old = Pen(await store.claim("ses_2"))
        await store.fork("ses_other", 2, "ses_2")
        await refused(LeaseLost, store.append(old.batch(b"for another past")))
        await store.append(Pen(await store.claim("ses_2")).batch(b"3"))
        assert len(await store.read("ses_2")) == 3
        await is_chained(store, "ses_2")

    async def test_a_state_from_before_the_cut_serves_the_fork(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=6)
        await store.save_state("ses_1", 4, b"four")
        await store.fork("ses_1", 3, "ses_early")
        await store.fork("ses_1", 5, "ses_late")
        assert await store.load_state("ses_early") is None
        assert await store.load_state("ses_late") == (4, b"four")
        await store.append(Pen(await store.claim("ses_late")).batch(b"6", b"7"))
        await store.save_state("ses_late", 6, b"six")
        assert await store.load_state("ses_late") == (6, b"six")
        await store.fork("ses_late", 6, "ses_later")
        assert await store.load_state("ses_later") == (6, b"six")
        assert await store.load_state("ses_1") == (4, b"four")


async def is_chained(store: Store, session: str) -> None:
    """Fail unless each record follows the one before it."""
    end = bytes(32)
    for seq, record in enumerate(await store.read(session), 1):
        check(record, end, seq)
        end = record.hash
