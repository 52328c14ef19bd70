"""Live fan-out inside one process: durable events after their commit, and pieces of text that
are never stored. A follower that is too slow loses its backlog and re-reads the journal.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from perdure.core.events import Event
from perdure.core.state import State
from perdure.ports.model import Delta


class Progress(msgspec.Struct, frozen=True, tag="tool.progress"):
    """A piece of a running tool's output."""

    call_id: str
    text: str


class Live(msgspec.Struct, frozen=True):
    """Something that is happening now. It has no seq: it may be lost, and is not in the journal.

    `after` is the event behind which it happened, where that is not simply the last one that its
    reader has seen: it comes from another process, on another way than the journal. Else None.
    """

    piece: Delta | Progress
    after: int | None = None


class Follower:
    """One reader's backlog. `None` in it means: re-read the journal.

    `state` is the newest durable one that was published here; None until then.
    """

    def __init__(self, backlog: int) -> None:
        self.state: State | None = None
        self._items: deque[Event | Live | None] = deque()
        self._backlog = backlog
        self._ready = asyncio.Event()
        self._error: Exception | None = None

    def put(self, item: Event | Live | None) -> None:
        """Add to the backlog; when it is full, keep only the advice to re-read."""
        if len(self._items) >= self._backlog:
            self._items.clear()
            item = None
        if item is None and self._items and self._items[-1] is None:
            return
        self._items.append(item)
        self._ready.set()

    def fail(self, error: Exception) -> None:
        """Make the next wait raise `error`."""
        self._error = error
        self._ready.set()

    async def next(self) -> Event | Live | None:
        """Wait for the next item. Raises what the session's driver died of."""
        while not self._items:
            if self._error is not None:
                raise self._error
            self._ready.clear()
            await self._ready.wait()
        return self._items.popleft()


class Hub:
    """Who follows which session."""

    def __init__(self, backlog: int) -> None:
        self._backlog = backlog
        self.watch: Callable[[str, list[Event], State], object] = _nobody  # all that is published
        self.listened: Callable[[str, bool], object] = _never  # the first comes, the last has gone
        self.moved: Callable[[str], object] = _deaf  # a follower has read on in the journal
        self._ends: dict[str, int] = {}  # of what is followed, as far as it was told
        self._followers: dict[str, dict[Follower, None]] = {}  # told in the order they came

    @contextmanager
    def follow(self, session: str) -> Iterator[Follower]:
        """Take part in what is published of `session`."""
        follower = Follower(self._backlog)
        there = self._followers.setdefault(session, {})
        there[follower] = None
        if len(there) == 1:
            self.listened(session, True)
        try:
            yield follower
        finally:
            left = self._followers[session]
            del left[follower]
            if not left:
                del self._followers[session]
                self._ends.pop(session, None)
                self.listened(session, False)

    def publish(self, session: str, events: list[Event], state: State) -> None:
        """Hand out durable events and the state after the last of them."""
        self.watch(session, events, state)
        if events and session in self._followers:
            self._ends[session] = events[-1].seq
        for follower in self._followers.get(session, ()):
            follower.state = state
            for event in events:
                follower.put(event)

    def live(self, session: str, piece: Delta | Progress, after: int | None = None) -> None:
        """Hand out something that is happening now; see `Live.after`."""
        for follower in self._followers.get(session, ()):
            follower.put(Live(piece, after))

    def fail(self, session: str, error: Exception) -> None:
        """Tell the followers what the session's driver died of."""
        for follower in self._followers.get(session, ()):
            follower.fail(error)

    @property
    def followed(self) -> list[str]:
        """The sessions that somebody follows."""
        return list(self._followers)

    def nudge(self, ends: Mapping[str, int]) -> None:
        """Make followers re-read where the journal ends elsewhere than when this was last asked:
        another process has written. `ends` are those of all sessions that are followed.
        """
        for session, followers in self._followers.items():
            end = ends.get(session, 0)
            if self._ends.get(session) == end:
                continue
            self._ends[session] = end
            for follower in followers:
                follower.put(None)


def _nobody(session: str, events: list[Event], state: State) -> None:
    """Nobody watches."""


def _never(session: str, there: bool) -> None:
    """Nobody asks whether anybody listens."""


def _deaf(session: str) -> None:
    """Nobody asks whether anything moves."""
