"""Taking what lies in a session's inbox into its journal."""

import asyncio
from typing import Final

import msgspec

from perdure.core import events as e
from perdure.core.codec import Reader
from perdure.core.inbox import Close, Post, Rewind, Say, accept
from perdure.core.state import State
from perdure.core.step import resting
from perdure.core.timeline import left_since
from perdure.engine.branching import cut
from perdure.engine.trees import Trees
from perdure.engine.work import Work
from perdure.ports.store import Store

_POSTS: Final = Reader[Post](Post)


class Mail:
    """The letters of one session. What arrives sets `arrived`; `drain` takes it."""

    def __init__(self, store: Store, session: str, trees: Trees | None) -> None:
        self.arrived = asyncio.Event()
        self.arrived.set()
        self._store = store
        self._session = session
        self._trees = trees
        self._draining = asyncio.Lock()
        self._put_off = False  # a letter waits for the end of the turn

    def look_again(self, work: Work) -> None:
        """See to it that what waited for the end of the turn is looked at when that has come."""
        if self._put_off and work.state.turn is None:
            self.arrived.set()

    async def drain(self, work: Work) -> None:
        """Take what lies in the inbox into the journal."""
        # The lock comes first: letters that are being taken aside must be in before we go on.
        async with self._draining:
            if not self.arrived.is_set():
                return
            self.arrived.clear()
            for letter in await work.journal.inbox():
                post = self._read(letter.body)
                if isinstance(post, str):
                    work.journal.append(e.NoteRecorded(post), taken=letter.key)
                elif isinstance(post, Rewind | Close) and work.state.turn is not None:
                    # The letter stays, and what came after it, until the turn is over.
                    self._put_off = True
                    if not _stopped(work.state):
                        name = f"{letter.key}:{work.state.seq}"
                        await self._take(work, Say("interrupt", by=post.by), name)
                    return
                elif isinstance(post, Rewind):
                    await self._rewind(work, post, letter.key)
                else:
                    self._put_off = self._put_off and not isinstance(post, Close)
                    await self._take(work, post, letter.key, taken=letter.key)

    async def _take(self, work: Work, post: Post, key: str, taken: str = "") -> None:
        """Write down what a letter means, and pass on what concerns subagents."""
        await self._relay(work, post, key)
        work.journal.append(*accept(work.state, post, key), taken=taken)
        await self._relay(work, post, key)

    async def _relay(self, work: Work, post: Post, key: str) -> None:
        if self._trees is not None:
            await self._trees.relay(work.state, post, key)

    async def _rewind(self, work: Work, post: Rewind, key: str) -> None:
        """Go back, unless the event is not in the session's own past."""
        self._put_off = False
        if not 0 < post.to < work.state.seq or work.state.closed:
            work.journal.append(*accept(work.state, post, key), taken=key)
            return
        await work.journal.durable()
        base, later = await cut(self._store, self._session, post.to)
        unsafe = tuple(left_since(base, later))
        work.journal.rewind(e.SessionRewound(base.seq, post.by, unsafe), base, taken=key)
        await work.journal.durable()

    @staticmethod
    def _read(body: bytes) -> Post | str:
        try:
            return _POSTS.read(body)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return f"A letter could not be read and was put aside: {error}"


def _stopped(state: State) -> bool:
    """Whether an interrupt is already ending the turn that is open."""
    return state.turn is not None and state.turn.interrupted and not resting(state)
