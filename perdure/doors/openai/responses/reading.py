"""Reading a response off its session's journal: now, or as a stream that goes on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from msgspec.structs import replace

from perdure.core.errors import PerdureError
from perdure.core.events import Event
from perdure.doors.documents import Documents
from perdure.doors.openai.turns.records import KIND, ResponseRecord
from perdure.doors.openai.turns.rendering import Rendering
from perdure.engine.journal import follow
from perdure.engine.runtime import Engine
from perdure.engine.session import Session

Json = dict[str, Any]


class Reader:
    """Reads the responses of one project."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._records = Documents(engine.kit.store, KIND, ResponseRecord)
        self.done: ResponseRecord | None = None  # the last one that was seen to end

    async def now(self, record: ResponseRecord) -> Json:
        """Return the response as it is now."""
        if record.final is not None:
            return record.final
        session = Session(self._engine, record.session)
        state = await session.state(record.after)
        rendering = Rendering(record, state)
        rendering.begin()
        async for event in session.events(record.after):
            state = await follow(self._engine.kit.store, record.session, state, event)
            rendering.feed(event, state)
            if rendering.ended:
                await self._keep(record, rendering)
                break
        else:
            self._engine.wake(record.session)  # nobody may be working on it since a restart
        return rendering.snapshot()

    async def ended(self, record: ResponseRecord) -> Json:
        """Wait until the response has ended; return it."""
        last: Json = {}
        async for event in self.stream(record):
            last = event
        response = last.get("response")
        return response if isinstance(response, dict) else await self.now(record)

    async def stream(self, record: ResponseRecord, after: int = -1) -> AsyncIterator[Json]:
        """Yield the response's events with a sequence number above `after`, until it has ended."""
        session = Session(self._engine, record.session)
        state = await session.state(record.after)
        rendering = Rendering(record, state)
        for made in rendering.begin():
            if made["sequence_number"] > after:
                yield made
        self._engine.wake(record.session)
        async for item in self._patiently(session, record.after):
            state = await follow(self._engine.kit.store, record.session, state, item)
            made_now = rendering.feed(item, state)
            if rendering.ended:
                await self._keep(record, rendering)
            for made in made_now:
                if made["sequence_number"] > after:
                    yield made
            if rendering.ended:
                return

    async def _patiently(self, session: Session, after: int) -> AsyncIterator[Event]:
        """Follow a session; what its driver died of is waited out, for another takes over."""
        while True:
            try:
                async for item in session.follow(after):
                    if isinstance(item, Event):
                        yield item
                        after = item.seq
            except PerdureError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(self._engine.kit.bounds.poll_s)
                self._engine.wake(session.id)

    async def _keep(self, record: ResponseRecord, rendering: Rendering) -> None:
        """Remember how the response ended: whoever asks again need not read the journal."""
        final, until = rendering.snapshot(), rendering.until
        self.done = replace(record, final=final, until=until)
        if record.until:
            return
        kept = await self._records.find(record.id)
        if kept is not None and not kept.stored and not kept.conversation:
            await self._records.delete(record.id)
        elif kept is not None and not kept.until:
            await self._records.put(record.id, replace(kept, final=final, until=until))
