"""Doors that are wrong about requests that come again, each in one way. None of them is for use."""

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from perdure.doors.http import Call
from perdure.doors.repeats import Repeat


class NoReservation(Repeat):
    """Never keeps the id of what a request makes."""

    async def makes(self, made: str) -> None:
        """Keep nothing."""


class ReservesLate(Repeat):
    """Keeps the id of what a request makes when it is made, and not before."""

    def __init__(self, call: Call, scope: str, body: object) -> None:
        super().__init__(call, scope, body)
        self._late = ""

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep the id last."""
        async with super().alone():
            yield
            if self._late:
                await super().makes(self._late)

    async def makes(self, made: str) -> None:
        """Keep it for later."""
        self._late = made


class NoClaim(Repeat):
    """Waits for others of its own process only."""

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Take no notice of other processes."""
        async with self._call.services.turns.of(self._name if self.keyed else ""):
            yield


VARIANTS: Final[Mapping[str, type[Repeat]]] = {
    "no-reservation": NoReservation,
    "reserves-late": ReservesLate,
    "no-claim": NoClaim,
}


def put_in(name: str) -> None:
    """Give all doors of this process the variant of that name, for good."""
    doors: list[Any] = [each for key, each in sys.modules.items() if _is_door(key, each)]
    for door in doors:
        door.Repeat = VARIANTS[name]


def _is_door(name: str, module: object) -> bool:
    own = name == Repeat.__module__
    return name.startswith("perdure.doors.") and not own and hasattr(module, "Repeat")
