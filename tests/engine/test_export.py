"""Journals as lines: what comes in is what went out, and nothing else comes in."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.errors import Conflict, NotFound, PerdureError
from perdure.core.events import Event
from perdure.core.journal import GENESIS, Record, write
from perdure.engine.export import export_session, import_session, read_journal
from perdure.engine.journal import load
from perdure.ports.store import Batch, Store
from perdure.replaying import replay_session
from perdure.testing.simulation import simulate
from tests.engine.told import REFUND, Shop, clerk, engine_on, journal, memory, refunded

SLOWLY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


async def lines_of(store: Store, session: str = "s") -> list[bytes]:
    return [line async for line in export_session(store, session)]


async def stored(store: Store, session: str, events: Sequence[Event]) -> None:
    """Store events as they are."""
    records: list[Record] = []
    previous = GENESIS
    for event in events:
        written = write(event, previous)
        if written.blob is not None:
            await store.blobs.put(written.blob)
        if isinstance(event.payload, e.ToolFinished) and event.payload.full:
            # A simulated run keeps its blobs to itself; the name is all that counts for it.
            await store.blobs.put(b"x" * 200_000)
        records.append(written.record)
        previous = written.record.hash
    claim = await store.claim(session)
    await store.append(Batch(session, claim.epoch, 0, records))
    await store.release(claim)


@SLOWLY
@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_what_comes_in_is_what_went_out(seed: int) -> None:
    journals = simulate(seed, "memory").journals

    async def there_and_back() -> None:
        for name, events in journals.items():
            first, second = memory(), memory()
            await stored(first, name, events)
            lines = await lines_of(first, name)
            assert await import_session(second, lines) == name
            assert await lines_of(second, name) == lines
            assert await journal(second, name) == list(events)
            state, _, _ = await load(second, name)
            row = await second.session(name)
            assert row is not None
            assert (row.seq, row.turns, row.waiting) == (
                len(events),
                state.turns,
                len(state.actions),
            )

    asyncio.run(there_and_back())


async def exported() -> tuple[list[bytes], list[Event]]:
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        session = await engine.session("s", clerk(Shop()))
        await refunded(session)
        await session.send("odd \0 \udcff \ud800 " + "and long " * 20_000)
        return await lines_of(store), await journal(store)


async def test_large_payloads_are_in_it() -> None:
    lines, events = await exported()
    blobs = [line for line in lines if line.startswith(b'{"blob":')]
    assert len(blobs) == 1
    store = memory()
    await import_session(store, iter(lines))
    assert await journal(store) == events


async def test_under_another_name_it_goes_on_as_a_session_of_its_own() -> None:
    lines, events = await exported()
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        assert await import_session(store, lines, "copy", by="anna") == "copy"
        copied = await journal(store, "copy")
        assert copied[:-1] == events
        assert copied[-1].payload == e.SessionForked(
            "copy", "s", len(events), "anna", imported=len(events), imported_by="anna"
        )
        assert copied[-1].id > copied[-2].id
        session = await engine.session("copy", clerk(Shop()))
        state = await session.send("go on")
        assert (state.id, state.last_status) == ("copy", "completed")
        report = await replay_session(store, "copy")
        assert report.identical, report
        again = await lines_of(store, "copy")
    other = memory()
    await import_session(other, again)
    assert await lines_of(other, "copy") == again


async def test_a_session_that_is_there_is_not_overwritten() -> None:
    lines, events = await exported()
    store = memory()
    await import_session(store, lines)
    with pytest.raises(Conflict, match="E-SESSION-EXISTS"):
        await import_session(store, lines)
    assert await journal(store) == events


async def test_every_damage_is_seen_before_anything_is_written() -> None:
    lines, _ = await exported()
    for number, line in enumerate(lines):
        middle = len(line) // 2
        flipped = line[:middle] + bytes([line[middle] ^ 1]) + line[middle + 1 :]
        variants = {
            "missing": [*lines[:number], *lines[number + 1 :]],
            "flipped": [*lines[:number], flipped, *lines[number + 1 :]],
            "twice": [*lines[:number], line, *lines[number:]],
            "torn": [*lines[:number], line[:middle]],
        }
        for damage, variant in variants.items():
            if damage == "twice" and line.startswith((b'{"blob":', b'{"end":')):
                continue  # says the same twice, which harms nothing
            if damage == "flipped" and number == 0:
                continue  # the session's name, which the events say again
            store = memory()
            with pytest.raises(PerdureError):
                await import_session(store, variant)
            assert await store.sessions() == [], f"line {number} {damage}"


async def test_other_files_are_refused_by_name_of_the_line() -> None:
    for lines in ([], [b"hello"], [b"{}"], [encode({"perdure": "recipe", "format": 1})]):
        with pytest.raises(PerdureError, match="E-IMPORT"):
            await read_journal(lines)


async def test_a_session_that_is_not_there_is_not_exported() -> None:
    with pytest.raises(NotFound):
        await lines_of(memory())
