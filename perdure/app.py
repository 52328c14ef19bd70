"""The composition root: the only file that knows every part and puts them together.

A program that wants other parts (a store of its own, a simulated clock) builds a
`perdure.engine.kit.Kit` itself and gives it to `Runtime(kit=…)`.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from perdure.core.budget import Price
from perdure.core.content import as_content
from perdure.core.errors import InvalidRequest, PerdureError
from perdure.core.grants import Grant
from perdure.core.schedules import Schedule
from perdure.core.secrets import Secret
from perdure.engine.agent import Agent
from perdure.engine.calendar import Terms, plan
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.schedules import Past
from perdure.engine.session import Input, Session
from perdure.ports.migrations import Migrations
from perdure.ports.model import ModelOptions, Models
from perdure.ports.sandbox import Change, Environments
from perdure.ports.store import SessionRow, Store
from perdure.remote.engine import RemoteEngine, here_only
from perdure.remote.link import Address, Link, is_remote
from perdure.remote.store import RemoteStore
from perdure.stores.postgres.address import check_installed, is_postgres
from perdure.stores.system import RandomIds, SystemClock

if TYPE_CHECKING:
    from perdure.environments.depot import Depot
    from perdure.environments.egress.gate import Egress


@dataclass(frozen=True)
class Options:
    """What a runtime may be told beside its store; everything has a default.

    `blobs` is where large payloads lie, and the snapshots of workspaces with them, so that other
    nodes find both: `s3://bucket/prefix`, `gs://…`, `az://…`, `file:///directory` (default: beside
    or in the store). `work_root` is where copied workspaces and snapshots lie on this machine
    (default: beside the store).
    `allow_unsandboxed` admits the environment `process`, which isolates nothing. A `clerk` takes
    letters and decisions into journals that nobody owns, but works on no session. `schedules`:
    fire, while the runtime is open, what is due of the agents registered in it. `wakes`: go on,
    while it is open, with sessions of such agents that slept, or wait, until a moment that has
    come. `api_key` opens a server (default: PERDURE_API_KEY); `ca_file` names the certificates that
    its own must be signed by, instead of the system's.
    """

    models: Models | None = None
    model_options: Mapping[str, ModelOptions] = field(default_factory=dict)
    environ: Mapping[str, str] | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)
    blobs: str = ""
    work_root: Path | None = None
    allow_unsandboxed: bool = False
    clerk: bool = False
    schedules: bool = False
    wakes: bool = True
    api_key: Secret | None = None
    ca_file: str = ""


class Runtime:
    """Where sessions live. `store` is `sqlite:///path/to/file.db`, `memory:`,
    `postgresql://user@host/database` for any number of machines, or the address of a server,
    `https://…`, whose sessions are used by the same methods; the default is PERDURE_URL where that
    is set, else `sqlite:///perdure.db`.

    Opens on first use; leave it with `async with` or `close()`. Several processes may open the
    same SQLite file: a session is worked on by one of them, and the others can read it, follow it
    and write to its inbox.
    """

    def __init__(
        self,
        store: str | None = None,
        options: Options | None = None,
        *,
        kit: Kit | None = None,
    ) -> None:
        self._options = options or Options()
        environ = os.environ if self._options.environ is None else self._options.environ
        self._url = store or environ.get("PERDURE_URL", "") or "sqlite:///perdure.db"
        self._remote = kit is None and is_remote(self._url)
        self._kit = kit
        self._models: Models | None = None
        self._engine: Engine | None = None
        self._work: Work | None = None

    async def __aenter__(self) -> Self:
        await self.engine()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def engine(self) -> Engine:
        """Return the engine, opening the store first. Raises `Unavailable`, `InvalidRequest`."""
        if self._engine is None and self._remote:
            self._engine = await self._connect().__aenter__()
        elif self._engine is None:
            kit = self._kit or await self._open_kit()
            self._engine = await Engine(kit).__aenter__()
        return self._engine

    def _connect(self) -> RemoteEngine:
        """Return the engine of the server at our address."""
        link = link_to(self._url, self._options)
        self._models = self._options.models or models_for(self._options)
        return RemoteEngine(self._kit_on(RemoteStore(link), self._models, {}), link)

    async def close(self) -> None:
        """Let everything go. Work in flight is taken up again by the next process."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()
        if self._models is not None and hasattr(self._models, "close"):
            await self._models.close()
        work, self._work = self._work, None
        if work is not None:
            work.close()

    async def changes(self, first: str, last: str) -> list[Change]:
        """Return what differs between two snapshots. Raises `NotFound`, `CorruptSnapshot`."""
        engine = await self.engine()
        if self._work is None:
            raise InvalidRequest("E-SNAPSHOT-MISSING", "This runtime has no workspaces of its own.")
        return await self._work.changes(engine.kit.store, first, last)

    async def register(self, agent: Agent) -> None:
        """Make an agent's code known, so that sessions pinned to it can run here."""
        await (await self.engine()).register(agent)

    async def session(
        self,
        session_id: str | None = None,
        agent: Agent | str | None = None,
        *,
        workspace: str | Path = "",
        adopt: bool = False,
    ) -> Session:
        """Return the session of that id at the place where it stands, in whichever process it was
        before; make it when there is none. `agent` may be the name of one that is registered, on
        a server above all. See `Engine.session`.
        """
        engine = await self.engine()
        return await engine.session(session_id, agent, source=_absolute(workspace), adopt=adopt)

    async def sessions(self) -> list[SessionRow]:
        """Return all sessions, last updated first."""
        return await (await self.engine()).sessions()

    async def rules(self) -> list[Grant]:
        """Return the rules in force: what people allowed beyond one session. See
        `Session.allow`.
        """
        return await (await self.engine()).rules()

    async def revoke_rule(self, name: str, *, by: str = "") -> None:
        """Take a rule out of force, in all processes at once. Raises `NotFound`
        (E-GRANT-UNKNOWN).
        """
        await (await self.engine()).revoke_rule(name, by=by)

    async def schedule(
        self,
        name: str,
        agent: Agent | str,
        prompt: Input,
        *,
        workspace: str | Path = "",
        **terms: Unpack[Terms],
    ) -> Schedule:
        """Let an agent run by itself: `cron="0 3 * * *"`, or once, `at=datetime(…)`; see `Terms`.

        It fires in whichever process has this agent registered and fires schedules:
        `Options(schedules=True)`, or `perdure work`. `workspace` is what each new session begins
        with a copy of. Said again in the same words, it changes nothing. Raises `InvalidRequest`,
        `Conflict` (E-SCHEDULE-EXISTS).
        """
        engine = await self.engine()
        if self._remote and workspace:
            raise here_only("A directory of this machine")
        name_of = agent if isinstance(agent, str) else (await engine.register(agent)).name
        made = plan(name, name_of, as_content(prompt), _absolute(workspace), terms)
        return await engine.schedules.add(made)

    async def schedules(self) -> list[Schedule]:
        """Return all schedules, by name."""
        return await (await self.engine()).schedules.all()

    async def schedule_runs(self, name: str) -> list[Past]:
        """Return a schedule's last runs with their sessions, newest first. Raises `NotFound`."""
        return await (await self.engine()).schedules.history(name)

    async def pause_schedule(self, name: str) -> Schedule:
        """Let a schedule fire no more until it is resumed. Raises `NotFound`."""
        return await (await self.engine()).schedules.pause(name)

    async def resume_schedule(self, name: str) -> Schedule:
        """Let a schedule go on with its next fire time after now. Raises `NotFound`."""
        return await (await self.engine()).schedules.resume(name)

    async def remove_schedule(self, name: str) -> None:
        """Forget a schedule; the sessions that it made stay. Raises `NotFound`."""
        await (await self.engine()).schedules.remove(name)

    async def run_schedule_now(self, name: str) -> str:
        """Run a schedule once outside its plan; return the session. Raises `NotFound`."""
        return await (await self.engine()).schedules.run_now(name)

    async def _open_kit(self) -> Kit:
        options = self._options
        store, root = await open_store(self._url, options.blobs)
        self._models = options.models or models_for(options)
        self._work = Work(self._url, options, root)
        return self._kit_on(store, self._models, self._work.environments(store))

    def _kit_on(
        self, store: Store, models: Models, environments: Mapping[str, Environments]
    ) -> Kit:
        from perdure.tools.workspace import workspace_tools

        options = self._options
        return Kit(
            store=store,
            clock=SystemClock(),
            ids=RandomIds(),
            models=models,
            environments=environments,
            prices=options.prices,
            workspace_tools=lambda where: workspace_tools(contained=where.kind == "bubblewrap"),
            bounds=options.bounds,
            clerk=options.clerk,
            schedules=options.schedules,
            wakes=options.wakes,
        )


