"""Owning a session for a while. Who is told to go while he asks for it must not have it afterwards:
nobody would work on it, and nobody else could.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from perdure.engine.kit import Kit
from perdure.ports.store import Claim


@asynccontextmanager
async def owned(kit: Kit, session: str) -> AsyncIterator[Claim]:
    """Own the session until the end, whatever that is.

    Raises `SessionBusy` when another live process owns it, and what else `Store.claim` raises.
    """
    claiming = asyncio.ensure_future(kit.store.claim(session))
    try:
        # A claim that was asked for lands, whoever still waits for it.
        yield await asyncio.shield(claiming)
    finally:
        if not claiming.done():
            await asyncio.wait({claiming}, timeout=kit.bounds.close_s)
        if not claiming.done():
            claiming.cancel()  # the store is away: it lets go of everything when it is closed
        elif not claiming.cancelled() and claiming.exception() is None:
            await kit.store.release(claiming.result())
