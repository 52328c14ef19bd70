"""Two machines that share a store: what lies in the depot, and what each has of its own."""

from pathlib import Path

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import Unavailable
from perdure.environments.depot import KIND, Depot, Manifest, manifest_of
from perdure.environments.process import Process
from perdure.ports.sandbox import Sandbox
from perdure.stores.blobs import MemoryBlobs
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.system import SystemClock

SPEC = EnvironmentSpec(kind="process", timeout_s=20.0)


class Blobs(MemoryBlobs):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.put_bytes: list[int] = []
        self.gets = 0
        self.away = False

    async def put(self, data: bytes) -> str:
        if self.away:
            raise Unavailable("E-BLOBS-UNAVAILABLE", "Nobody there.")
        self.put_bytes.append(len(data))
        return await super().put(data)

    def forget(self) -> None:
        """Lose everything, as a store does that was restored from an old backup."""
        self._data.clear()

    def digests(self) -> list[str]:
        """Return the names of all blobs."""
        return list(self._data)

    async def get(self, digest: str) -> bytes:
        self.gets += 1
        return await super().get(digest)


class Hands:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.us = SystemClock().now_us()

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1_000_000


class Shared:
    """What all nodes see."""

    def __init__(self, folder: Path, depot: type[Depot] = Depot) -> None:
        self.folder = folder
        self.blobs = Blobs()
        self.disk = MemoryDisk()
        self.clock = Hands()
        self.depot = depot

    def node(self, name: str) -> Process:
        """Return the environments of a machine; of a new process, each time."""
        depot = self.depot(self.blobs, MemoryStore(self.disk, name), self.clock)
        return Process(self.folder / name, SystemClock(), allow=True, depot=depot)

    def manifest(self, snapshot: str) -> Manifest:
        """Return what a snapshot needs."""
        manifest = manifest_of(self.disk.docs.one(KIND, snapshot))
        assert manifest is not None
        return manifest


async def taken_over(node: Process, snapshot: str, session: str = "s") -> Sandbox:
    """Open a session as the engine does whose journal ends with that snapshot."""
    if await node.has(session, snapshot):
        return await node.open(session, SPEC, "")
    return await node.restore(session, SPEC, snapshot)
