"""Putting a server together: the one place that knows every door, and every part behind them."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Final

from starlette.types import ASGIApp

from perdure.app import Options, Work, environ_of, models_for, open_store
from perdure.core.errors import PerdureError
from perdure.doors.authorising import Authoriser
from perdure.doors.credentials import Credentials
from perdure.doors.http import Face
from perdure.doors.native.face import manual_routes, native_face
from perdure.doors.openai.automations.duty import Duty
from perdure.doors.openai.automations.records import AUTOMATION
from perdure.doors.openai.face import PREFIX, openai_face
from perdure.doors.openai.responses.socket import socket_routes
from perdure.doors.principals import Authority, Keys, Principal, identify
from perdure.doors.projects import Projects
from perdure.doors.server import application
from perdure.doors.services import Services
from perdure.doors.settings import ServerSettings
from perdure.doors.tokens import Tokens
from perdure.engine.agent import Agent
from perdure.engine.kit import Kit
from perdure.engine.retention import RetentionSettings
from perdure.engine.runtime import Engine
from perdure.environments.egress.gate import Egress
from perdure.environments.homes import discard
from perdure.environments.roots import homes_of
from perdure.ports.commits import Commits
from perdure.ports.model import Models
from perdure.ports.sandbox import Change
from perdure.ports.store import Store
from perdure.serving.egress import secrets_of
from perdure.serving.eyes import Eyes
from perdure.serving.jwks import key_set_at
from perdure.serving.membership import Membership, address_of
from perdure.serving.outbound import Outbound
from perdure.serving.retaining import Retaining
from perdure.serving.takeover import AllProjects, takeover_of
from perdure.serving.tools import ProjectTools
from perdure.serving.tracing import Tracing
from perdure.serving.vault_key import VaultKeys, beside, vault_keys
from perdure.stores.projects import DEFAULT, ProjectStores
from perdure.stores.system import RandomIds, SystemClock
from perdure.stores.vault import SealedVault
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
    tracing: Tracing | None = None
    retention: RetentionSettings = field(default_factory=RetentionSettings)


class Server:
    """A server without a socket: `app` is what an ASGI server runs. Open with `Server.open`."""

    def __init__(
        self, plan: Plan, stores: ProjectStores, work: Work, models: Models, vault: VaultKeys
    ) -> None:
        self._plan = plan
        self._vault = vault
        self._outbound = Outbound(plan.settings.private_hosts)
        self._work = work
        self._models = models
        self._clock = SystemClock()
        self._ids = RandomIds()
        self.eyes = Eyes(self._clock, plan.settings, plan.tracing)
        self._tools: dict[str, ProjectTools] = {}
        self._closing = False
        self._taking_over: asyncio.Task[None] | None = None
        self._firing: asyncio.Task[None] | None = None
        self._belonging: asyncio.Task[None] | None = None
        self._retaining: asyncio.Task[None] | None = None
        self.stores = stores
        self.membership = Membership(stores, self._clock, os.urandom)
        self.told_to_end: Callable[[], object] = self._drain_alone  # by another node
        self.keys = Keys(stores.base, self._clock, self._ids, os.urandom)
        self._authorities: list[Authority] = [self.keys]
        if (oidc := plan.settings.oidc) is not None:
            self._authorities.append(Tokens(oidc, key_set_at(oidc.jwks), self._clock))
        self.projects = Projects(stores, self._engine)
        self.eyes.count(self.projects)
        if isinstance(stores.base, Commits):
            stores.base.tell_commits(self.eyes.metrics.committed, self._clock)
        self.services = Services(
            self.projects,
            self._clock,
            self._ids,
            plan.settings,
            plan.url,
            self.tools_of,
            vault=self.vault_of,
            changes=self.changes,
            about=self._about(),
            cluster=self.membership.cluster,
        )
        self.app = self._application()

    @classmethod
    async def open(cls, plan: Plan) -> "Server":
        """Open the store and everything behind the doors. Raises `Unavailable`."""
        store, root = await open_store(plan.store, plan.options.blobs)
        models = plan.options.models or models_for(plan.options)
        environ, file = environ_of(plan.options), beside(plan.store)
        vault = await vault_keys(
            plan.settings, environ, file, os.urandom, forgetful=plan.store == "memory:"
        )
        stores = ProjectStores(store)
        server = cls(plan, stores, Work(plan.store, plan.options, root), models, vault)
        await server.projects.engine(DEFAULT)
        server.take_over()
        return server

    def take_over(self) -> None:
        """Begin to go on with what other processes left unfinished, in all projects."""
        every_s = self._plan.settings.takeover_s
        sessions = AllProjects(self.stores, self.projects, self._clock)
        takeover = takeover_of(sessions, self._clock, self._ids.random, every_s)
        self._taking_over = asyncio.create_task(takeover.run(), name="perdure takeover")
        duty = Duty(self.services, self._automated, self._plan.options.bounds.poll_s)
        self._firing = asyncio.create_task(duty.run(), name="perdure automations")
        self._belonging = asyncio.create_task(self._belong(), name="perdure nodes")
        retaining = Retaining(self.stores, self.projects, self._plan.retention, self._forget)
        self._retaining = asyncio.create_task(retaining.run(), name="perdure retention")

    async def announce(self, url: str) -> None:
        """Tell the other nodes of the store that this one is at `url`, unless the settings say
        where. Raises `Unavailable`.
        """
        settings = self._plan.settings
        await self.membership.announce(address_of(url, settings.host, settings.advertise))

    async def _belong(self) -> None:
        """Be a node of the store until another one says that this is to end."""
        if (cluster := self.membership.cluster) is not None:
            await self.membership.until_told(cluster)
            self.told_to_end()

    def _drain_alone(self) -> None:
        """Drain without a socket to close."""
        draining = self.drain(self._plan.settings.drain_s)
        self._belonging = asyncio.create_task(draining, name="perdure drains")

    async def drain(self, seconds: float) -> None:
        """Begin nothing new; wait, at most `seconds`, for what runs."""
        self._closing = True
        if self._taking_over is not None:
            self._taking_over.cancel()
        engines = self.projects.open_ones.values()
        await asyncio.gather(*(engine.drain(seconds) for engine in engines))

    def stop_streams(self) -> None:
        """Tell those that read or wait to come back later."""
        self.eyes.stop()

    async def close(self) -> None:
        """Let all work go; what was in flight is taken up by the next process."""
        self._closing = True
        for duty in (self._taking_over, self._firing, self._belonging, self._retaining):
            if duty is not None:
                duty.cancel()
                await asyncio.wait({duty})
        await self.membership.close()
        for tools in self._tools.values():
            await tools.close()
        await self.projects.close()
        self._work.close()
        await asyncio.to_thread(self.eyes.close)
        if self._plan.options.models is None and hasattr(self._models, "close"):
            await self._models.close()

    def tools_of(self, project: str) -> ProjectTools:
        """Return the tools of a project's API agents."""
        if project not in self._tools:
            store = self.stores.of(project)
            self._tools[project] = ProjectTools(
                store, lambda where: workspace_tools(contained=where.kind == "bubblewrap"),
                self._authoriser(project).token, self._outbound.transport, self.vault_of(project),
                clock=self._clock,
            )  # fmt: skip
        return self._tools[project]

    async def identify(self, token: str) -> Principal:
        """Return who calls. Raises `Unauthenticated`."""
        return await identify(self._authorities, token)

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

    def _application(self) -> ASGIApp:
        pages = manual_routes(self.services.about["version"])
        pages += self.eyes.routes(self.identify, self.services.request_id)
        sockets = socket_routes(PREFIX, self.services, self.identify)
        extra = [*pages, *sockets, *self.membership.routes(self.services)]
        made = application(self.services, self.faces, self.identify, self.ready, extra=extra)
        self.routes = made.routes
        return self.eyes.around(made)

    @property
    def faces(self) -> list[Face]:
        """All protocols that are spoken."""
        return [openai_face(), native_face()]

    def _forget(self, session: str, project: str) -> None:
        """Remove the workspace of a session that is gone. Blocks."""
        for folder in homes_of(self._work.whole, self._below(project), session):
            discard(folder)

    async def changes(self, project: str, first: str, last: str) -> Sequence[Change]:
        """Return what differs between two snapshots of a project."""
        store = self.stores.of(project)
        return await self._work.changes(store, first, last, below=self._below(project))

    def _about(self) -> dict[str, str]:
        return {"version": version("perdure"), "store": self._plan.store.partition(":")[0]}

    @staticmethod
    def _below(project: str) -> str:
        return "" if project == DEFAULT else f"projects/{project}"

    async def _engine(self, project: str, store: Store) -> Engine:
        options = self._plan.options
        egress = self._egress(project)
        kit = Kit(
            store=store,
            clock=self._clock,
            ids=self._ids,
            models=self._models,
            environments=self._work.environments(store, below=self._below(project), egress=egress),
            prices=options.prices,
            workspace_tools=lambda where: workspace_tools(contained=where.kind == "bubblewrap"),
            bounds=replace(options.bounds, follower_backlog=self._plan.settings.stream_buffer),
            schedules=True,
            agents=self.tools_of(project),
        )
        engine = self.eyes.engine(kit, project)
        self.tools_of(project).trees = engine.trees
        self.membership.attach(project, engine)
        for agent in self._plan.agents:
            await engine.register(agent)
        return engine

    async def _automated(self) -> dict[str, Engine]:
        """Return the engines of the projects that have automations, by project."""
        names = [doc.name for doc in await self.stores.base.docs(AUTOMATION)]
        projects = sorted({self.stores.parted(name)[0] for name in names})
        return {project: await self.projects.engine(project) for project in projects}

    @property
    def vault_said(self) -> str:
        """Where the vault's key came from, for the operator."""
        return self._vault.said

    def vault_of(self, project: str) -> SealedVault:
        """Return the vault of a project."""
        return SealedVault(
            self.stores.of(project), self._vault.keys, os.urandom, sealing=self._vault.lasting
        )

    def _egress(self, project: str) -> Egress:
        """Lists of hosts are the clients' here: only the operator opens private networks."""
        secrets = secrets_of(self.stores.of(project), self.vault_of(project))
        private = tuple(self._plan.settings.private_hosts)
        return Egress(trusted=False, private=private, secrets_for=secrets)

    def _authoriser(self, project: str) -> Authoriser:
        credentials = Credentials(self.stores.of(project), self.vault_of(project))
        return Authoriser(credentials, self._clock, self._outbound.post_form)
