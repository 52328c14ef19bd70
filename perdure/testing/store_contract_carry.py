"""Carrying: all that a store keeps can be read as it is, and entered elsewhere as it was."""

from hashlib import sha256

from perdure.core.errors import Conflict, NotFound
from perdure.ports.carrying import Carriable, Kept, KeptDoc, Posted, Stretch
from perdure.ports.store import Doc, ErrorRow, Letter, SessionRow, Store
from perdure.testing.store_harness import Pen, StoreHarness, begin, payloads, refused

ERROR = ErrorRow("f1", "ses_1", "E-TOOL-RAISED", "tool", "no such file", 2, 10, 10, turn=1)


class CarryContract:
    """What `perdure.ports.carrying.Carriable` promises. For stores that hold what they keep."""

    async def test_all_that_is_kept_of_a_session(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        for key in ("b", "a", "c"):
            await store.post("ses_1", key, key.encode())
        row = SessionRow(id="ses_1", seq=2, title="odd \ud800", wake_at_us=7)
        await store.append(pen.batch(b"2", taken=["a"], row=row)._replace(errors=[ERROR]))
        letters = (posted("b", b"b"), posted("a", b"a", taken=True), posted("c", b"c"))
        past = (Stretch("ses_1", 2),)
        expected = Kept("ses_1", 2, pen.hash, row, letters, (ERROR,), past)
        assert await carriable(store).kept("ses_1") == expected
        await begin(store, "ses_10")
        bare = await carriable(store).kept("ses_10")
        assert bare is not None and (bare.row, bare.letters, bare.errors) == (None, (), ())

    async def test_nothing_is_kept_of_what_has_no_events(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.claim("ses_1")
        await begin(store, "ses_2")
        await store.fork("ses_2", 1, "ses_3")
        for name in ("ses_1", "ses_3", "ses_never", "", "\ud800", "a\0b"):
            assert await carriable(store).kept(name) is None
            await refused(NotFound, carriable(store).keep_letters(name, [posted("k", b"")]))

    async def test_where_events_lie(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store, "ses_1", events=4)
        await store.fork("ses_1", 3, "ses_2")
        await store.append(Pen(await store.claim("ses_2")).batch(b"4", b"5"))
        await store.fork("ses_2", 5, "ses_3")
        await store.append(Pen(await store.claim("ses_3")).batch(b"6"))
        await store.fork("ses_2", 2, "ses_4")
        await store.append(Pen(await store.claim("ses_4")).batch(b"3"))
        assert await past(store, "ses_3") == [("ses_1", 3), ("ses_2", 5), ("ses_3", 6)]
        assert await past(store, "ses_4") == [("ses_1", 2), ("ses_4", 3)]
        await store.delete_session("ses_1")
        gone = (await past(store, "ses_2"))[0][0]
        assert gone.startswith("\0")
        assert await past(store, "ses_3") == [(gone, 3), ("ses_2", 5), ("ses_3", 6)]
        assert await past(store, "ses_4") == [(gone, 2), ("ses_4", 3)]
        await begin(store, "ses_1")
        assert await past(store, "ses_1") == [("ses_1", 1)]
        assert (await past(store, "ses_2"))[0][0] == gone

    async def test_letters_of_elsewhere_are_entered(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await begin(store)
        await store.post("ses_1", "here", b"mine")
        letters = [
            posted("2", b"two"), posted("1", b"one", taken=True), posted("\ud800", b"\0"),
            posted("here", b"theirs"),
        ]  # fmt: skip
        for _ in range(2):
            await carriable(store).keep_letters("ses_1", letters)
        await harness.kill(store)
        store = await harness.open()
        waiting = [Letter("here", b"mine"), Letter("2", b"two"), Letter("\ud800", b"\0")]
        assert await store.inbox("ses_1") == waiting
        assert not await store.post("ses_1", "1", b"one")
        await refused(Conflict, store.post("ses_1", "1", b"another"))
        assert not await store.post("ses_1", "2", b"two")
        kept = await carriable(store).kept("ses_1")
        assert kept is not None
        assert kept.letters == (posted("here", b"mine"), *letters[:3])

    async def test_documents_of_all_kinds_are_read_in_pages(self, harness: StoreHarness) -> None:
        store = await harness.open()
        names = [("", "a"), ("a", ""), ("a", "\0"), ("a", "b"), ("a\0", "a"), ("b", "\ud800")]
        for kind, name in reversed(names):
            await store.put_doc(kind, name, b"1")
        await store.put_doc("a", "b", b"2")
        await store.delete_doc("a", "b")
        await begin(store)
        await store.claim("ses_1")
        await store.delete_session("ses_1")
        found: list[KeptDoc] = []
        while page := await carriable(store).kept_docs(found[-1][:2] if found else None, 2):
            assert len(page) <= 2
            found += page
        assert [doc[:2] for doc in found] == names
        assert found[3] == KeptDoc("a", "b", 2, None)
        assert [(doc.version, doc.data) for doc in found[:3]] == [(1, b"1")] * 3

    async def test_documents_of_elsewhere_keep_their_versions(self, harness: StoreHarness) -> None:
        store = await harness.open()
        keep = carriable(store).keep_doc
        await keep(KeptDoc("rule", "a", 7, b"seven"))
        await keep(KeptDoc("rule", "a", 6, b"older"))
        await keep(KeptDoc("rule", "a", 7, b"other"))
        await keep(KeptDoc("rule", "gone", 3, None))
        await keep(KeptDoc("rule", "going", 2, b"two"))
        await keep(KeptDoc("rule", "going", 2, None))
        await harness.kill(store)
        store = await harness.open()
        assert await store.docs("rule") == [Doc("a", 7, b"seven")]
        assert await store.put_doc("rule", "a", b"eight", expect=7) == 8
        assert await store.put_doc("rule", "gone", b"again", expect=0) == 4
        assert await store.put_doc("rule", "going", b"again", expect=0) == 3

    async def test_who_else_has_it_open(self, harness: StoreHarness) -> None:
        first = await harness.open()
        assert await carriable(first).neighbours() == []
        second = await harness.open()
        third = await harness.open()
        assert len(await carriable(first).neighbours()) == 2
        await second.close()
        assert len(await carriable(third).neighbours()) == 1
        await harness.kill(first)
        assert await carriable(third).neighbours() == []


def carriable(store: Store) -> Carriable:
    """Return the store as what can be carried. Fails when it cannot."""
    assert isinstance(store, Carriable)
    return store


def posted(key: str, body: bytes, *, taken: bool = False) -> Posted:
    """Return a letter as it is kept."""
    return Posted(key, sha256(body).digest(), None if taken else body)


async def past(store: Store, session: str) -> list[tuple[str, int]]:
    """Return where a session's events lie; fails when there are not as many."""
    kept = await carriable(store).kept(session)
    assert kept is not None
    assert kept.past[-1] == (session, kept.seq)
    assert len(await payloads(store, session)) == kept.seq
    return [(stretch.holder, stretch.until) for stretch in kept.past]
