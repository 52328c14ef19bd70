"""Following a session whoever drives it: what one driver dies of is waited out."""

import asyncio
from collections.abc import AsyncGenerator

from perdure.core.errors import PerdureError
from perdure.core.events import Event, SessionClosed
from perdure.engine.runtime import Engine
from perdure.engine.session import Session


async def followed(engine: Engine, session: str, after: int) -> AsyncGenerator[Event, None]:
    """Yield durable events behind `after` until the session is closed for good. Sees to it that
    somebody works on it.
    """
    engine.wake(session)
    while True:
        try:
            async for item in Session(engine, session).follow(after):
                if isinstance(item, Event):
                    yield item
                    after = item.seq
                    if isinstance(item.payload, SessionClosed):
                        return
        except PerdureError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(engine.kit.bounds.poll_s)
            engine.wake(session)