def _absolute(workspace: str | Path) -> str:
    return str(Path(workspace).resolve()) if workspace else ""


def link_to(url: str, options: Options) -> Link:
    """Return the connection to a server, which opens when it is used. Raises `InvalidRequest`
    (E-REMOTE-URL), `Forbidden` (E-REMOTE-KEY).
    """
    environ = os.environ if options.environ is None else options.environ
    key = options.api_key or Secret(environ.get("PERDURE_API_KEY", ""))
    return Link(Address(url, key or None, options.ca_file))


async def open_store(url: str, blobs: str = "", *, half: bool = False) -> tuple[Store, Path]:
    """Open the store that `url` names; return it and the directory that belongs to it. `blobs` is
    the address of the place for large payloads, if they are not to lie beside or in the store.

    Raises `Conflict` (E-STORE-HALF) for one that a move or a restore has not filled to the end,
    unless it may be `half`.
    """
    from perdure.stores.carrying.moving import check_whole

    store, work = await _opened(url, blobs)
    try:
        if not half:
            await check_whole(store)
    except PerdureError:
        await store.close()
        raise
    return store, work


async def _opened(url: str, blobs: str) -> tuple[Store, Path]:
    from perdure.stores.objects import open_blobs

    aside = open_blobs(blobs) if blobs else None
    if url == "memory:":
        from perdure.stores.memory import MemoryDisk, MemoryStore

        return MemoryStore(MemoryDisk()), Path(".perdure")
    if url.startswith("sqlite:///"):
        from perdure.stores.sqlite import SqliteStore

        path = Path(url.removeprefix("sqlite:///"))
        return await SqliteStore.open(path, blobs=aside), path.with_name(path.name + ".work")
    if is_postgres(url):
        from perdure.stores.postgres.store import PostgresStore

        return await PostgresStore.open(url, blobs=aside), Path(".perdure") / "work"
    raise InvalidRequest(
        "E-STORE-URL",
        f"{url.partition('://')[0]!r} names no kind of store.",
        "Write sqlite:///path/to/file.db, postgresql://user@host/database, or memory: for one "
        "that forgets.",
    )


