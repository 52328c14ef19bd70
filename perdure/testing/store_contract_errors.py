"""The index of errors: written with the events, one row for each fingerprint and session."""

from msgspec.structs import replace

from perdure.core.errors import StaleAppend, Unavailable
from perdure.ports.store import Batch, ErrorRow
from perdure.testing.store_harness import Pen, StoreHarness, begin, chain, refused

ROW = ErrorRow("f1", "ses_1", "E-TOOL-RAISED", "tool", "no such file", 2, 10, 10, turn=1)


class ErrorsContract:
    """What `Batch.errors` and `errors` promise."""

    async def test_errors_come_with_their_events(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await store.errors() == []
        pen = await begin(store)
        await store.append(pen.batch(b"2")._replace(errors=[ROW]))
        assert await store.errors() == [ROW]
        await harness.kill(store)
        again = await harness.open()
        assert await again.errors() == [ROW]
        await again.close()
        await refused(Unavailable, again.errors())

    async def test_refused_events_bring_no_errors(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        stale = Batch("ses_1", pen.epoch, 0, chain([b"no"]), errors=[ROW])
        await refused(StaleAppend, store.append(stale))
        assert await store.errors() == []

    async def test_the_same_error_is_counted(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        later = replace(ROW, message="not there either", seq=3, first_at_us=30, last_at_us=30)
        await store.append(pen.batch(b"2")._replace(errors=[replace(ROW, subject="read")]))
        await store.append(pen.batch(b"3", b"4")._replace(errors=[later, replace(later, seq=4)]))
        assert await store.errors() == [
            replace(later, subject="read", seq=4, first_at_us=10, count=3)
        ]

    async def test_an_end_is_no_further_occurrence(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        end = replace(ROW, seq=3, stopped=True)
        await store.append(pen.batch(b"2", b"3")._replace(errors=[ROW, end]))
        assert await store.errors() == [end]
        again = replace(end, seq=4, turn=2)
        await store.append(pen.batch(b"4")._replace(errors=[again]))
        assert await store.errors() == [replace(again, count=2)], "it ended another turn"
        await store.append(pen.batch(b"5")._replace(errors=[replace(ROW, seq=5, turn=3)]))
        assert await store.errors() == [replace(ROW, seq=5, turn=3, count=3)], "it went on"

    async def test_each_session_and_fingerprint_has_its_row(self, harness: StoreHarness) -> None:
        store = await harness.open()
        made = []
        for session in ("ses_b", "ses_a"):
            pen = Pen(await store.claim(session))
            rows = [replace(ROW, session=session, fingerprint=f) for f in ("f2", "f1", "f3")]
            await store.append(pen.batch(b"1")._replace(errors=rows))
            made += rows
        found = await store.errors()
        assert found == sorted(made, key=lambda row: (row.session, row.fingerprint))
        await store.fork("ses_a", 1, "ses_c")
        assert await store.errors() == found, "a fork has made no error yet"

    async def test_odd_text_in_errors(self, harness: StoreHarness) -> None:
        store = await harness.open()
        pen = await begin(store)
        row = replace(ROW, message="NUL \0, half a pair \ud800", fingerprint="\udfff")
        await store.append(pen.batch(b"2")._replace(errors=[row]))
        assert await store.errors() == [row]
