"""What came from elsewhere is told as that: nobody can forge who decided here."""

import msgspec
import pytest

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.errors import Conflict, CorruptJournal
from perdure.core.events import Event
from perdure.core.evolve import fold
from perdure.core.journal import GENESIS, write
from perdure.engine.export import export_session, import_session
from perdure.engine.journal import load
from perdure.ports.store import Store
from perdure.replaying import replay_session
from perdure.stores.memory import MemoryStore
from tests.engine.told import REFUND, Shop, clerk, engine_on, journal, memory, refunded


async def told() -> list[Event]:
    """A session in which anna allowed a refund of 500."""
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        await refunded(await engine.session("s", clerk(Shop())))
        return await journal(store)


def lines_of(events: list[Event]) -> list[bytes]:
    """Write a journal as anybody can: its chain of hashes is right, whatever it says."""
    lines, previous = (
        [encode({"perdure": "journal", "format": 1, "session": "s", "events": 0})],
        b"",
    )
    for event in events:
        record = write(event, previous or GENESIS).record
        head = encode({"seq": record.seq, "type": record.type, "hash": record.hash.hex()})
        lines.append(head[:-1] + b',"data":' + record.data + b"}")
        previous = record.hash
    return [*lines, encode({"end": len(events), "hash": previous.hex()})]


def forged(events: list[Event], by: str) -> list[Event]:
    """Let somebody else have decided."""
    return [
        msgspec.structs.replace(each, payload=msgspec.structs.replace(each.payload, by=by))
        if isinstance(each.payload, e.ActionResolved)
        else each
        for each in events
    ]


async def brought(events: list[Event], by: str = "key_mallory", name: str = "") -> MemoryStore:
    store = memory()
    await import_session(store, lines_of(events), name, by=by)
    return store


async def imported_in(store: Store, session: str = "s") -> tuple[int, str]:
    state, _, _ = await load(store, session)
    return state.imported, state.imported_by


async def test_an_import_says_who_brought_it_and_what() -> None:
    events = await told()
    store = await brought(forged(events, "the-owner"))
    *past, last = await journal(store)
    assert past == forged(events, "the-owner"), "payloads stay as they came"
    assert isinstance(last.payload, e.NoteRecorded) and last.id > past[-1].id
    assert (last.payload.imported, last.payload.imported_by) == (len(events), "key_mallory")
    assert "Imported by key_mallory" in last.payload.text
    state, _, _ = await load(store, "s")
    assert {past.by for past in state.decided} == {"the-owner (imported)"}
    row = await store.session("s")
    assert row is not None and "Imported by key_mallory" in row.last and row.seq == last.seq


async def test_who_comes_too_late_is_told_that_the_first_one_is_hearsay() -> None:
    store = await brought(forged(await told(), "the-owner"))
    async with engine_on(store, {"clerk": REFUND}) as engine:
        session = await engine.session("s", clerk(Shop()))
        with pytest.raises(Conflict, match=r"the-owner \(imported\) allowed"):
            await session.allow("a1", by="bob")


async def test_without_a_name_it_is_stored_unchanged() -> None:
    lines = lines_of(await told())
    store = memory()
    await import_session(store, lines)
    out = [line.rstrip() async for line in export_session(store, "s")]
    assert out[1:] == lines[1:]
    assert await imported_in(store) == (0, "")


async def test_a_note_that_came_along_does_not_hide_the_import() -> None:
    events = await told()
    last = events[-1]
    note = e.NoteRecorded("Imported by anna", 3, "anna")
    fake = Event(last.seq + 1, last.id[:-1] + "~", last.at_us, last.turn, note)
    store = await brought([*events, fake])
    assert await imported_in(store) == (fake.seq, "key_mallory")
    with pytest.raises(CorruptJournal, match="E-JOURNAL-ORDER"):
        fold([*events, msgspec.structs.replace(fake, payload=e.NoteRecorded("", 99, "anna"))])


async def test_neither_a_rewind_nor_a_fork_washes_it_off() -> None:
    events = await told()
    for name in ("", "copy"):
        store = await brought(events, name=name)
        async with engine_on(store, {"clerk": REFUND}) as engine:
            session = await engine.session(name or "s", clerk(Shop()))
            before = next(x.seq for x in events if isinstance(x.payload, e.ActionResolved))
            await session.fork(before, name="early", by="bob")
            assert await imported_in(store, "early") == (before, "key_mallory")
            await session.fork(len(events) + 1, name="late", by="bob")
            assert await imported_in(store, "late") == (len(events), "key_mallory")
            await session.rewind(1, by="bob")
            assert await imported_in(store, name or "s") == (len(events), "key_mallory")
            for each in ("early", "late", name or "s"):
                assert (await replay_session(store, each)).identical


async def test_an_import_of_any_moment_goes_on_and_replays() -> None:
    events = await told()
    for many in range(1, len(events) + 1):
        store = await brought(events[:many])
        async with engine_on(store, {"clerk": REFUND}) as engine:
            session = await engine.session("s", clerk(Shop()))
            state = await refunded(session, say="go on")
            assert (state.last_status, state.imported) == ("completed", many)
            report = await replay_session(store, "s")
            assert report.identical, (many, report)
