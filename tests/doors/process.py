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

from perdure.app import Options
from perdure.doors.principals import Keys
from perdure.doors.settings import ServerSettings
from perdure.engine.kit import Bounds
from perdure.models.scripted import Script, Scripted
from perdure.serving.server import Plan, Server
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from tests.doors.serving import Scripts

LIFE_S = 60.0  # no server outlives its test by more
START_S = 30.0


class Task(msgspec.Struct, frozen=True):
    """What a process is to serve. `kill_at`: it kills itself at the so-many-th write of the store,
    before it (`after` false) or when it is done; 0: never.
    """

    store: str
    scripts: dict[str, Script]
    kill_at: int = 0
    after: bool = False
    settings: ServerSettings = ServerSettings(
        models={"*": "test:*"}, default_model="talk", private_hosts=("127.0.0.1",)
    )


def _serve(order: bytes, tell: Connection) -> None:
    task = msgspec.json.decode(order, type=Task)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(task, tell))


async def _run(task: Task, tell: Connection) -> None:
    models = Scripts({name: Scripted(each) for name, each in task.scripts.items()})
    path = Path(task.store)
    bounds = Bounds(poll_s=0.05, idle_s=0.5)
    options = Options(models=models, bounds=bounds, work_root=path.parent / "work")
    server = await Server.open(Plan(f"sqlite:///{path}", task.settings, options))
    if task.kill_at:
        _kill_at(server.stores.base, task.kill_at, after=task.after)
    listener = socket.create_server(("127.0.0.1", 0))
    web = uvicorn.Server(uvicorn.Config(server.app, log_level="warning", lifespan="off"))
    tell.send(listener.getsockname()[1])
    try:
        async with asyncio.timeout(LIFE_S):
            await web.serve(sockets=[listener])
    except TimeoutError:
        web.force_exit = True
    finally:
        await server.close()


def _kill_at(store: Any, number: int, *, after: bool) -> None:
    """Kill this process at the `number`-th append of the store."""
    append, seen = store.append, 0

    async def counted(batch: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        await append(batch)
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    store.append = counted


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
    process: ForkServerProcess | None = None
    port: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    async def start(self, kill_at: int = 0, *, after: bool = False) -> None:
        """Start a server; return when it listens."""
        assert self.process is None or not self.process.is_alive()
        context = _context()
        mine, its = context.Pipe(duplex=False)
        task = Task(str(self.path), self.scripts, kill_at, after)
        if self.settings is not None:
            task = msgspec.structs.replace(task, settings=self.settings)
        self.process = context.Process(target=_serve, args=(msgspec.json.encode(task), its))
        await asyncio.to_thread(self.process.start)
        its.close()
        ready = await asyncio.to_thread(mine.poll, START_S)
        assert ready, "the server did not come up"
        self.port = mine.recv()
        mine.close()

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

    async def openai(self, project: str = "default") -> openai.AsyncOpenAI:
        """Return a client of the server that runs now."""
        url = f"http://127.0.0.1:{self.port}/openai/v1"
        key = self.keys[project]
        client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=30.0)
        self.clients.append(client)
        return client


async def _make_key(path: Path, project: str) -> str:
    store = await SqliteStore.open(path)
    try:
        keys = Keys(store, SystemClock(), RandomIds(), os.urandom)
        return (await keys.make(project, "operator"))[1]
    finally:
        await store.close()


@asynccontextmanager
async def home(
    path: Path, scripts: dict[str, Script], settings: ServerSettings | None = None
) -> AsyncIterator[Home]:
    """A store at `path` with a key for it; its process is dead when the block ends."""
    here = Home(path, scripts, settings)
    for project in ("default", "other"):
        here.keys[project] = await _make_key(path, project)
    try:
        yield here
    finally:
        for client in here.clients:
            await client.close()
        if here.process is not None:
            here.process.kill()
            await asyncio.to_thread(here.process.join, START_S)
            here.process.close()
