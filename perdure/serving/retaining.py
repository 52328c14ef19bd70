"""Once an hour a server deletes what `[retention]` says was kept for long enough."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from perdure.core.errors import PerdureError
from perdure.doors.projects import Projects
from perdure.engine.retention import RetentionSettings, retain
from perdure.stores.projects import ProjectStores

_LOG: Final = logging.getLogger("perdure.server")
EVERY_S: Final = 3600.0


class Retaining:
    """The duty of one server; several may do it at once. `forget` removes what lies beside the
    store: given a session and its project.
    """

    def __init__(
        self,
        stores: ProjectStores,
        projects: Projects,
        settings: RetentionSettings,
        forget: Callable[[str, str], None],
    ) -> None:
        self._stores = stores
        self._projects = projects
        self._settings = settings
        self._forget = forget

    async def run(self, every_s: float = EVERY_S) -> None:
        """Go on until cancelled. Does nothing where no rule is set."""
        while self._settings.is_set:
            try:
                await self.once()
            except PerdureError as error:
                _LOG.warning("retention.delayed code=%s", error.code)
            await asyncio.sleep(every_s)

    async def once(self) -> list[str]:
        """Look through all projects; return the names of what was deleted, as the store has them.

        Raises what the store raises.
        """
        gone = []
        rows = await self._stores.base.sessions()
        for project in sorted({self._stores.parted(row.id)[0] for row in rows}):
            engine = await self._projects.engine(project)
            for session in await retain(engine, self._settings):
                await asyncio.to_thread(self._forget, session, project)
                _LOG.info("retention.deleted project=%s session=%s", project, session)
                gone.append(f"{project}/{session}")
        return gone
