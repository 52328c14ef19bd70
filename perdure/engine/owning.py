"""Owning a session for a while. Who is told to go while he asks for it must not have it afterwards:
nobody would work on it, and nobody else could.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from perdure.core.errors import PerdureError
from perdure.engine.kit import Kit
from perdure.ports.store import Claim


@contextlib.asynccontextmanager
async def owned(kit: Kit, session: str) -> AsyncIterator[Claim]:
    """Own the session until the end, whatever that is.

    Raises `SessionBusy` when another live process owns it, and what else `Store.claim` raises.
    """
    try:
        claim = await kit.store.claim(session)
    except asyncio.CancelledError:
        # What was asked for lands, whoever still waits for it: asked for again, it is given back.
        with contextlib.suppress(PerdureError):
            await kit.store.release(await kit.store.claim(session))
        raise
    try:
        yield claim
    finally:
        await kit.store.release(claim)
