"""Putting a server together: the one place that knows every door, and every part behind them."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from starlette.applications import Starlette

from perdure.app import Options, environments_at, models_for, open_store
from perdure.core.errors import PerdureError
from perdure.doors.http import Face
from perdure.doors.native.face import manual_routes, native_face
from perdure.doors.openai.face import openai_face
from perdure.doors.principals import Authority, Keys, Principal, identify
from perdure.doors.projects import Projects
from perdure.doors.server import application
from perdure.doors.services import Services
from perdure.doors.settings import ServerSettings
from perdure.doors.toolmaker import McpServer
from perdure.engine.agent import Agent
from perdure.engine.kit import Kit
from perdure.engine.runtime import Engine
from perdure.ports.model import Models
from perdure.ports.sandbox import Change
from perdure.ports.store import Store
from perdure.serving.takeover import Takeover
from perdure.serving.tools import ProjectTools
from perdure.stores.projects import DEFAULT, ProjectStores
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.workspace import workspace_tools

_CHECK_S: Final = 5.0


@dataclass(frozen=True)
class Plan:
    """What a server is made of. `agents` are known in every project."""

    store: str
    settings: ServerSettings = field(default_factory=ServerSettings)
    options: Options = field(default_factory=Options)
    agents: Sequence[Agent] = ()
    url: str = ""


class Server:
    """A server without a socket: `app` is what an ASGI server runs. Open with `Server.open`."""

    def __init__(self, plan: Plan, stores: ProjectStores, root: Path, models: Models) -> None:
        self._plan = plan
        self._root = root
        self._models = models
        self._clock = SystemClock()
        self._ids = RandomIds()
        self._tools: dict[str, ProjectTools] = {}
        self._closing = False
        self._taking_over: asyncio.Task[None] | None = None
        self.stores = stores
        self.keys = Keys(stores.base, self._clock, self._ids, os.urandom)
        self.projects = Projects(stores, self._engine)
        self.services = Services(
            self.projects, self._clock, self._ids, plan.settings, plan.url, self.tools_of,
            changes=self.changes, about=self._about(),
        )
        self.app = self._application()

    @classmethod
    async def open(cls, plan: Plan) -> "Server":
        """Open the store and everything behind the doors. Raises `Unavailable`."""
        store, root = await open_store(plan.store)
        models = plan.options.models or models_for(plan.options)
        server = cls(plan, ProjectStores(store), plan.options.work_root or root, models)
        await server.projects.engine(DEFAULT)
        server.take_over()
        return server

    def take_over(self) -> None:
        """Begin to go on with what other processes left unfinished, in all projects."""
        takeover = Takeover(self.stores, self.projects, self._plan.options.bounds.poll_s)
        self._taking_over = asyncio.create_task(takeover.run(), name="perdure takeover")

    async def close(self) -> None:
        """Let all work go; what was in flight is taken up by the next process."""
        self._closing = True
        if self._taking_over is not None:
            self._taking_over.cancel()
            await asyncio.wait({self._taking_over})
        for tools in self._tools.values():
            await tools.close()
        await self.projects.close()
        if self._plan.options.models is None and hasattr(self._models, "close"):
            await self._models.close()

    def tools_of(self, project: str) -> ProjectTools:
        """Return the tools of a project's API agents."""
        if project not in self._tools:
            store = self.stores.of(project)
            self._tools[project] = ProjectTools(
                store, lambda where: workspace_tools(contained=where.kind == "bubblewrap"),
                self._authorisation,
            )  # fmt: skip
        return self._tools[project]

    async def identify(self, token: str) -> Principal:
        """Return who calls. Raises `Unauthenticated`."""
        authorities: list[Authority] = [self.keys]
        return await identify(authorities, token)

    async def ready(self) -> tuple[bool, str]:
        """Whether the store answers and nothing is being closed."""
        if self._closing:
            return False, "the server is draining"
        try:
            async with asyncio.timeout(_CHECK_S):
                await self.stores.base.docs("ready", limit=1)
        except (PerdureError, TimeoutError) as error:
            return False, f"the store does not answer: {error}"
        return True, ""

    def _application(self) -> Starlette:
        pages = manual_routes(self.services.about["version"])
        return application(self.services, self._faces(), self.identify, self.ready, extra=pages)

    def _faces(self) -> list[Face]:
        return [openai_face(), native_face()]

    async def changes(self, project: str, first: str, last: str) -> Sequence[Change]:
        """Return what differs between two snapshots of a project."""
        from perdure.environments.snapshots import Snapshots

        snapshots = Snapshots(self._work(project) / "snapshots")
        return await asyncio.to_thread(snapshots.changes, first, last)

    def _about(self) -> dict[str, str]:
        return {"version": version("perdure"), "store": self._plan.store.partition(":")[0]}

    def _work(self, project: str) -> Path:
        return self._root if project == DEFAULT else self._root / "projects" / project

    async def _engine(self, project: str, store: Store) -> Engine:
        work = self._work(project)
        options = self._plan.options
        kit = Kit(
            store=store,
            clock=self._clock,
            ids=self._ids,
            models=self._models,
            environments=environments_at(work, options),
            prices=options.prices,
            workspace_tools=lambda where: workspace_tools(contained=where.kind == "bubblewrap"),
            bounds=options.bounds,
            schedules=True,
            agents=self.tools_of(project),
        )
        engine = Engine(kit)
        for agent in self._plan.agents:
            await engine.register(agent)
        return engine

    async def _authorisation(self, server: McpServer) -> Mapping[str, str]:
        return {}
