"""Where journals live. Memory is the reference reading of this contract; `perdure.testing`
holds the suite that every store must pass.

One `Store` object is one process's connection. A session has at most one owner among all the
processes that share the data; ownership has an epoch that grows with every claim.

A store that keeps its data itself also implements `perdure.ports.carrying.Carriable`, without which
it could not be backed up or moved.
"""

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from perdure.core.journal import Record
from perdure.ports.blobs import Blobs


class Claim(NamedTuple):
    """Ownership of a session. `seq` and `hash` are the end of its journal (0 and GENESIS for a
    new one). `clean` is false when the last owner died without releasing it.
    """

    session: str
    epoch: int
    seq: int
    hash: bytes
    clean: bool


class SessionRow(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A session as lists show it; written with the events that change it. `wake_at_us` is when
    something is due in it by itself (0: never), see `Store.due`.
    """

    id: str
    agent: str = ""
    version: str = ""
    status: str = "idle"
    model: str = ""
    title: str = ""
    last: str = ""
    seq: int = 0
    turns: int = 0
    steps: int = 0
    tokens: int = 0
    micro_usd: int = 0
    unpriced: int = 0
    waiting: int = 0
    error: str = ""
    fingerprint: str = ""
    source: str = ""
    parent: str = ""
    created_at_us: int = 0
    updated_at_us: int = 0
    wake_at_us: int = 0


class ErrorRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error in the index over all sessions: what happened last, and how often in a session.

    `subject` is the tool or model, `origin` the user's file and line. `seq` and `turn` are those
    of the last occurrence; `stopped` says that it ended a turn, parked the session, or left a call
    to a person: its outcome unknown, or failed with `on_error="ask"`.
    """

    fingerprint: str
    session: str
    code: str
    kind: str
    message: str
    seq: int
    first_at_us: int
    last_at_us: int
    subject: str = ""
    origin: str = ""
    turn: int = 0
    stopped: bool = False
    count: int = 1

    def followed_by(self, later: "ErrorRow") -> "ErrorRow":
        """Return the row when the same error has occurred again.

        What then ends the turn that it occurred in is no further occurrence: it says what came
        of the last one.
        """
        same = later.stopped and not self.stopped and later.turn == self.turn
        return msgspec.structs.replace(
            later,
            first_at_us=self.first_at_us,
            subject=later.subject or self.subject,
            origin=later.origin or self.origin,
            count=self.count + (0 if same else later.count),
        )


class Batch(NamedTuple):
    """One session's next records, in order, for one transaction.

    `taken` are the keys of the inbox items that these records stand for: they leave the inbox in
    the same transaction; a key that does not wait is no error. `row` replaces the session's row.
    `errors` are the errors among the records, one each, in order, for the index. There may be no
    records, when only the row changes.
    """

    session: str
    epoch: int
    expected_seq: int
    records: Sequence[Record]
    taken: Sequence[str] = ()
    row: SessionRow | None = None
    errors: Sequence[ErrorRow] = ()


class Letter(NamedTuple):
    """An inbox item that waits: its key and its body."""

    key: str
    body: bytes


class Doc(NamedTuple):
    """A document: small, changed as a whole, and no session's own (a rule, a schedule)."""

    name: str
    version: int
    data: bytes


class Store(Protocol):
    """Journals, inboxes, cached states, documents, and the list of sessions."""

    @property
    def blobs(self) -> Blobs: ...

    async def claim(self, session: str) -> Claim:
        """Become the owner of `session`, which is made if there is none; durable on return.

        Claiming again what this connection owns gives a new epoch. Raises `SessionBusy` when
        another live process owns it, `Unavailable` when the store cannot be written, and
        `InvalidRequest` (E-SESSION-NAME) for a name that is empty, holds NUL or is not Unicode.
        """
        ...

    async def release(self, claim: Claim) -> None:
        """Give the session up. Never raises `LeaseLost`: what is not owned is released."""
        ...

    def holds(self, claim: Claim) -> bool:
        """Whether this connection may still write under `claim`, as far as it knows by itself.

        False means that ownership is lost for certain: stop at once what is done in its name. Where
        the word of a node runs out (see `perdure.stores.postgres`) this is learned between appends.
        """
        ...

    def append(self, batch: Batch) -> Awaitable[None]:
        """Append; the awaitable ends when the batch is durable (all of it or nothing).

        Batches of one session reach the journal in the order of the calls; all that wait share a
        commit, and one that is refused fails alone. What is in the batch is copied at once. Raises
        `StaleAppend` when the journal does not end at `expected_seq`, `LeaseLost` when the epoch
        is over, `CorruptJournal` (E-JOURNAL-GAP) when its own records are not dense, `StoreFull`
        when there is no room, `Unavailable` when nobody can tell (then re-read).
        """
        ...

    async def fork(self, source: str, at: int, session: str) -> None:
        """Begin `session` with the first `at` events of `source` as its own; durable on return.

        Nothing is copied: reading the new session reads them where they lie. Its journal goes on
        with seq `at + 1` and the hash of event `at`. Raises `NotFound` when `source` has no such
        event, `Conflict` (E-SESSION-EXISTS) when there is a `session` with events already,
        `SessionBusy` when another live process owns an empty one of that name. Until it has an
        event of its own it is not listed, takes no letters, and may be forked anew.
        """
        ...

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """Return at most `limit` durable records with seq > `after`, in order. Unchecked."""
        ...

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """Put a letter in the inbox; durable on return. False when that key was posted before.

        Raises `NotFound` (E-SESSION-UNKNOWN) for a session without events, and `Conflict`
        (E-KEY-REUSED) when the key was used with another body. Keys are remembered for as long
        as the session exists.
        """
        ...

    async def inbox(self, session: str) -> list[Letter]:
        """Return the letters not yet taken, in the order they were posted."""
        ...

    async def mailboxes(self, prefix: str = "") -> list[str]:
        """Return the sessions whose inbox is not empty and whose name begins with `prefix`."""
        ...

    async def sessions(self, prefix: str = "") -> list[SessionRow]:
        """Return all sessions with at least one event whose name begins with `prefix`, last
        `updated_at_us` first.

        One that never had a row is shown with its name and `seq` alone.
        """
        ...

    async def session(self, session: str) -> SessionRow | None:
        """Return the row of one session, or None when it has no events."""
        ...

    async def ends(self, sessions: Sequence[str]) -> dict[str, int]:
        """Return the seq of the last event of each of these sessions; those without events are left
        out. One question, however many.
        """
        ...

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        """Return at most `limit` sessions whose row has a `wake_at_us` that is not after `now_us`
        and whose name begins with `prefix`, earliest first, those of the same moment by name. 0 is
        no moment.
        """
        ...

    async def abandoned(self, limit: int = 100) -> list[str]:
        """Return at most `limit` sessions that look unfinished and have no live owner: their row
        says `running`, or letters wait in their inbox. By name. Subagents are none: they are driven
        where their root is. A store that cannot tell may name some that are owned.
        """
        ...

    async def errors(self, prefix: str = "") -> list[ErrorRow]:
        """Return the index of errors: a row for each fingerprint and session whose name begins with
        `prefix`, as `ErrorRow.followed_by` makes them of what was appended; by session, then
        fingerprint.
        """
        ...

    async def delete_session(self, session: str) -> None:
        """Delete a session for good, durably: its events, its inbox with all keys, its cached
        state, its row and its errors. One that does not exist is no error.

        Whoever owned it here has lost it; the name may be used anew, with epochs that go on. Events
        that a fork reads stay where they lie, reachable through forks alone, and go with the last
        of those forks. Blobs stay: others may refer to the same content. Raises `SessionBusy` when
        another live process owns it.
        """
        ...

    async def save_state(self, session: str, seq: int, data: bytes) -> None:
        """Keep `data` as the state at `seq`. A cache: only the highest `seq` is kept, none is
        needed, and that of an unknown session is dropped.
        """
        ...

    async def load_state(self, session: str) -> tuple[int, bytes] | None:
        """Return the newest cached state, or None.

        That of a fork's origin, when it is from before the cut, is one of the fork.
        """
        ...

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        """Write a document, durably; return its version: 1, 2, 3 and so on.

        `expect` is the version that must be there now, 0 for none; otherwise nothing is written
        and `Conflict` (E-DOC-CHANGED) is raised. Versions go on where they were when a document
        is deleted and comes again, so that none ever stands for two contents.
        """
        ...

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        """Return the documents of a kind whose name begins with `prefix`, by name: at most `limit`
        of those whose name sorts behind `after`.
        """
        ...

    async def doc(self, kind: str, name: str) -> Doc | None:
        """Return one document, or None."""
        ...

    async def delete_doc(self, kind: str, name: str) -> None:
        """Delete a document, durably. One that does not exist is no error."""
        ...

    async def changed(self, timeout_s: float) -> bool:
        """Wait until another process may have changed something, or `timeout_s` has passed.

        True at once for what has happened since the last time this returned True.
        """
        ...

    async def close(self) -> None:
        """Write what is waiting, release what is owned, let go. Afterwards every call raises
        `Unavailable` (E-STORE-CLOSED); closing again does nothing.
        """
        ...
