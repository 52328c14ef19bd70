"""Records: what was written is what is read, byte for byte, and nothing else is believed."""

import hashlib
from typing import get_args

import pytest
from hypothesis import given, settings, strategies as st

from perdure.core import events as e, journal as records
from perdure.core.content import Text
from perdure.core.errors import CorruptJournal
from perdure.core.events import EVENT_TYPES, Event, Payload
from perdure.core.journal import GENESIS, Record
from perdure.core.state import State
from tests.core.values import EVENTS, WALKS, event_of, struct_of


def written(events: list[Event]) -> list[records.Written]:
    previous, found = GENESIS, []
    for event in events:
        found.append(records.write(event, previous))
        previous = found[-1].record.hash
    return found


@pytest.mark.parametrize("kind", get_args(Payload), ids=EVENT_TYPES)
def test_every_type_survives_a_round_trip(kind: type) -> None:
    @given(struct_of(kind))
    @settings(max_examples=25, deadline=None)
    def check(payload: Payload) -> None:
        event = event_of(State(), payload)
        record, blob = records.write(event, GENESIS)
        again = records.read(record, blob)
        assert records.write(again, GENESIS).record == record
        assert same(again, event)

    check()


def same(one: Event, other: Event) -> bool:
    """Compare by what is written: raw JSON has no equality of its own."""
    return records.write(one, GENESIS) == records.write(other, GENESIS)


@given(EVENTS)
@settings(deadline=None)
def test_an_event_keeps_its_place_and_time(event: Event) -> None:
    record, blob = records.write(event, GENESIS)
    again = records.read(record, blob)
    assert (again.seq, again.id, again.at_us, again.turn, again.type) == (
        event.seq, event.id, event.at_us, event.turn, record.type,
    )  # fmt: skip


@given(WALKS, st.data())
@settings(max_examples=50, deadline=None)
def test_any_damage_is_seen_and_named(events: list[Event], data: st.DataObject) -> None:
    chain = [w.record for w in written(events)]
    place = data.draw(st.integers(0, len(chain) - 1))
    bit = data.draw(st.integers(0, len(chain[place].data) * 8 - 1))
    damaged = bytearray(chain[place].data)
    damaged[bit // 8] ^= 1 << bit % 8
    chain[place] = chain[place]._replace(data=bytes(damaged))
    with pytest.raises(CorruptJournal, match=f"Event {place + 1} "):
        check_all(chain)


def check_all(chain: list[Record]) -> None:
    previous = GENESIS
    for seq, record in enumerate(chain, 1):
        records.check(record, previous, seq)
        previous = record.hash


@given(WALKS, st.data())
@settings(max_examples=25, deadline=None)
def test_a_missing_event_is_named(events: list[Event], data: st.DataObject) -> None:
    chain = [w.record for w in written(events)]
    check_all(chain)
    place = data.draw(st.integers(0, len(chain) - 1))
    del chain[place]
    if place < len(chain):
        with pytest.raises(CorruptJournal, match=f"Event {place + 1} is missing"):
            check_all(chain)


def test_the_hash_is_what_the_format_says() -> None:
    record, _ = records.write(event_of(State(), e.NoteRecorded("x")), GENESIS)
    assert record.hash == hashlib.sha256(bytes(32) + record.data).digest()


def test_a_large_payload_lies_aside_and_is_covered_by_the_chain() -> None:
    text = "\ud800" + "x" * records.BLOB_OVER_BYTES
    event = event_of(State(), e.InputAccepted("message", (Text(text),)))
    record, blob = records.write(event, GENESIS)
    assert blob is not None
    assert len(record.data) < 400
    assert hashlib.sha256(blob).hexdigest().encode() in record.data
    aside = records.aside(record)
    assert aside is not None
    assert (aside.size, aside.type) == (len(blob), "input.accepted")
    assert records.read(record, blob) == event


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"seq":1', b"\xff"])
def test_what_is_no_event_is_named(data: bytes) -> None:
    with pytest.raises(CorruptJournal, match="Event 7 "):
        records.read(Record(7, "note.recorded", data, GENESIS))
