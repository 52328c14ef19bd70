"""Those outside: they send messages, read what comes of them, and decide where a person must.

They belong to no node: they reach the store by a way of their own, and try again until it answers.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.content import as_content
from perdure.core.errors import Unavailable
from perdure.core.events import Event
from perdure.core.inbox import Decide, Post, Say
from perdure.engine.runtime import Engine
from perdure.testing.chaos import history as h
from perdure.testing.chaos.node import Readers

_RETRY_S: Final = 0.1


class Users:
    """One user for each session. `say` is what each of them asks for, again and again."""

    def __init__(self, engine: Engine, notes: h.Notes, tail: h.Tail, seed: int) -> None:
        self.turns = 0
        self.readers = Readers(engine, notes, "client", 0.1)
        self.readers.seen = self._seen
        self._engine = engine
        self._notes = notes
        self._tail = tail
        self._random = random.Random(seed)
        self._stop = asyncio.Event()
        self._ended: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._asked: set[asyncio.Task[None]] = set()
        self._began: set[tuple[str, str]] = set()
        self.claims: dict[str, list[h.Claimed]] = defaultdict(list)

    async def converse(self, session: str, scripts: Sequence[str], *, rest_s: float = 0.3) -> None:
        """Send messages to a session, each when the turn of the one before is over, until `stop`.
        The scripts are sent in any order; a single one is sent once.
        """
        self.readers.follow(session)
        number = 0
        while not self._stop.is_set():
            number += 1
            self._ended[session].clear()
            script = self._random.choice(scripts)
            await self._post(session, f"m{number}", Say("message", as_content(script)))
            await self._ended[session].wait()
            if len(scripts) == 1:
                return
            await asyncio.sleep(self._random.uniform(0.0, rest_s))

    def stop(self) -> None:
        """Send nothing more; the turns that run are waited for."""
        self._stop.set()

    async def close(self) -> None:
        """Read nothing more."""
        await self.readers.stop()
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def _post(self, session: str, key: str, post: Post) -> None:
        body = encode(post)
        while True:
            try:
                await self._engine.kit.store.post(session, key, body)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
            else:
                break
        if isinstance(post, Say):
            self._notes.write(h.Posted(session, key, h.now_ns()))

    def _seen(self, session: str, event: Event) -> None:
        match event.payload:
            case e.TurnEnded():
                self.turns += 1
                self._ended[session].set()
            case e.ActionRequested():
                task = asyncio.create_task(self._decide(session, event.payload))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)
            case _:
                pass

    async def _decide(self, session: str, action: e.ActionRequested) -> None:
        """Look at the world, as an honest person would. Nothing is ever run again by our word: a
        node that stands still may yet do what it was about to do.
        """
        self.look()
        happened = (session, action.call_id) in self._began
        decision = Decide(action.action_id, "failed", by="chaos")
        if happened:
            decision = Decide(action.action_id, "done", by="chaos", result="It was seen.")
        await self._post(session, f"d{action.action_id}", decision)

    def look(self) -> None:
        """Read what the tools and nodes wrote down since."""
        for each in self._tail.poll():
            if isinstance(each, h.Began):
                self._began.add((each.session, each.call))
            elif isinstance(each, h.Claimed):
                self.claims[each.session].append(each)
