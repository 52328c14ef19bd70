"""Make the golden journals of a format version: python -m tests.golden.make

They are made once and then kept: what a released version wrote must fold for ever to what it
folded to then. This adds journals that are not there yet and touches no other.
"""

import json
from pathlib import Path
from random import Random

import msgspec

from perdure.core import events as e, journal as records
from perdure.core.content import Text
from perdure.core.events import EVENT_TYPES, FORMAT, Event
from perdure.core.evolve import fold
from perdure.core.journal import GENESIS
from perdure.core.state import State
from tests.core.histories import Drawn
from tests.core.values import event_of, journal, walk

FOLDER = Path(__file__).parent / f"v{FORMAT}"
WALKS = 6
BRANCHES = 4


def plain(state: State) -> object:
    """Return a state as it is recorded: its fields that have a value, as JSON has them."""
    found: object = json.loads(json.dumps(_plain(state)))
    return found


def _plain(value: object) -> object:
    """Return a value as JSON can hold it, without what is at its default."""
    built = msgspec.to_builtins(value, builtin_types=(msgspec.Raw,))
    return _raw_as_text(built)


def _raw_as_text(value: object) -> object:
    match value:
        case msgspec.Raw():
            return bytes(value).decode()
        case dict():
            return {key: _raw_as_text(item) for key, item in value.items()}
        case list() | tuple():
            return [_raw_as_text(item) for item in value]
        case str():
            return value.encode("utf-8", "surrogatepass").hex() if _odd(value) else value
        case _:
            return value


def _odd(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def lines(events: list[Event]) -> list[str]:
    """Return a journal as lines: seq, type, data, hash, and the payload that lies aside."""
    previous, found = GENESIS, []
    for event in events:
        record, blob = records.write(event, previous)
        previous = record.hash
        line = {
            "seq": record.seq,
            "type": record.type,
            "data": record.data.decode(),
            "hash": record.hash.hex(),
        }
        found.append(json.dumps(line | ({"blob": blob.decode()} if blob else {})))
    return found


def odd() -> list[Event]:
    """Return a journal with what is hard to store."""
    text = Text("NUL \0, lone \udcff and \ud800, \U0001f600")
    events = journal(e.InputAccepted("message", (text,), "k"), e.StateSet("k", msgspec.Raw(b"1e2")))
    large = e.NoteRecorded("y" * (records.BLOB_OVER_BYTES + 1) + "\ud800")
    return [*events, event_of(fold(events), large)]


def branch(seed: int) -> list[Event]:
    """Return the journal of a fork that was taken back, as its origin was before."""
    dice = Random(seed)
    origin = Drawn(dice, "ses_1").grow(50)
    return origin.branch(dice.randrange(20, len(origin.events)), "ses_2").grow(40).events


def main() -> None:
    """Write the journals that are not there yet, and what they fold to."""
    FOLDER.mkdir(exist_ok=True)
    made = {f"walk{seed:02}": walk(seed, length=80) for seed in range(WALKS)} | {"odd": odd()}
    made |= {f"branch{seed:02}": branch(seed) for seed in range(BRANCHES)}
    met = {event.type for events in made.values() for event in events}
    assert met == set(EVENT_TYPES), f"never met: {set(EVENT_TYPES) - met}"
    kept = FOLDER / "states.json"
    states = json.loads(kept.read_text()) if kept.exists() else {}
    for name, events in made.items():
        path = FOLDER / f"{name}.jsonl"
        if path.exists():
            continue
        path.write_text("\n".join(lines(events)) + "\n")
        states[name] = plain(fold(events))
    kept.write_text(json.dumps(states, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
