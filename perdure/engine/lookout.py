"""Noticing what other processes did: letters for sessions that are driven here, events to follow,
and sessions that are not ours any more.
"""

import asyncio
from typing import Protocol

from perdure.core.errors import PerdureError
from perdure.engine.hub import Hub
from perdure.engine.kit import Kit
from perdure.engine.trees import Trees


class Watched(Protocol):
    """What there is to notice it for: an engine."""

    @property
    def kit(self) -> Kit: ...

    @property
    def hub(self) -> Hub: ...

    @property
    def trees(self) -> Trees: ...

    def wake(self, session_id: str) -> None:
        """See to it that somebody works on the session."""
        ...

    def drives(self, session_id: str) -> bool:
        """Whether this process is at work on the session."""
        ...

    def drop_lost(self) -> None:
        """Stop working on sessions that were lost."""
        ...


async def look_out(engine: Watched) -> None:
    """Do so for as long as it is let."""
    kit = engine.kit
    looked = kit.clock.monotonic()
    while True:
        try:
            changed = await kit.store.changed(kit.bounds.poll_s)
            # Not at each change, of which there may be many: asking costs something per session.
            if (now := kit.clock.monotonic()) >= looked + kit.bounds.poll_s / 2:
                looked = now
                engine.drop_lost()
            if changed or engine.trees.restless:
                await _hear(engine)
        except PerdureError:
            engine.drop_lost()  # a store that cannot be reached may be why they are lost
            await asyncio.sleep(kit.bounds.poll_s)


async def _hear(engine: Watched) -> None:
    engine.hub.nudge()
    for session_id in await engine.kit.store.mailboxes():
        if engine.drives(session_id) or session_id in engine.trees.awaited:
            engine.wake(session_id)
    for session_id in await engine.trees.strayed():
        engine.wake(session_id)
