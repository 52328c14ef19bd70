"""The list of sessions, cached states, and the notice that something has changed."""

import asyncio
from typing import cast

from perdure.ports.store import SessionRow, Store
from perdure.testing.store_harness import Pen, StoreHarness, begin, payloads

SOON_S = 10.0


class ListsContract:
    """What `sessions`, `session`, `save_state`, `load_state` and `changed` promise."""

    async def test_rows_come_with_the_events_that_change_them(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        row = SessionRow(id="ses_1", agent="helper", status="busy", seq=2, tokens=5)
        await store.append(pen.batch(b"2", row=row))
        assert await store.session("ses_1") == row
        await store.append(pen.batch(b"3"))
        assert await store.session("ses_1") == row, "a batch without a row leaves it as it is"
        await harness.kill(store)
        assert await (await harness.open()).sessions() == [row]

    async def test_the_list_begins_with_the_last_updated(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for name, at_us in (("ses_a", 20), ("ses_b", 30), ("ses_c", 10)):
            pen = await begin(store, name, events=0)
            await store.append(pen.batch(b"1", row=SessionRow(id=name, updated_at_us=at_us)))
        assert [row.id for row in await store.sessions()] == ["ses_b", "ses_a", "ses_c"]

    async def test_what_is_due_comes_in_order(self, harness: StoreHarness) -> None:
        store, other = await harness.open(), await harness.open()
        pens = {}
        for name, wake_us in (("ses_c", 30), ("ses_b", 10), ("ses_a", 30), ("ses_never", 0)):
            pens[name] = await begin(store, name, events=0)
            row = SessionRow(id=name, wake_at_us=wake_us)
            await store.append(pens[name].batch(b"1", row=row))
        assert await other.due(9) == []
        assert await other.due(29) == ["ses_b"], "not a microsecond early"
        assert await other.due(30) == ["ses_b", "ses_a", "ses_c"]
        assert await other.due(30, limit=2) == ["ses_b", "ses_a"]

    async def test_the_newest_row_says_when_to_wake(self, harness: StoreHarness) -> None:
        store, other = await harness.open(), await harness.open()
        pen = await begin(store)
        await store.append(pen.batch(b"2", row=SessionRow(id="ses_1", wake_at_us=10)))
        await store.append(pen.batch(b"3"))
        assert await store.due(10) == ["ses_1"], "a batch without a row leaves it as it is"
        assert await other.due(10) == ["ses_1"], "it is on the disk, not in the process"
        await harness.kill(store)
        assert await other.due(10) == ["ses_1"], "it outlives its process"
        store = await harness.open()
        pen = Pen(await store.claim("ses_1"))
        await store.append(pen.batch(b"4", row=SessionRow(id="ses_1", wake_at_us=50)))
        assert (await store.due(49), await store.due(50)) == ([], ["ses_1"])
        await store.append(pen.batch(b"5", row=SessionRow(id="ses_1")))
        assert await store.due(1 << 60) == [], "it sleeps no more"

    async def test_a_fork_is_not_due_when_its_origin_is(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        await store.append(pen.batch(b"2", row=SessionRow(id="ses_1", wake_at_us=10)))
        await store.fork("ses_1", 2, "ses_2")
        assert await store.due(10) == ["ses_1"]

    async def test_only_sessions_with_events_are_listed(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.claim("ses_empty")
        assert await store.sessions() == []
        assert await store.session("ses_empty") is None
        assert await store.session("ses_never") is None
        await begin(store, "ses_bare", events=2)
        assert await store.sessions() == [SessionRow(id="ses_bare", seq=2)]

    async def test_rows_keep_odd_text(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        row = SessionRow(id="ses_1", title="NUL \0, half a pair \ud800", last="🐍")
        await store.append(pen.batch(b"2", row=row))
        assert await store.session("ses_1") == row

    async def test_the_newest_state_is_kept(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, events=9)
        assert await store.load_state("ses_1") is None
        await store.save_state("ses_1", 3, b"three")
        await store.save_state("ses_1", 7, b"seven")
        await store.save_state("ses_1", 5, b"too late")
        assert await store.load_state("ses_1") == (7, b"seven")
        await store.save_state("ses_1", 7, b"\0\xff")
        assert await store.load_state("ses_1") == (7, b"\0\xff")
        await store.close()
        assert await (await harness.open()).load_state("ses_1") == (7, b"\0\xff")

    async def test_states_of_unknown_sessions(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await store.load_state("ses_never") is None
        await store.save_state("ses_never", 1, b"kept or not, no matter")
        assert await store.session("ses_never") is None

    async def test_later_changes_to_a_state_do_not_matter(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store)
        data = bytearray(b"as it was")
        saving = asyncio.ensure_future(store.save_state("ses_1", 1, cast(bytes, data)))
        await asyncio.sleep(0)
        data[:] = b"different"
        await saving
        assert await store.load_state("ses_1") == (1, b"as it was")

    async def test_where_journals_end_is_one_question(self, harness: StoreHarness) -> None:
        store, other = await harness.open(), await harness.open()
        pen = await begin(store, "ses_1", events=2)
        await begin(other, "ses_2", events=1)
        await store.claim("ses_empty")
        asked = ["ses_2", "ses_1", "ses_empty", "ses_none", "", "a\0b"]
        assert await store.ends(asked) == {"ses_1": 2, "ses_2": 1}
        await store.append(pen.batch(b"3", b"4"))
        await store.fork("ses_1", 3, "ses_fork")
        assert await other.ends(["ses_1", "ses_fork"]) == {"ses_1": 4}
        fork = Pen(await store.claim("ses_fork"))
        await store.append(fork.batch(b"of its own"))
        assert await other.ends(["ses_fork"]) == {"ses_fork": 4}
        assert await other.ends([]) == {}

    async def test_nothing_has_changed(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await quiet(store)
        assert not await store.changed(0.01)
        assert not await store.changed(0)

    async def test_a_change_before_the_question_counts(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        await begin(first)
        await quiet(first)
        await second.post("ses_1", "k", b"")
        assert await first.changed(SOON_S)

    async def test_a_change_ends_the_waiting(self, harness: StoreHarness) -> None:
        first, second = await harness.open(), await harness.open()
        pen = await begin(first)
        await quiet(second)
        waiting = asyncio.ensure_future(second.changed(SOON_S))
        await asyncio.sleep(0)
        await first.append(pen.batch(b"2"))
        assert await waiting
        assert (await payloads(second))[-1:] == [b"2"]


async def quiet(store: Store) -> None:
    """Wait until everything that has happened so far is old news."""
    while await store.changed(0):
        pass
