"""Depots that are wrong on purpose, and the watch that must notice every one."""

from collections.abc import Sequence

from perdure.core import events as e
from perdure.core.journal import read
from perdure.environments.depot import KIND, Catalogue, Depot, manifest_of
from perdure.environments.packs import Packs
from perdure.environments.snapshots import Taken
from perdure.ports.blobs import Blobs
from perdure.ports.clock import Clock
from perdure.ports.store import Batch
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk


class DepotWatch(Faults):
    """Looks, at each commit to a `MemoryDisk`, whether what it names is in the depot already."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self.named: list[str] = []
        self.violations: list[str] = []

    def before_commit(self, batches: Sequence[Batch]) -> None:
        """See `Faults.before_commit`."""
        for batch in batches:
            for record in batch.records:
                match read(record, None).payload:
                    case e.EnvironmentSnapshotted(snapshot=name):
                        self.named.append(name)
                        if manifest_of(self._disk.docs.one(KIND, name)) is None:
                            self.violations.append(f"{name} is named before it was pushed")
                    case _:
                        pass


class PushesLater(Depot):
    """Lets the snapshot be named, and pushes it when it is closed: a crash comes before."""

    def __init__(self, blobs: Blobs, catalogue: Catalogue, clock: Clock) -> None:
        super().__init__(blobs, catalogue, clock)
        self._later: list[tuple[Packs, Taken]] = []

    async def push(self, packs: Packs, taken: Taken) -> None:
        self._later.append((packs, taken))

    async def close(self) -> None:
        """Push what was left."""
        for packs, taken in self._later:
            await super().push(packs, taken)


class PushesWhatIsNew(Depot):
    """Pushes the pack that was just written, and forgets those that it builds on."""

    async def push(self, packs: Packs, taken: Taken) -> None:
        await super().push(packs, taken._replace(packs=(packs.file(taken.name),)))


class TrustsNotes(Depot):
    """Takes a pack for there that was put once, however long ago."""

    def _is_fresh(self, at_us: int) -> bool:
        return at_us > 0
