"""Whether the machine itself holds everything up: seen from outside of all that is under test.

A machine that is too busy for the length of a lease makes a node look dead. That is no fault of
the node, and must not be silent either: it is written down as a strike, and counted.
"""

import asyncio

from perdure.testing.chaos.strikes import Field

_EVERY_S = 0.1


async def watch(field: Field) -> None:
    """Write down, until cancelled, when the way to the database (every byte goes through this
    event loop) or a small commit around all of ours takes a quarter of the lease.
    """
    await asyncio.gather(_loop(field), _commits(field))


async def _loop(field: Field) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _EVERY_S
        await asyncio.sleep(_EVERY_S)
        _note(field, "the runner was late", loop.time() - due)


async def _commits(field: Field) -> None:
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await field.ground.probe()
        _note(field, "the server was late", loop.time() - began)
        await asyncio.sleep(_EVERY_S)


def _note(field: Field, kind: str, late_s: float) -> None:
    if late_s > field.lease_s / 4:
        field.struck("", kind, late_s, ago_s=late_s)
