"""A sandbox of the simulated world: a workspace that a killed command leaves half changed.

A script is a JSON list of steps; each one is visible on its own, so whoever dies between two
steps leaves the first behind. The workspace and its snapshots are on disk and outlive processes.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Final

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import InvalidRequest, NotFound, Unavailable
from perdure.ports.sandbox import Change, Ended, Files, Isolation, Rollback, Sandbox, StoredFile
from perdure.testing.simloop import Owner
from perdure.testing.world import World

ISOLATION: Final = Isolation(level="simulated", filesystem=True, network=True, processes=True)


class SimSandbox:
    """One session's workspace in the hands of one process."""

    def __init__(self, world: World, owner: Owner, session: str) -> None:
        self._world = world
        self._owner = owner
        self._session = session
        self._open = True
        world.openings[session] += 1
        self._opening = world.openings[session]

    @property
    def isolation(self) -> Isolation:
        """See `Sandbox.isolation`."""
        return ISOLATION

    @property
    def workspace(self) -> str:
        """See `Sandbox.workspace`."""
        return f"/sim/{self._session}"

    @property
    def files(self) -> Files:
        """Scripts are the only way in here."""
        raise InvalidRequest("E-SIM-FILES", "The simulated sandbox runs scripts only.")

    @property
    def _content(self) -> dict[str, str]:
        return self._world.workspaces[self._session]

    async def run(
        self,
        script: str,
        *,
        timeout_s: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Ended:
        """Do the steps of the script, one visible after the other."""
        self._check()
        self._world.running[self._session] += 1
        if self._world.running[self._session] > 1:
            self._world.violated("one at a time", f"two commands at once in {self._session}")
        try:
            for step in json.loads(script):
                await self._point("sandbox.step")
                if step[0] == "pause":
                    await asyncio.sleep(step[1])
                if step[0] == "poison":
                    await self._point("poison")
                self._check()
                apply(self._content, step)
            await self._point("sandbox.ran")
        finally:
            if self._owner.alive and self._opening == self._world.openings[self._session]:
                self._world.running[self._session] -= 1
        return Ended(b"", 0, 0.0)

    async def snapshot(self) -> str:
        """See `Sandbox.snapshot`."""
        await self._point("snapshot.before")
        name = self._world.snapshot(self._content)
        await self._point("snapshot.after")
        return name

    async def rollback(self, snapshot: str, *, dry: bool = False) -> Rollback:
        """Go back file by file: one who dies on the way leaves some of them behind."""
        await self._point("rollback.before")
        wanted = self._world.snapshots.get(snapshot)
        if wanted is None:
            raise NotFound("E-SIM-SNAPSHOT", f"There is no snapshot {snapshot}.")
        names = sorted(wanted.keys() | self._content.keys())
        differing = tuple(n for n in names if wanted.get(n) != self._content.get(n))
        for name in () if dry else differing:
            await self._point("rollback.step")
            if name in wanted:
                self._content[name] = wanted[name]
            else:
                self._content.pop(name, None)
        return Rollback(differing, ())

    async def changes(self, before: str, after: str | None = None) -> list[Change]:
        """Nobody asks here."""
        return []

    async def close(self) -> None:
        """See `Sandbox.close`."""
        self._open = False

    async def _point(self, name: str) -> None:
        self._check()
        await self._world.point(self._owner, name)
        self._check()

    def _check(self) -> None:
        """A later opening has killed what ran in this one."""
        if not self._open or self._opening != self._world.openings[self._session]:
            raise Unavailable("E-SANDBOX-GONE", "The sandbox was closed.")


class SimEnvironments:
    """Opens sandboxes of the simulated world for one process."""

    def __init__(self, world: World, owner: Owner) -> None:
        self._world = world
        self._owner = owner

    async def open(self, session: str, spec: EnvironmentSpec, source: str) -> Sandbox:
        """See `Environments.open`. What an older opening still runs dies first."""
        await self._world.point(self._owner, "sandbox.open")
        self._world.workspaces.setdefault(session, {})
        self._world.running[session] = 0
        return SimSandbox(self._world, self._owner, session)

    async def has(self, session: str, at: str = "") -> bool:
        """See `Environments.has`."""
        return session in self._world.workspaces

    async def restore(self, session: str, spec: EnvironmentSpec, snapshot: str) -> Sandbox:
        """See `Environments.restore`."""
        self._world.workspaces[session] = dict(self._world.snapshots[snapshot])
        return await self.open(session, spec, "")

    async def snapshots(self) -> AsyncIterator[str]:
        """See `Environments.snapshots`."""
        for name in list(self._world.snapshots):
            yield name

    async def stored(self, snapshot: str, below: str = "") -> list[StoredFile]:
        """See `Environments.stored`."""
        content = sorted(self._world.snapshots[snapshot].items())
        start = f"{below}/" if below else ""
        return [StoredFile(n, len(t), t) for n, t in content if n.startswith(start)]

    async def stored_file(self, snapshot: str, path: str) -> AsyncIterator[bytes]:
        """See `Environments.stored_file`."""
        yield self._world.snapshots[snapshot][path].encode()


def apply(content: dict[str, str], step: list[str]) -> None:
    """Do one step to a workspace: append to a file, write it, or remove it."""
    match step:
        case ["append", name, text]:
            content[name] = content.get(name, "") + text
        case ["write", name, text]:
            content[name] = text
        case ["remove", name]:
            content.pop(name, None)
        case _:
            pass
