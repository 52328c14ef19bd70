"""A journal as lines of JSON: out of one store and, unchanged, into another.

    {"perdure":"journal","format":1,"session":"…","events":14}
    {"blob":"<sha-256>","base64":"…"}                       before the event that names it
    {"seq":1,"type":"session.created","hash":"<hex>","data":{…}}
    {"end":14,"hash":"<hex>"}

`data` is the event's bytes as they are stored, so the hash chain can be checked by anybody with a
few lines of code. Snapshots of workspaces are not in it.
"""

import base64
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from perdure.core import events as e, journal as records
from perdure.core.codec import encode
from perdure.core.errors import Conflict, CorruptJournal, InvalidRequest, NotFound
from perdure.core.events import FORMAT, Event
from perdure.core.evolve import fold
from perdure.core.journal import GENESIS, Record
from perdure.core.state import State
from perdure.engine.errors import rows_of
from perdure.engine.summary import row_of
from perdure.ports.store import Batch, Store

_PAGE: Final = 1000
_DATA: Final = b',"data":'
_ORDER: Final = "0123456789abcdefghjkmnpqrstvwxyz"

Lines = Iterable[bytes] | AsyncIterable[bytes]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    perdure: str
    format: int
    session: str
    events: int


class _Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    blob: str
    base64: str


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: int
    type: str
    hash: str


class _End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    end: int
    hash: str


class Exported(msgspec.Struct, frozen=True):
    """A journal as it was read from lines, its chain checked."""

    session: str
    records: tuple[Record, ...]
    events: tuple[Event, ...]
    blobs: Mapping[str, bytes]


async def export_session(store: Store, session: str) -> AsyncIterator[bytes]:
    """Yield the lines of a session's journal as it is now, each with its end of line.

    Raises `NotFound`, `CorruptJournal`.
    """
    row = await store.session(session)
    if row is None:
        raise NotFound("E-SESSION-UNKNOWN", f"There is no session {session}.", "perdure ls")
    yield encode(_Header("journal", FORMAT, session, row.seq)) + b"\n"
    seq, previous = 0, GENESIS
    told: set[str] = set()
    while seq < row.seq:
        for record in await store.read(session, seq, min(_PAGE, row.seq - seq)):
            records.check(record, previous, seq + 1)
            async for line in _blobs(store, record, told):
                yield line
            head = encode(_Line(record.seq, record.type, record.hash.hex()))
            yield head[:-1] + _DATA + record.data + b"}\n"
            seq, previous = record.seq, record.hash
    yield encode(_End(seq, previous.hex())) + b"\n"


async def _blobs(store: Store, record: Record, told: set[str]) -> AsyncIterator[bytes]:
    """Yield the blobs an event needs: its own payload and a tool's whole output."""
    aside = records.aside(record)
    names = [aside.blob] if aside else []
    payload = await store.blobs.get(aside.blob) if aside else None
    event = records.read(record, payload)
    if isinstance(event.payload, e.ToolFinished) and event.payload.full:
        names.append(event.payload.full)
    for name in names:
        if name not in told:
            told.add(name)
            data = await store.blobs.get(name)
            yield encode(_Blob(name, base64.b64encode(data).decode())) + b"\n"


async def import_session(store: Store, lines: Lines, name: str = "", *, by: str = "") -> str:
    """Store an exported journal, unchanged, and return the session's id.

    Everything is read and checked before anything is written. The chain proves that nothing in it
    was changed since it was written, not who wrote it, nor that the names in it are true: with `by`
    one event is added that says who brought it. Under another `name` that event also says where it
    came from, and the session is paused. Raises `InvalidRequest`
    (E-IMPORT), `CorruptJournal`, `Conflict` (E-SESSION-EXISTS).
    """
    exported = await read_journal(lines)
    session = name or exported.session
    found, state = list(exported.records), fold(exported.events)
    newest = exported.events[-1]
    if by or session != state.id:
        newest, record = _brought(exported, state, session, by)
        state = fold([*exported.events, newest])
        found.append(record)
    claim = await store.claim(session)
    try:
        if claim.seq:
            raise Conflict(
                "E-SESSION-EXISTS",
                f"There is a session {session} already. Nothing was written.",
                "Bring it under another name: perdure import FILE --name NAME",
            )
        for data in exported.blobs.values():
            await store.blobs.put(data)
        errors = rows_of(session, _own(session, exported.events))
        row = row_of(state, newest)
        await store.append(Batch(session, claim.epoch, 0, found, row=row, errors=errors))
    finally:
        await store.release(claim)
    return session


