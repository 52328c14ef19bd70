"""The engines behind the doors: one for each project, on its own part of the store."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from perdure.engine.runtime import Engine
from perdure.ports.store import Store

MakeEngine = Callable[[str, Store], Awaitable[Engine]]


class Partition(Protocol):
    """A store that is parted into projects."""

    @property
    def base(self) -> Store: ...

    def of(self, project: str) -> Store:
        """Return the store of one project."""
        ...

    def parted(self, name: str) -> tuple[str, str]:
        """Return the project that a name of the store beneath belongs to, and its name there."""
        ...

    async def close(self) -> None: ...


class Projects:
    """Opens a project's engine when it is first needed and keeps it open."""

    def __init__(self, stores: Partition, make: MakeEngine) -> None:
        self.stores = stores
        self._make = make
        self._engines: dict[str, Engine] = {}
        self._opening = asyncio.Lock()

    @property
    def open_ones(self) -> dict[str, Engine]:
        """The engines that are open, by project."""
        return dict(self._engines)

    async def engine(self, project: str) -> Engine:
        """Return the engine of `project`. Raises `InvalidRequest` for no name of a project."""
        engine = self._engines.get(project)
        if engine is not None:
            return engine
        async with self._opening:
            if project not in self._engines:
                engine = await self._make(project, self.stores.of(project))
                self._engines[project] = await engine.__aenter__()
        return self._engines[project]

    async def close(self) -> None:
        """Let all engines go, then the store."""
        engines, self._engines = list(self._engines.values()), {}
        await asyncio.gather(*(engine.close() for engine in engines), return_exceptions=True)
        await self.stores.close()
