"""What a server does when it starts: going on with all that another process left unfinished.

No client has to ask: a response that runs in the background was promised, whoever listens.
"""

import asyncio
import contextlib
import logging
from typing import Final

from perdure.core.errors import PerdureError
from perdure.doors.projects import Projects
from perdure.stores.projects import ProjectStores

_LOG: Final = logging.getLogger("perdure.server")
_UNFINISHED: Final = ("running",)


class Takeover:
    """Wakes, in every project, sessions that were being worked on or were written to.

    A session that another living process works on is left alone: the store says so when its
    driver claims it. Those that sleep are the waker's of each project's engine, so a project with
    anything that may come due is opened, too.
    """

    def __init__(self, stores: ProjectStores, projects: Projects, retry_s: float) -> None:
        self._stores = stores
        self._projects = projects
        self._retry_s = retry_s

    async def run(self) -> None:
        """Do it once, however often it takes until the store answers."""
        while True:
            try:
                await self.take_up()
            except PerdureError as error:
                _LOG.warning("takeover.delayed code=%s", error.code)
                await asyncio.sleep(self._retry_s)
            else:
                return

    async def take_up(self) -> int:
        """Wake what is unfinished; return how many sessions. Raises `Unavailable`."""
        woken = 0
        posted = set(await self._stores.base.mailboxes())
        for row in await self._stores.base.sessions():
            unfinished = row.status in _UNFINISHED or row.id in posted
            if row.parent or not (unfinished or row.wake_at_us):
                continue  # a subagent is driven where its root is
            project, name = self._stores.parted(row.id)
            with contextlib.suppress(PerdureError):
                engine = await self._projects.engine(project)
                if unfinished:
                    engine.wake(name)
                    woken += 1
        return woken
