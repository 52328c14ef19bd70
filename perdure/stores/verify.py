"""Is what lies in a store what was written? Walks every session as a reader years later would.

Reads pages, one payload at a time, so that a store larger than memory can be checked. A fork is
walked from the first event of its origin on: its journal is whole only if that part of it is.
"""

from typing import Final, Protocol, runtime_checkable

import msgspec

from perdure.core.errors import CorruptJournal
from perdure.core.events import Event, SessionRewound, ToolFinished
from perdure.core.evolve import evolve
from perdure.core.journal import GENESIS, Record, aside, check, read
from perdure.core.state import State
from perdure.core.timeline import rewound
from perdure.ports.store import SessionRow, Store

_PAGE: Final = 200
_MARK_EVERY: Final = 64


class Finding(msgspec.Struct, frozen=True):
    """Something wrong. `seq` is the first bad event, or 0 where it is none in particular;
    an empty `session` means the store as a whole.
    """

    session: str
    seq: int
    code: str
    message: str


@runtime_checkable
class SelfChecking(Protocol):
    """A store that can look below its tables: returns a session's name or "", and what it saw."""

    async def check(self) -> list[tuple[str, str]]: ...


class _Bad(Exception):
    def __init__(self, seq: int, cause: CorruptJournal) -> None:
        super().__init__(str(cause))
        self.seq = seq
        self.cause = cause


async def verify(store: Store) -> list[Finding]:
    """Return what is wrong: for each session its first bad event; nothing, when all is well."""
    findings = await _below(store)
    try:
        rows = await store.sessions()
    except CorruptJournal as error:
        return [*findings, Finding("", 0, error.code, error.message)]
    for row in rows:
        try:
            await _walk(store, row)
        except _Bad as bad:
            findings.append(Finding(row.id, bad.seq, bad.cause.code, bad.cause.message))
    return findings


async def _below(store: Store) -> list[Finding]:
    if not isinstance(store, SelfChecking):
        return []
    try:
        found = await store.check()
    except CorruptJournal as error:
        return [Finding("", 0, error.code, error.message)]
    return [Finding(session, 0, "E-DB-CORRUPT", message) for session, message in found]


async def _walk(store: Store, row: SessionRow) -> None:
    state, end, marks = State(), GENESIS, dict[int, State]()
    while page := await _page(store, row.id, state.seq):
        for record in page:
            try:
                check(record, end, state.seq + 1)
                event = await _event(store, record)
                state, end = await _follow(store, row.id, state, event, marks), record.hash
                await _look_for_blobs(store, event)
            except CorruptJournal as error:
                raise _Bad(record.seq, error) from error
    if row.seq > state.seq:
        message = f"The list says {row.seq} events; the journal ends at {state.seq}."
        raise _Bad(state.seq + 1, CorruptJournal("E-JOURNAL-HEAD", message))


async def _follow(
    store: Store, session: str, state: State, event: Event, marks: dict[int, State]
) -> State:
    if isinstance(event.payload, SessionRewound):
        state = rewound(await _state_at(store, session, event.payload.to, marks), state, event)
        marks[event.seq] = state
    else:
        state = evolve(state, event)
    if event.seq % _MARK_EVERY == 0:
        marks[event.seq] = state
    return state


async def _state_at(store: Store, session: str, seq: int, marks: dict[int, State]) -> State:
    """Fold from what this walk has made itself: a cached state is no witness for its events.

    The nearest mark is not before the last rewind, so that nested ones cost no more than others.
    """
    state = marks.get(max((mark for mark in marks if mark <= seq), default=0), State())
    while state.seq < seq and (page := await _page(store, session, state.seq)):
        for record in page[: seq - state.seq]:
            state = await _follow(store, session, state, await _event(store, record), marks)
    return state


async def _page(store: Store, session: str, after: int) -> list[Record]:
    try:
        return await store.read(session, after, _PAGE)
    except CorruptJournal as error:
        raise _Bad(after + 1, error) from error


async def _event(store: Store, record: Record) -> Event:
    where = aside(record)
    event = read(record, await store.blobs.get(where.blob) if where else None)
    if (event.seq, event.type) != (record.seq, record.type):
        raise CorruptJournal(
            "E-JOURNAL-EVENT",
            f"Event {record.seq} ({record.type}) says of itself that it is {event.seq}"
            f" ({event.type}).",
        )
    return event


async def _look_for_blobs(store: Store, event: Event) -> None:
    if isinstance(event.payload, ToolFinished) and event.payload.full:
        await store.blobs.get(event.payload.full)
