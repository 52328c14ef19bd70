"""Engines that sleep badly on purpose, each in one way; `timer_checks` must see every one."""

from collections.abc import Awaitable, Mapping
from dataclasses import replace as with_changes
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.events import Payload
from perdure.engine.journal import Journal
from perdure.engine.kit import Kit
from perdure.engine.runtime import Engine
from perdure.ports.store import Batch
from perdure.testing.broken_engines import with_journal
from perdure.testing.sim_store import StoreProxy


class FiresTwice(Journal):
    """Says twice that it was time. The fold refuses the second one, and all stands still."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and once more what a timer said."""
        again = [p for p in payloads if isinstance(p, e.TimerFired)]
        super().append(*payloads, *again, taken=taken)


class LosesSignals(Journal):
    """Keeps no event that nobody waits for at the moment it comes."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, leaving out signals that end no wait."""
        ended = any(isinstance(p, e.TimerFired) for p in payloads)
        kept = [p for p in payloads if ended or not isinstance(p, e.SignalReceived)]
        super().append(*kept, taken=taken)


class Oversleeps(Journal):
    """Sets timers for later than was asked."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, with sleeps that last a year longer."""
        far = 400 * 24 * 3600 * 1_000_000
        moved = [
            replace(p, due_us=p.due_us + far) if isinstance(p, e.TimerSet) and p.due_us else p
            for p in payloads
        ]
        super().append(*moved, taken=taken)


class _Forgetful(StoreProxy):
    def append(self, batch: Batch) -> Awaitable[None]:
        row = batch.row and replace(batch.row, wake_at_us=0)
        return super().append(batch._replace(row=row))


class ForgetsWakes(Engine):
    """Does not tell the store when a session wants to be woken."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(with_changes(kit, store=_Forgetful(kit.store)))


BROKEN_TIMERS: Final[Mapping[str, type[Engine]]] = {
    "fires twice": with_journal(FiresTwice),
    "loses signals": with_journal(LosesSignals),
    "oversleeps": with_journal(Oversleeps),
    "forgets to wake": ForgetsWakes,
}
