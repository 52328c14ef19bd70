"""One session's journal in the hands of its owner: read once, then appended to.

`append` changes the state at once and returns; the disk follows behind, one batch at a time,
each batch holding all that has gathered. What must not happen before it is written waits for
`durable()`. When the store says that somebody else owns the session, nothing more is accepted.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec

from perdure.core import journal as records
from perdure.core.codec import Reader, encode
from perdure.core.content import ContextItem
from perdure.core.context import Transcript
from perdure.core.errors import CorruptJournal, LeaseLost, PerdureError, StoreFull, Unavailable
from perdure.core.events import Event, Payload, SessionRewound, TurnStarted
from perdure.core.evolve import evolve
from perdure.core.state import FOLD_VERSION, State
from perdure.core.timeline import effective, rewound
from perdure.engine.errors import rows_of
from perdure.engine.kit import Kit
from perdure.engine.summary import row_of, telling, wakes_at
from perdure.ports.blobs import Blobs
from perdure.ports.store import Batch, Claim, Letter, Store

T = TypeVar("T")

Marks = dict[int, tuple[State, bytes]]

_PAGE = 1000
_MARK_EVERY = 64


class Cached(msgspec.Struct, frozen=True):
    """A state as it is cached: which fold made it, at which seq, after which hash."""

    fold: int
    seq: int
    hash: bytes
    state: State


_CACHED = Reader[Cached](Cached)


async def events_of(
    store: Store, session: str, after: int = 0, previous: bytes | None = records.GENESIS
) -> AsyncIterator[tuple[Event, bytes]]:
    """Yield durable events after seq `after` with their hashes, checking the chain.

    `previous` is the hash of the event `after`; None trusts the first one. Raises
    `CorruptJournal` naming the event that is not what was written.
    """
    while True:
        page = await store.read(session, after, _PAGE)
        for record in page:
            if previous is not None:
                records.check(record, previous, after + 1)
            yield await _event(store.blobs, record), record.hash
            after, previous = record.seq, record.hash
        if len(page) < _PAGE:
            return


async def load(
    store: Store, session: str, at: int | None = None, marks: Marks | None = None
) -> tuple[State, bytes, int]:
    """Return the state of `session` at event `at` (default: its last), the hash of that event,
    and the seq that was cached. `marks` are states that were met on the way.
    """
    state, hash_, cached = State(), records.GENESIS, 0
    found = await store.load_state(session)
    if found is not None:
        kept = _usable(found[1])
        if kept is not None and (at is None or kept.seq <= at):
            state, hash_, cached = kept.state, kept.hash, kept.seq
    marks = {} if marks is None else marks
    nearest = max((seq for seq in marks if at is None or seq <= at), default=0)
    if nearest > state.seq:
        state, hash_ = marks[nearest]
    if at == state.seq:
        return state, hash_, cached
    async for event, link in events_of(store, session, state.seq, hash_):
        if isinstance(event.payload, SessionRewound):
            # The nearest mark is not before the last rewind, so that nested ones cost no more.
            base, _, _ = await load(store, session, event.payload.to, marks)
            state, hash_ = rewound(base, state, event), link
            marks[event.seq] = (state, hash_)
        else:
            state, hash_ = evolve(state, event), link
        if event.seq % _MARK_EVERY == 0:
            marks[event.seq] = (state, hash_)
        if event.seq == at:
            break
    return state, hash_, cached


async def follow(store: Store, session: str, state: State, event: Event) -> State:
    """Fold one event of a stored journal; a rewind is folded onto the state it goes back to."""
    if not isinstance(event.payload, SessionRewound):
        return evolve(state, event)
    base, _, _ = await load(store, session, event.payload.to)
    return rewound(base, state, event)


def _usable(data: bytes) -> Cached | None:
    """Return the cached state, or None when another version wrote it: then all is folded."""
    try:
        kept = _CACHED.read(data)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return kept if kept.fold == FOLD_VERSION else None


class Journal:
    """The journal of a session that this process owns."""

    def __init__(self, kit: Kit, claim: Claim, state: State, cached: int) -> None:
        self.claim = claim
        self.state = state
        self.failure: Exception | None = None
        self._kit = kit
        self._hash = claim.hash
        self._durable_seq = claim.seq
        self._cached_seq = cached
        self._waiting: list[tuple[Event, records.Written]] = []
        self._taken: list[str] = []
        self._taken_unwritten: set[str] = set()
        self._last = ""  # what the session's row says
        self._taken_written: set[str] = set()  # since the inbox was last asked for
        self._flusher: asyncio.Task[None] | None = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._undurable: list[Event] = []
        self._transcript: Transcript | None = Transcript() if state.seq == 0 else None
        self.left = False  # whether what is due here is left to whoever can do it
        self.published: Callable[[list[Event], State], None] = lambda _events, _state: None
        self.noted: Callable[[State], None] = lambda _state: None  # of each change, at once

    @classmethod
    async def open(cls, kit: Kit, claim: Claim) -> "Journal":
        """Read and fold. Raises `CorruptJournal` when the journal contradicts itself, `LeaseLost`
        when another owner has gone on with it since the claim.
        """
        state, hash_, cached = await load(kit.store, claim.session)
        if (state.seq, hash_) != (claim.seq, claim.hash):
            # Only who still owns it may say that it is broken: this writes nothing, and is refused.
            await kit.store.append(Batch(claim.session, claim.epoch, claim.seq, ()))
            raise CorruptJournal(
                "E-JOURNAL-HEAD",
                f"The journal of {claim.session} ends at event {state.seq}, but the store says "
                f"{claim.seq}. It was not touched.",
                "perdure doctor --verify",
            )
        return cls(kit, claim, state, cached)

    def lose(self) -> None:
        """Accept nothing more: the session is not ours any more."""
        self._fail(lost(self.claim.session))

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append events; `taken` is the key of the letter that they stand for.

        Raises what ended the journal when the session is not ours any more.
        """
        if self.failure is not None:
            raise self.failure
        for payload in payloads:
            event = self._event(payload)
            self.state = evolve(self.state, event)
            self._put(event)
            if self._transcript is not None:
                self._transcript.apply(event)
        self.noted(self.state)
        self._hand_over(taken)

    def rewind(self, payload: SessionRewound, base: State, *, taken: str) -> None:
        """Append a rewind to event `payload.to`, the state at which was `base`."""
        if self.failure is not None:
            raise self.failure
        event = self._event(payload)
        self.state = rewound(base, self.state, event)
        self._transcript = None
        self._put(event)
        self.noted(self.state)
        self._hand_over(taken)

    def _put(self, event: Event) -> None:
        written = records.write(event, self._hash)
        self._hash = written.record.hash
        self._waiting.append((event, written))
        self._undurable.append(event)

    def _hand_over(self, taken: str) -> None:
        """Let the flusher write what has gathered."""
        if taken:
            self._taken.append(taken)
            self._taken_unwritten.add(taken)
        if self._flusher is None and (self._waiting or self._taken):
            self._flusher = asyncio.create_task(self._flush(), name=f"flush {self.claim.session}")

    async def inbox(self) -> list[Letter]:
        """Return the letters that are not in the journal yet."""
        self._taken_written.clear()
        letters = await self._kit.store.inbox(self.claim.session)
        # A letter may be taken and written while the store answers with how things were before.
        known = self._taken_unwritten | self._taken_written
        return [letter for letter in letters if letter.key not in known]

    async def durable(self) -> None:
        """Wait until all that was appended so far is on disk."""
        if self.failure is not None:
            raise self.failure
        if self._durable_seq >= self.state.seq:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self.state.seq, future))
        await future

    async def keep(self, data: bytes) -> str:
        """Put a large payload aside, durably; return its name."""
        return await self.patiently(lambda: self._kit.store.blobs.put(data))

    async def patiently(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write, again and again while the disk is full: what is known must not be lost."""
        pause = self._kit.bounds.store_retry_s
        while True:
            try:
                return await write()
            except StoreFull:
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._kit.bounds.store_retry_cap_s)

    async def transcript(self) -> Transcript:
        """Return the transcript, reading the journal once if it is not in memory."""
        if self._transcript is not None:
            return self._transcript
        events: list[Event] = []
        seq, previous = 0, records.GENESIS
        while seq < self._durable_seq:
            async for event, hash_ in events_of(self._kit.store, self.claim.session, seq, previous):
                if event.seq > self._durable_seq:
                    break  # ours, not acknowledged yet; or a new owner's, and not our history
                events.append(event)
                seq, previous = event.seq, hash_
        events.extend(event for event in self._undurable if event.seq > seq)
        self._transcript = Transcript(effective(events))
        return self._transcript

    def items(self) -> list[ContextItem]:
        """Return the transcript's items; it must have been loaded by `transcript()` before."""
        assert self._transcript is not None, "the transcript was not loaded"
        return self._transcript.items

    async def leave_to_others(self) -> None:
        """Say in the list that something is due here that this process cannot do. A courtesy:
        it fails quietly.
        """
        self.left = True
        with contextlib.suppress(PerdureError):
            await self.durable()
            row = await self._kit.store.session(self.claim.session)
            if row is None or not (when := wakes_at(self.state, left=True)):
                return
            row = msgspec.structs.replace(row, wake_at_us=when)
            seq = self._durable_seq
            await self._kit.store.append(
                Batch(self.claim.session, self.claim.epoch, seq, (), row=row)
            )

    async def close(self) -> None:
        """Write what is waiting and cache the state. Raises nothing: a failure was told."""
        flusher = self._flusher
        if flusher is not None:
            await asyncio.wait({flusher}, timeout=self._kit.bounds.close_s)
            if not flusher.done():  # the disk is still full: what waits was never acknowledged
                flusher.cancel()
                await asyncio.wait({flusher})
        if self.failure is None and self.state.seq > self._cached_seq + 16:
            await self._cache(self.state, self._hash)

    def _event(self, payload: Payload) -> Event:
        at_us = self._kit.clock.now_us()
        turn = self.state.turn.number if self.state.turn else 0
        if isinstance(payload, TurnStarted):
            turn = self.state.turns + 1
        return Event(self.state.seq + 1, self._kit.ids.event(at_us), at_us, turn, payload)

    async def _flush(self) -> None:
        """Write batch after batch until nothing waits. A full disk is waited out."""
        try:
            while self._waiting or self._taken:
                waiting, self._waiting = self._waiting, []
                taken, self._taken = self._taken, []
                state, hash_ = self.state, self._hash  # as they are after what is written now
                await self._write(waiting, taken)
                self._acknowledge([event for event, _ in waiting], taken, state)
                if self._durable_seq >= self._cached_seq + self._kit.bounds.cache_every:
                    await self._cache(state, hash_)
        except asyncio.CancelledError:
            self._fail(Unavailable("E-STORE-FULL", "The store could not be written in time."))
        except Exception as error:  # noqa: BLE001  # whatever it is, the waiters must hear of it
            self._fail(error)
        finally:
            self._flusher = None

    async def _write(self, waiting: list[tuple[Event, records.Written]], taken: list[str]) -> None:
        newest = telling([event for event, _ in waiting])
        row = row_of(self.state, newest, left=self.left, last=self._last)
        self._last = row.last  # what comes next may tell nobody anything
        batch = Batch(
            self.claim.session,
            self.claim.epoch,
            self._durable_seq,
            [written.record for _, written in waiting],
            taken,
            row,
            rows_of(self.claim.session, [event for event, _ in waiting]),
        )
        for _, written in waiting:
            if written.blob is not None:
                await self.keep(written.blob)
        await self.patiently(lambda: self._kit.store.append(batch))

    def _acknowledge(self, events: list[Event], taken: list[str], state: State) -> None:
        self._taken_unwritten.difference_update(taken)
        self._taken_written.update(taken)
        if not events:
            return
        self._durable_seq = events[-1].seq
        del self._undurable[: len(events)]
        due = [f for seq, f in self._waiters if seq <= self._durable_seq]
        self._waiters = [(seq, f) for seq, f in self._waiters if seq > self._durable_seq]
        for future in due:
            if not future.done():
                future.set_result(None)
        self.published(events, state)

    async def _cache(self, state: State, hash_: bytes) -> None:
        """Cache a state that is on the disk. Whatever goes wrong here costs only time."""
        if state.seq != self._durable_seq:
            return
        self._cached_seq = state.seq
        data = encode(Cached(FOLD_VERSION, state.seq, hash_, state))
        try:
            await self._kit.store.save_state(self.claim.session, state.seq, data)
        except StoreFull:
            return

    def _fail(self, error: Exception) -> None:
        self.failure = error
        waiters, self._waiters = self._waiters, []
        for _, future in waiters:
            if not future.done():
                future.set_exception(error)


def lost(session: str) -> LeaseLost:
    """Return what says that a session is another process's now."""
    return LeaseLost(
        "E-LEASE-LOST",
        f"{session} was lost to another process, or is about to be. Nothing more is written here.",
        f"perdure watch {session}",
    )


async def _event(blobs: Blobs, record: records.Record) -> Event:
    aside = records.aside(record)
    return records.read(record, await blobs.get(aside.blob) if aside else None)
