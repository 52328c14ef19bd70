"""Noticing what other processes did: letters for sessions that are driven here, events to follow,
and sessions that are not ours any more.
"""

import asyncio
from typing import Protocol

from perdure.core.errors import PerdureError
from perdure.engine.hub import Hub
from perdure.engine.kit import Kit
from perdure.engine.trees import Trees
from perdure.ports.cluster import Cluster


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
    """Do so for as long as it is let. What was lost is let go of also while the store says nothing:
    that may be why it was lost.
    """
    kit = engine.kit
    looked = kit.clock.monotonic()
    asking: asyncio.Task[None] | None = None
    try:
        while True:
            asking = asking or asyncio.create_task(_ask(engine), name="perdure asks")
            await asyncio.wait({asking}, timeout=1.5 * kit.bounds.poll_s)
            # Not at each change, of which there may be many: asking costs something per session.
            if (now := kit.clock.monotonic()) >= looked + kit.bounds.poll_s / 2:
                looked = now
                engine.drop_lost()
            if asking.done():
                asking.result()
                asking = None
    finally:
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def left_lying(engine: Watched, session_id: str) -> bool:
    """Wait a moment; whether the session's owner leaves letters in its inbox, or is gone.

    Where a dead owner counts as alive until its lease runs out this goes on for as long as somebody
    here follows the session and somebody else has it.
    """
    store, pause_s = engine.kit.store, engine.kit.bounds.poll_s
    try:
        while True:
            await asyncio.sleep(pause_s)
            if await store.inbox(session_id):
                return True
            if not isinstance(store, Cluster) or session_id not in engine.hub.followed:
                return False
            if await store.owner(session_id) is None:
                return True
    except PerdureError:
        return True


async def _ask(engine: Watched) -> None:
    """Wait until something has changed, or for a while, and pass it on."""
    kit = engine.kit
    try:
        changed = await kit.store.changed(kit.bounds.poll_s)
        if changed or engine.trees.restless:
            await _hear(engine)
    except PerdureError:
        await asyncio.sleep(kit.bounds.poll_s)


async def _hear(engine: Watched) -> None:
    followed = engine.hub.followed
    if followed:
        engine.hub.nudge(await engine.kit.store.ends(followed))
    for session_id in await engine.kit.store.mailboxes():
        if engine.drives(session_id) or session_id in engine.trees.awaited:
            engine.wake(session_id)
    for session_id in await engine.trees.strayed():
        engine.wake(session_id)
