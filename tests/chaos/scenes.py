"""What the tests of many nodes share: a crew on a database of its own, and what to wait for."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from perdure.testing.chaos import history as h
from perdure.testing.chaos.crew import Crew, Options
from perdure.testing.chaos.ground import PostgresGround
from perdure.testing.postgres import PostgresServer

LEASE_S = 1.5
CALM_LEASE_S = 2.5  # where nothing is struck, a busy machine must not look like a death
_PATIENCE_S = 30.0


@contextlib.asynccontextmanager
async def crew_on(
    server: PostgresServer,
    home: Path,
    *,
    nodes: int = 2,
    variant: str = "",
    lease_s: float = LEASE_S,
    **plan: Any,
) -> AsyncIterator[Crew]:
    """Start nodes on a database of their own."""
    name = f"chaos_{abs(hash(home))}"
    ground = PostgresGround(server, name, lease_s)
    options = Options(nodes=nodes, lease_s=lease_s, variant=variant)
    async with Crew(ground, home, options, **plan) as crew:
        yield crew


class Witness:
    """Reads, beside the crew, what was written down."""

    def __init__(self, home: Path) -> None:
        self._tail = h.Tail(home)

    @property
    def seen(self) -> list[h.Observation]:
        self._tail.poll()
        return self._tail.observations

    def began(self, session: str, tool: str) -> list[h.Began]:
        return [
            each
            for each in self.seen
            if isinstance(each, h.Began) and (each.session, each.tool) == (session, tool)
        ]

    def claims(self, session: str) -> list[h.Claimed]:
        found = (e for e in self.seen if isinstance(e, h.Claimed) and e.session == session)
        return sorted(found, key=lambda claim: claim.epoch)

    def acknowledged(self, node: str) -> list[h.Acknowledged]:
        return [e for e in self.seen if isinstance(e, h.Acknowledged) and e.node == node]

    async def until(self, holds: Callable[[], object], seconds: float = _PATIENCE_S) -> None:
        """Wait until something holds. Raises `TimeoutError`."""
        async with asyncio.timeout(seconds):
            await turns(lambda: bool(holds()))


async def turns(holds: Callable[[], bool]) -> None:
    """Look ten times a second."""
    tick = asyncio.Event()
    for _ in itertools.count():
        if holds():
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(tick.wait(), 0.1)


def place_of(crew: Crew, node: str) -> str:
    """Return the place of a node by its name."""
    return next(place for place, each in crew.field.nodes.items() if each.name == node)
