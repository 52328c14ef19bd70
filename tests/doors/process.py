"""Real server processes on one SQLite file, really killed: forked from a process that has all
modules loaded, so that a restart takes no second.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import msgspec
import openai
import uvicorn

from perdure.app import Options, open_store
from perdure.doors.principals import Keys
from perdure.doors.settings import ServerSettings
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds
from perdure.models.scripted import Script, Scripted
from perdure.serving.server import Plan, Server
from perdure.stores.system import RandomIds, SystemClock
from perdure.testing.broken_repeats import put_in
from tests.doors.serving import Scripts

GONE = (openai.APIConnectionError, openai.APIError)
LIFE_S = 60.0  # no server outlives its test by more
START_S = 30.0


class Task(msgspec.Struct, frozen=True):
    """What a process is to serve. `kill_at`: it kills itself at the so-many-th write of the store,
    before it (`after` false) or when it is done; 0: never. `at` are the methods that count. It
    has an agent `talker`, whose model is `test:talk`.
    """

    store: str
    folder: str
    scripts: dict[str, Script]
    kill_at: int = 0
    after: bool = False
    at: tuple[str, ...] = ("append",)
    broken: str = ""  # one of `broken_repeats`, if its doors are to be wrong
    settings: ServerSettings = ServerSettings(
        models={"*": "test:*"}, default_model="talk", private_hosts=("127.0.0.1",)
    )


def _serve(order: bytes, tell: Connection) -> None:
    task = msgspec.json.decode(order, type=Task)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(task, tell))


async def _run(task: Task, tell: Connection) -> None:
    if task.broken:
        put_in(task.broken)
    models = Scripts({name: Scripted(each) for name, each in task.scripts.items()})
    path = Path(task.folder)
    bounds = Bounds(poll_s=0.05, idle_s=0.5)
    options = Options(models=models, bounds=bounds, work_root=path / "work")
    talker = Agent("talker", "test:talk")
    server = await Server.open(Plan(task.store, task.settings, options, [talker]))
    if task.kill_at:
        _kill_at(server.stores.base, task)
    listener = socket.create_server(("127.0.0.1", 0))
    await server.announce(f"http://127.0.0.1:{listener.getsockname()[1]}")
    web = uvicorn.Server(uvicorn.Config(server.app, log_level="warning", lifespan="off"))
    tell.send(listener.getsockname()[1])
    try:
        async with asyncio.timeout(LIFE_S):
            await web.serve(sockets=[listener])
    except TimeoutError:
        web.force_exit = True
    finally:
        await server.close()


def _kill_at(store: Any, task: Task) -> None:
    """Kill this process at one of the writes of the store."""
    seen = 0

    def counting(method: Any) -> Any:
        async def counted(*given: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            mine = seen == task.kill_at
            if mine and not task.after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = await method(*given, **named)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return counted

    for name in task.at:
        setattr(store, name, counting(getattr(store, name)))


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@dataclass
class Home:
    """A store on disk, and the process that serves it now, if one does."""

    path: Path
    scripts: dict[str, Script]
    settings: ServerSettings | None = None
    store: str = ""  # another one than the file at `path`
    broken: str = ""  # see `Task`
    process: ForkServerProcess | None = None
    port: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    async def start(
        self, kill_at: int = 0, *, after: bool = False, at: tuple[str, ...] = ("append",)
    ) -> None:
        """Start a server; return when it listens."""
        assert self.process is None or not self.process.is_alive()
        context = _context()
        mine, its = context.Pipe(duplex=False)
        task = Task(self.url, str(self.path.parent), self.scripts, kill_at, after, at)
        task = msgspec.structs.replace(task, broken=self.broken)
        if self.settings is not None:
            task = msgspec.structs.replace(task, settings=self.settings)
        self.process = context.Process(target=_serve, args=(msgspec.json.encode(task), its))
        await asyncio.to_thread(self.process.start)
        its.close()
        ready = await asyncio.to_thread(mine.poll, START_S)
        assert ready, "the server did not come up"
        self.port = mine.recv()
        mine.close()

    @property
    def url(self) -> str:
        """The address of the store."""
        return self.store or f"sqlite:///{self.path}"

    async def kill(self) -> None:
        """Kill the server, as a power failure of its machine would."""
        assert self.process is not None
        self.process.kill()
        await self.dead()

    async def dead(self) -> int:
        """Wait until the server is dead; return how it ended."""
        assert self.process is not None
        await asyncio.to_thread(self.process.join, START_S)
        status = self.process.exitcode
        assert status is not None, "the server lives"
        return status

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    async def end(self) -> None:
        """Let go of everything; the process is dead then."""
        for client in self.clients:
            await client.close()
        if self.process is not None:
            self.process.kill()
            await asyncio.to_thread(self.process.join, START_S)
            self.process.close()
            self.process = None

    async def openai(self, project: str = "default") -> openai.AsyncOpenAI:
        """Return a client of the server that runs now."""
        url = f"http://127.0.0.1:{self.port}/openai/v1"
        key = self.keys[project]
        client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=30.0)
        self.clients.append(client)
        return client


async def _make_key(url: str, project: str) -> str:
    store, _ = await open_store(url)
    try:
        keys = Keys(store, SystemClock(), RandomIds(), os.urandom)
        return (await keys.make(project, "operator"))[1]
    finally:
        await store.close()


@asynccontextmanager
async def home(
    path: Path,
    scripts: dict[str, Script],
    settings: ServerSettings | None = None,
    store: str = "",
) -> AsyncIterator[Home]:
    """A store at `path` with a key for it; its process is dead when the block ends."""
    here = Home(path, scripts, settings, store)
    for project in ("default", "other"):
        here.keys[project] = await _make_key(here.url, project)
    try:
        yield here
    finally:
        await here.end()
