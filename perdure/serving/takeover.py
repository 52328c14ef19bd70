"""Going on, in all projects, with what another process left unfinished.

No client has to ask: a response that runs in the background was promised, whoever listens.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from perdure.core.errors import PerdureError
from perdure.doors.projects import Projects
from perdure.engine.schedules import KIND
from perdure.engine.takeover import Takeover
from perdure.ports.clock import Clock
from perdure.stores.projects import ProjectStores

_LOG: Final = logging.getLogger("perdure.server")
_DUE: Final = 100


class AllProjects:
    """The sessions of all projects that nobody works on. Finds them by one question to the store
    beneath, and has them woken by the engine of their project.

    What sleeps, and what is planned, is seen to by each project's own engine: so one in which
    something comes due is opened here if it is not open.
    """

    def __init__(self, stores: ProjectStores, projects: Projects, clock: Clock) -> None:
        self._stores = stores
        self._projects = projects
        self._clock = clock

    async def find(self, limit: int) -> Sequence[str]:
        """Return at most `limit`, by their names in the store beneath. Raises `Unavailable`."""
        await self._open_what_is_due()
        return await self._stores.base.abandoned(limit)

    async def take(self, name: str) -> bool:
        """Have a session woken here, if its code is."""
        project, bare = self._stores.parted(name)
        try:
            engine = await self._projects.engine(project)
            return await engine.waker.take(bare)
        except PerdureError as error:
            delayed(error)
            return False

    async def _open_what_is_due(self) -> None:
        """Open the projects in which somebody has to wake or to fire something."""
        planned = {self._project(doc.name) for doc in await self._stores.base.docs(KIND)}
        for project in sorted({*planned, *await self._due()} - self._projects.open_ones.keys()):
            try:
                await self._projects.engine(project)
            except PerdureError as error:
                delayed(error)

    async def _due(self) -> set[str]:
        """Return the projects of sessions that are due. Those of open projects, which may stay due
        for long, hide none behind them.
        """
        most, open_ones = _DUE, self._projects.open_ones
        while True:
            names = await self._stores.base.due(self._clock.now_us(), most)
            found = {self._project(name) for name in names}
            if len(names) < most or found - open_ones.keys():
                return found
            most *= 4

    def _project(self, name: str) -> str:
        return self._stores.parted(name)[0]


def delayed(error: PerdureError) -> None:
    """Write down that taking over waits for something."""
    _LOG.warning("takeover.delayed code=%s", error.code)


def takeover_of(
    sessions: AllProjects, clock: Clock, chance: Callable[[], float], every_s: float
) -> Takeover:
    """Return the duty of a server."""
    made = Takeover(sessions.find, sessions.take, clock, chance, every_s)
    made.blamed = delayed
    return made