def migrations_of(url: str) -> Migrations:
    """Return the tables of the store that `url` names, which is not opened. Raises
    `InvalidRequest` (E-STORE-URL) for one that has none.
    """
    if url.startswith("sqlite:///"):
        from perdure.stores.sqlite.migrations import SqliteMigrations

        return SqliteMigrations(Path(url.removeprefix("sqlite:///")))
    if is_postgres(url):
        check_installed()
        from perdure.stores.postgres.planned import PostgresMigrations

        return PostgresMigrations(url, SystemClock())
    raise InvalidRequest(
        "E-STORE-URL",
        f"{url.partition('://')[0]!r} names no store that has tables.",
        "Write sqlite:///path/to/file.db or postgresql://user@host/database.",
    )


def models_for(options: Options) -> Models:
    """Return the registry of all providers, with these options."""
    from perdure.models.registry import Models as Registry

    return Registry(environ_of(options), options.model_options)


def environ_of(options: Options) -> Mapping[str, str]:
    """Return the variables of the environment that these options speak of."""
    return os.environ if options.environ is None else options.environ


class Work:
    """Where a process keeps workspaces: `root` and, where nodes share sessions, their depot.

    Nodes of one store have a directory each, on one machine too: the old owner of a session may
    still be at work in its own.
    """

    def __init__(self, url: str, options: Options, root: Path) -> None:
        from perdure.environments.roots import OwnRoot

        self._options = options
        self.whole = options.work_root or root  # with the directories of other processes
        self._own = OwnRoot(self.whole) if is_postgres(url) else None
        self.root = self._own.path if self._own else self.whole
        self._shared = bool(options.blobs) or is_postgres(url)

    def depot(self, store: Store) -> "Depot | None":
        """Return where the snapshots of a project's store are found by all nodes, if they are."""
        if not self._shared:
            return None
        from perdure.environments.depot import Depot

        return Depot(store.blobs, store, SystemClock())

    def environments(
        self, store: Store, *, below: str = "", egress: "Egress | None" = None
    ) -> dict[str, Environments]:
        """Return every kind of environment, with its files in the directory `below` the root."""
        from perdure.environments.bubblewrap import Bubblewrap
        from perdure.environments.process import Process

        clock, root, depot = SystemClock(), self.root / below, self.depot(store)
        allow = self._options.allow_unsandboxed
        return {
            "bubblewrap": Bubblewrap(root, clock, egress=egress, depot=depot),
            "process": Process(root, clock, allow=allow, depot=depot),
        }

    async def changes(
        self, store: Store, first: str, last: str, *, below: str = ""
    ) -> list[Change]:
        """Return what differs between two snapshots. Raises `NotFound`, `CorruptSnapshot`."""
        from perdure.environments.snapshots import Snapshots

        snapshots = await asyncio.to_thread(Snapshots, self.root / below / "snapshots")
        if (depot := self.depot(store)) is not None:
            for name in (first, last):
                await depot.fetch(snapshots, name)
        return await asyncio.to_thread(snapshots.changes, first, last)

    def close(self) -> None:
        """Let another process have the directory."""
        if self._own is not None:
            self._own.close()
