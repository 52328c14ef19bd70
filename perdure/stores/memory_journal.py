"""One session as it lies on a `MemoryDisk`. A fork points at its origin and copies nothing."""

from collections.abc import Iterator
from typing import NamedTuple

from perdure.core.journal import GENESIS, Record
from perdure.ports.store import ErrorRow, SessionRow


class Posted(NamedTuple):
    """A letter: `body` is None once it was taken, but its key is remembered."""

    digest: bytes
    body: bytes | None


class Process:
    """Stands for the process behind a connection: it is alive until it closes or is killed."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.alive = True


class Part(NamedTuple):
    """The events of `journal` with after < seq <= until, as a part of some session's journal."""

    journal: "Journal"
    after: int
    until: int


class Journal:
    """A session. `records` are its own; those of a fork come after event `base` of its origin."""

    def __init__(self, epoch: int = 0) -> None:
        self.origin: Journal | None = None
        self.base = 0
        self.records: list[Record] = []
        self.owner: Process | None = None
        self.epoch = epoch
        self.row: SessionRow | None = None
        self.letters: dict[str, Posted] = {}
        self.state: tuple[int, bytes] | None = None
        self.errors: dict[str, ErrorRow] = {}

    @property
    def seq(self) -> int:
        """The end of the journal."""
        return self.base + len(self.records)

    @property
    def hash(self) -> bytes:
        """The hash of the last event."""
        last = self.record(self.seq)
        return last.hash if last else GENESIS

    def past(self) -> Iterator[Part]:
        """Yield where its events lie: its own first, then those of its origins up to the cut."""
        journal: Journal | None = self
        until = self.seq
        while journal is not None:
            yield Part(journal, journal.base, until)
            until, journal = journal.base, journal.origin

    def read(self, after: int, limit: int) -> list[Record]:
        """Return at most `limit` records with seq > `after`."""
        found: list[Record] = []
        for part in reversed([part for part in self.past() if part.until > after]):
            begin = max(after - part.after, 0)
            end = min(part.until - part.after, begin + limit - len(found))
            found.extend(part.journal.records[begin:end])
        return found

    def record(self, seq: int) -> Record | None:
        """Return the event of that number."""
        part = self.part_with(seq)
        return part.journal.records[seq - part.after - 1] if part else None

    def part_with(self, seq: int) -> Part | None:
        """Return the part in which the event of that number lies."""
        return next((p for p in self.past() if p.after < seq <= p.until), None)

    @property
    def is_abandoned(self) -> bool:
        """Whether there is work in it that no living process has taken on."""
        if (self.owner is not None and self.owner.alive) or (self.row and self.row.parent):
            return False
        running = self.row is not None and self.row.status == "running"
        return running or any(letter.body is not None for letter in self.letters.values())

    def count(self, error: ErrorRow) -> None:
        """Enter an error into the index."""
        before = self.errors.get(error.fingerprint)
        self.errors[error.fingerprint] = before.followed_by(error) if before else error

    def newest_state(self) -> tuple[int, bytes] | None:
        """Return the newest cached state of its own or, from before the cut, of an origin."""
        known = [(p.journal.state, p.until) for p in self.past()]
        own = known[0][0]
        past = [state for state, until in known[1:] if state and state[0] <= until]
        return max(([own] if own else []) + past, key=lambda state: state[0], default=None)

    def begin_after(self, origin: "Journal", base: int) -> None:
        """Become a fork. Whoever claimed it before has lost it."""
        self.origin, self.base = origin, base
        self.owner, self.row, self.state = None, None, None
        self.epoch += 1
