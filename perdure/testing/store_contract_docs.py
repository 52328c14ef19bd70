"""Documents: small, versioned, changed as a whole."""

import asyncio
from typing import cast

from perdure.core.errors import Conflict, PerdureError, Unavailable
from perdure.ports.store import Doc
from perdure.testing.store_harness import StoreHarness, refused


class DocsContract:
    """What `put_doc`, `docs` and `delete_doc` promise."""

    async def test_documents_have_versions(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await store.docs("rule") == []
        assert await store.put_doc("rule", "b", b"1") == 1
        assert await store.put_doc("rule", "b", b"2") == 2
        assert await store.put_doc("rule", "a", b"") == 1
        assert await store.put_doc("schedule", "b", b"other") == 1
        assert await store.docs("rule") == [Doc("a", 1, b""), Doc("b", 2, b"2")]

    async def test_documents_are_durable(self, harness: StoreHarness) -> None:
        first = await harness.open()
        await first.put_doc("rule", "kept", b"1")
        await first.put_doc("rule", "gone", b"1")
        await first.delete_doc("rule", "gone")
        await harness.kill(first)
        assert await (await harness.open()).docs("rule") == [Doc("kept", 1, b"1")]

    async def test_a_document_that_is_not_as_expected(self, harness: StoreHarness) -> None:
        store = await harness.open()
        error = await refused(Conflict, store.put_doc("rule", "a", b"new", expect=1))
        assert error.code == "E-DOC-CHANGED"
        assert await store.put_doc("rule", "a", b"1", expect=0) == 1
        await refused(Conflict, store.put_doc("rule", "a", b"mine", expect=0))
        assert await store.put_doc("rule", "a", b"2", expect=1) == 2
        await refused(Conflict, store.put_doc("rule", "a", b"late", expect=1))
        assert await store.docs("rule") == [Doc("a", 2, b"2")]

    async def test_one_of_two_writers_wins(self, harness: StoreHarness) -> None:
        stores = [await harness.open() for _ in range(4)]
        await stores[0].put_doc("rule", "a", b"")
        ends: list[int | BaseException] = await asyncio.gather(
            *(s.put_doc("rule", "a", b"%d" % n, expect=1) for n, s in enumerate(stores)),
            return_exceptions=True,
        )
        assert [end for end in ends if isinstance(end, int)] == [2]
        assert [isinstance(end, PerdureError) for end in ends].count(True) == 3
        assert await stores[3].docs("rule") == [Doc("a", 2, b"%d" % ends.index(2))]

    async def test_a_version_never_stands_for_two_contents(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.put_doc("rule", "a", b"old")
        await store.delete_doc("rule", "a")
        await store.delete_doc("rule", "a")
        await store.delete_doc("rule", "never")
        assert await store.docs("rule") == []
        await refused(Conflict, store.put_doc("rule", "a", b"late", expect=1))
        assert await store.put_doc("rule", "a", b"new", expect=0) == 2
        await refused(Conflict, store.put_doc("rule", "a", b"later", expect=1))

    async def test_documents_are_found_by_name_and_in_pages(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for name in ("b/2", "a", "b/1", "b", "b0", "b/3"):
            await store.put_doc("rule", name, name.encode())
        await store.delete_doc("rule", "b/2")
        assert await store.doc("rule", "b/1") == Doc("b/1", 1, b"b/1")
        assert await store.doc("rule", "b/2") is None
        assert await store.doc("other", "b/1") is None
        assert [d.name for d in await store.docs("rule", prefix="b/")] == ["b/1", "b/3"]
        assert [d.name for d in await store.docs("rule", after="b", limit=2)] == ["b/1", "b/3"]
        assert [d.name for d in await store.docs("rule", after="b/3")] == ["b0"]
        assert [d.name for d in await store.docs("rule", prefix="b/", after="b/1")] == ["b/3"]
        assert await store.docs("rule", limit=0) == []

    async def test_odd_names_and_bytes(self, harness: StoreHarness) -> None:
        store = await harness.open()
        names = ["", "\0", "a\0b", "é", "\ud800", "🐍"]
        for name in reversed(names):
            await store.put_doc("odd", name, name.encode("utf-8", "surrogatepass") + b"\0\xff")
        assert [doc.name for doc in await store.docs("odd")] == names
        assert (await store.docs("odd"))[4].data == b"\xed\xa0\x80\0\xff"

    async def test_later_changes_to_a_document_do_not_matter(self, harness: StoreHarness) -> None:
        store = await harness.open()
        data = bytearray(b"as it was")
        putting = asyncio.ensure_future(store.put_doc("rule", "a", cast(bytes, data)))
        await asyncio.sleep(0)
        data[:] = b"different"
        await putting
        assert await store.docs("rule") == [Doc("a", 1, b"as it was")]

    async def test_a_closed_store_has_no_documents(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.close()
        await refused(Unavailable, store.put_doc("rule", "a", b""))
        await refused(Unavailable, store.docs("rule"))
        await refused(Unavailable, store.doc("rule", "a"))
        await refused(Unavailable, store.delete_doc("rule", "a"))
