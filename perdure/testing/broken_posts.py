"""Stores and sandboxes that are wrong on purpose. None of them is for use."""

import asyncio
from collections.abc import Awaitable

from perdure.core.agent import EnvironmentSpec
from perdure.core.journal import Record
from perdure.ports.sandbox import Rollback, Sandbox
from perdure.ports.store import Batch, Letter, Store
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryStore
from perdure.stores.memory_journal import Journal
from perdure.testing.sim_disks import InMemory, Opened
from perdure.testing.sim_sandbox import SimEnvironments, SimSandbox
from perdure.testing.sim_store import StoreProxy


class AcknowledgesEarly(StoreProxy):
    """Says yes to a letter before it is on disk."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._later: list[asyncio.Future[bool]] = []

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """Answer at once, write later."""
        self._later.append(asyncio.ensure_future(self._inner.post(session, key, body)))
        return True


class LosesLetters(StoreProxy):
    """Empties the inbox with the first letter that was taken from it."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._shown: dict[str, list[str]] = {}

    async def inbox(self, session: str) -> list[Letter]:
        """Remember what was shown; hand out only the first."""
        letters = await super().inbox(session)
        self._shown[session] = [letter.key for letter in letters]
        return letters[:1]

    def append(self, batch: Batch) -> Awaitable[None]:
        """Take all that was shown."""
        taken = self._shown.pop(batch.session, []) if batch.taken else []
        return super().append(batch._replace(taken=[*batch.taken, *taken]))


class AcceptsTwice(StoreProxy):
    """Does not remember keys."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._count = 0

    async def post(self, session: str, key: str, body: bytes) -> bool:
        """Post under a key that is always new."""
        self._count += 1
        return await super().post(session, f"{key}#{self._count}", body)


class SkipsOnReread(StoreProxy):
    """Begins one event too late when it is asked for what came after an event."""

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """Read from the wrong place, except from the beginning."""
        return await super().read(session, after + 1 if after > 3 else after, limit)


class Unchecked(MemoryStore):
    """Lets an owner whose epoch is over append, however the journal looks by now.

    Without the epoch alone the length of the journal still keeps old owners out.
    """

    def _check_append(self, journal: Journal | None, batch: Batch) -> None:
        pass


class UncheckedDisk(InMemory):
    """A disk whose stores check nothing."""

    async def open(self, name: str, faults: Faults, commit_s: float) -> Opened:
        """Open a process's store."""
        return Unchecked(self._disk, name, commit_s, faults)


class NoRollback(SimEnvironments):
    """Environments whose sandboxes only say that they went back."""

    async def open(self, session: str, spec: EnvironmentSpec, source: str) -> Sandbox:
        """See `Environments.open`."""
        await super().open(session, spec, source)
        return Stays(self._world, self._owner, session)


class Stays(SimSandbox):
    """A sandbox that stays as it is."""

    async def rollback(self, snapshot: str, *, dry: bool = False) -> Rollback:
        """Say what should be done."""
        return await super().rollback(snapshot, dry=True)