def _own(session: str, events: Sequence[Event]) -> Sequence[Event]:
    """Return what happened to the session under this name; errors before are another's."""
    begun = 0
    name = ""
    for event in events:
        if isinstance(event.payload, e.SessionCreated | e.SessionForked):
            begun, name = event.seq, event.payload.session
    return events[begun:] if name == session else ()


def _brought(exported: Exported, state: State, session: str, by: str) -> tuple[Event, Record]:
    """Return the event by which a journal goes on here, under another name or its own."""
    last = exported.events[-1]
    payload: e.Payload
    if session != state.id:
        payload = e.SessionForked(
            session, state.id, last.seq, by, imported=last.seq, imported_by=by
        )
    else:
        payload = e.NoteRecorded(_told(last.seq, by), last.seq, by)
    turn = state.turn.number if state.turn else 0
    event = Event(last.seq + 1, _after(last.id), last.at_us, turn, payload)
    return event, records.write(event, exported.records[-1].hash).record


def _told(events: int, by: str) -> str:
    return f"Imported by {by}: events 1 to {events} are as they came, and so are the names in them."


def _after(id: str) -> str:
    """Return the next id in order: the same lines give the same session wherever they go."""
    kept = id.rstrip(_ORDER[-1])
    if not kept or kept[-1] not in _ORDER:
        return id + _ORDER[1]
    counted = kept[:-1] + _ORDER[_ORDER.index(kept[-1]) + 1]
    return counted + _ORDER[0] * (len(id) - len(kept))


async def read_journal(lines: Lines) -> Exported:
    """Read exported lines and check all of them. Raises `InvalidRequest`, `CorruptJournal`."""
    reader = _Reader()
    number = 0
    async for line in _each(lines):
        number += 1
        if line.strip():
            reader.take(line.strip(), number)
    return reader.end()


class _Reader:
    """Takes line after line."""

    def __init__(self) -> None:
        self._header: _Header | None = None
        self._records: list[Record] = []
        self._events: list[Event] = []
        self._blobs: dict[str, bytes] = {}
        self._ended = False

    def take(self, line: bytes, number: int) -> None:
        """Take one line. Raises `InvalidRequest` naming it, `CorruptJournal`."""
        try:
            if self._header is None:
                self._header = self._headed(msgspec.json.decode(line, type=_Header))
            elif line.startswith(b'{"blob":'):
                self._keep(msgspec.json.decode(line, type=_Blob))
            elif line.startswith(b'{"end":'):
                self._close(msgspec.json.decode(line, type=_End))
            else:
                head, data, body = line.partition(_DATA)
                self._add(msgspec.json.decode(head + b"}", type=_Line), body[:-1] if data else b"")
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
            raise InvalidRequest(
                "E-IMPORT", f"Line {number} is not a line of an exported journal: {error}"
            ) from error

    def end(self) -> Exported:
        """Return the journal. Raises `InvalidRequest` when the last line did not come."""
        if self._header is None or not self._ended or not self._records:
            raise InvalidRequest(
                "E-IMPORT", "The lines end before the journal does. Nothing was stored."
            )
        return Exported(
            self._header.session, tuple(self._records), tuple(self._events), self._blobs
        )

    @staticmethod
    def _headed(header: _Header) -> _Header:
        if header.perdure != "journal" or header.format > FORMAT:
            raise ValueError(f"it says format {header.format} of {header.perdure!r}")
        return header

    def _keep(self, blob: _Blob) -> None:
        data = base64.b64decode(blob.base64, validate=True)
        if hashlib.sha256(data).hexdigest() != blob.blob:
            raise CorruptJournal(
                "E-JOURNAL-HASH", f"Blob {blob.blob} is not what was exported: its hash is wrong."
            )
        self._blobs[blob.blob] = data

    def _add(self, line: _Line, data: bytes) -> None:
        record = Record(line.seq, line.type, data, bytes.fromhex(line.hash))
        previous = self._records[-1].hash if self._records else GENESIS
        records.check(record, previous, len(self._records) + 1)
        aside = records.aside(record)
        if aside is not None and aside.blob not in self._blobs:
            raise ValueError(f"event {line.seq} needs blob {aside.blob}, which is missing")
        event = records.read(record, self._blobs[aside.blob] if aside else None)
        if event.type != line.type:
            raise ValueError(f"event {line.seq} is a {event.type}, not a {line.type}")
        self._events.append(event)
        self._records.append(record)

    def _close(self, end: _End) -> None:
        if not self._records or (end.end, end.hash) != (
            self._records[-1].seq,
            self._records[-1].hash.hex(),
        ):
            raise ValueError("it names another end than the last event")
        self._ended = True


async def _each(lines: Lines) -> AsyncIterator[bytes]:
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            yield line
    else:
        for line in lines:
            yield line
