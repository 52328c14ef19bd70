"""Pieces of a reply, written to the journal as they come: for streams that outlive their server.

As many pieces as arrive while the disk is busy become one event, so a fast model costs no more
writes than the disk can take, and a slow one is seen word by word.
"""

import asyncio
from typing import Literal

from perdure.core.errors import PerdureError
from perdure.core.events import ModelDelta
from perdure.engine.journal import Journal
from perdure.ports.model import Delta, ReasoningDelta, TextDelta

Channel = Literal["text", "reasoning"]


class StoredDeltas:
    """Writes the pieces of one model call. Whoever ends the call appends `rest()` before it."""

    def __init__(self, journal: Journal, *, keeps: bool) -> None:
        self._keeps = keeps
        self._journal = journal
        self._channel: Channel = "text"
        self._texts: list[str] = []
        self._closed: list[ModelDelta] = []
        self._pump: asyncio.Task[None] | None = None

    def put(self, piece: Delta) -> bool:
        """Take a piece; False when it is not kept."""
        if not self._keeps:
            return False
        match piece:
            case TextDelta(text=text):
                self._add("text", text)
            case ReasoningDelta(text=text):
                self._add("reasoning", text)
            case _:
                return False
        if self._pump is None:
            self._pump = asyncio.create_task(self._write())
        return True

    def rest(self) -> tuple[ModelDelta, ...]:
        """Return what has not been appended yet; it is the caller's from now on."""
        self._close_piece()
        left, self._closed = tuple(self._closed), []
        return left

    def _add(self, channel: Channel, text: str) -> None:
        if channel != self._channel:
            self._close_piece()
            self._channel = channel
        self._texts.append(text)

    def _close_piece(self) -> None:
        text = "".join(self._texts)
        self._texts.clear()
        if text:
            self._closed.append(ModelDelta(self._channel, text))

    async def _write(self) -> None:
        """Append what has gathered, again and again, at the pace of the disk."""
        try:
            while left := self.rest():
                self._journal.append(*left)
                await self._journal.durable()
        except PerdureError:
            return  # the journal has ended; whoever ends the call meets the same error
        finally:
            self._pump = None
