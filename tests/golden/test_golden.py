"""Journals that older versions wrote fold for ever to what they folded to then."""

import json
from pathlib import Path

import pytest

from perdure.core import journal as records
from perdure.core.events import EVENT_TYPES, Event
from perdure.core.evolve import fold
from perdure.core.journal import GENESIS, Record
from perdure.core.step import Step, next_step
from tests.golden.make import plain

HERE = Path(__file__).parent
JOURNALS = sorted(HERE.glob("v*/*.jsonl"))


def stored(path: Path) -> list[tuple[Record, bytes | None]]:
    found = []
    for line in path.read_text().splitlines():
        plain = json.loads(line)
        hash_ = bytes.fromhex(plain["hash"])
        record = Record(plain["seq"], plain["type"], plain["data"].encode(), hash_)
        found.append((record, plain["blob"].encode() if "blob" in plain else None))
    return found


def read(path: Path) -> list[Event]:
    return [records.read(record, blob) for record, blob in stored(path)]


@pytest.mark.parametrize("path", JOURNALS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_it_folds_to_what_it_folded_to(path: Path) -> None:
    states = json.loads((path.parent / "states.json").read_text())
    assert differences(states[path.stem], plain(fold(read(path)))) == []


def differences(then: object, now: object, where: str = "") -> list[str]:
    """Return where `now` is not what it was `then`. A later version may know more fields."""
    if isinstance(then, dict) and isinstance(now, dict):
        pairs = [(key, then[key], now.get(key, "not there")) for key in then]
        return [d for key, old, new in pairs for d in differences(old, new, f"{where}.{key}")]
    return [] if then == now else [f"{where}: {then!r} is now {now!r}"]


def test_a_changed_fold_is_seen() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}, "c": 3}) == [".a.b: 1 is now 2"]
    assert differences({"a": {"b": 1}}, {"a": {}}) == [".a.b: 1 is now 'not there'"]


@pytest.mark.parametrize("path", JOURNALS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_its_chain_holds_and_every_prefix_has_a_next_step(path: Path) -> None:
    previous, events = GENESIS, list[Event]()
    for seq, (record, blob) in enumerate(stored(path), 1):
        records.check(record, previous, seq)
        previous = record.hash
        events.append(records.read(record, blob))
        assert isinstance(next_step(fold(events)), Step)


def test_there_is_one_of_each_event_in_the_first_format() -> None:
    first = {event.type for path in HERE.glob("v1/*.jsonl") for event in read(path)}
    assert first <= set(EVENT_TYPES), "a type was removed"
    assert len(first) >= 24
