"""Records: events as bytes in a hash chain.

    hash(n) = SHA-256(hash(n - 1) || data(n))        hash(0) = 32 zero bytes

`data` is the event as JSON, exactly as stored. A payload of more than 64 KiB lies in the blob
store; then `data` holds its SHA-256 in its place, so the chain covers it all the same.
"""

import hashlib
from typing import Final, NamedTuple

import msgspec

from perdure.core.codec import Reader, decode, encode
from perdure.core.errors import CorruptJournal
from perdure.core.events import Event, Payload, type_of

GENESIS: Final = bytes(32)
BLOB_OVER_BYTES: Final = 64 * 1024
_ASIDE: Final = b'{"$blob":"'


class Record(NamedTuple):
    """One event as stored: `seq`, its type, its bytes, and the chain's hash up to it."""

    seq: int
    type: str
    data: bytes
    hash: bytes


class Aside(msgspec.Struct, frozen=True, gc=False):
    """What stands in an event whose payload lies in the blob store."""

    blob: str = msgspec.field(name="$blob")
    size: int
    type: str


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    seq: int
    id: str
    at_us: int
    turn: int
    payload: msgspec.Raw


_PAYLOADS: Final = Reader[Payload](Payload)
_ENVELOPES: Final = Reader[_Envelope](_Envelope)


class Written(NamedTuple):
    """An event made ready to be stored; `blob` must be durable before the record is."""

    record: Record
    blob: bytes | None


def link(previous: bytes, data: bytes) -> bytes:
    """Return the hash that follows `previous` when `data` is appended."""
    return hashlib.sha256(previous + data).digest()


def write(event: Event, previous: bytes) -> Written:
    """Encode `event` as the record that follows the hash `previous`."""
    payload = encode(event.payload)
    blob = None
    if len(payload) > BLOB_OVER_BYTES:
        blob = payload
        name = hashlib.sha256(payload).hexdigest()
        payload = encode(Aside(blob=name, size=len(blob), type=type_of(event.payload)))
    envelope = _Envelope(event.seq, event.id, event.at_us, event.turn, msgspec.Raw(payload))
    data = encode(envelope)
    return Written(Record(event.seq, type_of(event.payload), data, link(previous, data)), blob)


def check(record: Record, previous: bytes, expected_seq: int) -> None:
    """Raise `CorruptJournal` unless `record` is the one that follows `previous`."""
    if record.seq != expected_seq:
        raise CorruptJournal(
            "E-JOURNAL-GAP", f"Event {expected_seq} is missing; event {record.seq} follows."
        )
    if link(previous, record.data) != record.hash:
        raise CorruptJournal(
            "E-JOURNAL-HASH",
            f"Event {record.seq} ({record.type}) is not what was written: its hash is wrong.",
        )


def aside(record: Record) -> Aside | None:
    """Return where the payload lies, or None when it is in the record itself."""
    envelope = _envelope(record)
    if bytes(envelope.payload).startswith(_ASIDE):
        return decode(envelope.payload, Aside)
    return None


def read(record: Record, blob: bytes | None = None) -> Event:
    """Decode a record; `blob` is the payload of one that lies aside.

    Raises `CorruptJournal` (E-JOURNAL-EVENT) naming the event that cannot be read.
    """
    envelope = _envelope(record)
    raw: bytes = bytes(envelope.payload) if blob is None else blob
    try:
        payload = _PAYLOADS.read(raw)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise _unreadable(record, error) from error
    return Event(envelope.seq, envelope.id, envelope.at_us, envelope.turn, payload)


def _envelope(record: Record) -> _Envelope:
    try:
        return _ENVELOPES.read(record.data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise _unreadable(record, error) from error


def _unreadable(record: Record, error: Exception) -> CorruptJournal:
    return CorruptJournal(
        "E-JOURNAL-EVENT",
        f"Event {record.seq} ({record.type}) cannot be read by this version: {error}",
        "A newer perdure may have written it. Nothing was changed.",
    )
