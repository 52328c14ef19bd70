"""A real server on loopback, with a scripted model, for one test."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import openai
import uvicorn
from msgspec.structs import replace

from perdure.app import Options
from perdure.core.budget import Prices
from perdure.core.errors import InvalidRequest
from perdure.doors.principals import Role
from perdure.doors.settings import ServerSettings
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds
from perdure.models.scripted import Reply, Script, Scripted
from perdure.ports.model import Model
from perdure.serving.server import Plan, Server
from perdure.serving.tracing import Tracing
from perdure.serving.web import Connection

NO_PRICES: Prices = MappingProxyType({})
QUICK = Bounds(poll_s=0.05, idle_s=0.5)


class Scripts:
    """Models of which each plays the script of its name."""

    def __init__(self, scripts: dict[str, Model]) -> None:
        self._scripts = scripts

    def get(self, name: str) -> tuple[Model, str]:
        kind, _, rest = name.partition(":")
        if kind != "test" or rest not in self._scripts:
            raise InvalidRequest("E-MODEL-NAME", f"There is no model {name}.")
        return self._scripts[rest], rest


def script(*replies: Reply, delay_s: float = 0.0, chunk_chars: int = 4) -> Model:
    return Scripted(Script(tuple(replies), delay_s=delay_s, chunk_chars=chunk_chars))


@dataclass
class Up:
    """A server that runs, and keys for it."""

    server: Server
    url: str
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    async def key(self, project: str = "default", role: Role = "operator") -> str:
        return (await self.server.keys.make(project, role))[1]

    async def openai(self, project: str = "default", role: Role = "operator") -> openai.AsyncOpenAI:
        key = await self.key(project, role)
        client = openai.AsyncOpenAI(base_url=f"{self.url}/openai/v1", api_key=key, max_retries=0)
        self.clients.append(client)
        return client


@asynccontextmanager
async def up(
    models: dict[str, Model],
    path: Path | None = None,
    *,
    settings: ServerSettings | None = None,
    agents: Sequence[Agent] = (),
    prices: Prices = NO_PRICES,
    tracing: Tracing | None = None,
    store: str = "",
) -> AsyncIterator[Up]:
    """Run a server in this process until the block ends. With `path` its store is that file, or
    lies at the address `store`.
    """
    store = store or (f"sqlite:///{path}" if path else "memory:")
    chosen = settings or ServerSettings()
    if not chosen.models:  # every name stands for the script of that name
        chosen = replace(chosen, models={"*": "test:*"}, default_model="talk")
    if not chosen.private_hosts:  # servers of tests are on loopback
        chosen = replace(chosen, private_hosts=("127.0.0.1",))
    root = path.parent / "work" if path else None
    options = Options(models=Scripts(models), bounds=QUICK, work_root=root, prices=prices)
    async with serving(Plan(store, chosen, options, agents, tracing=tracing)) as here:
        yield here


@asynccontextmanager
async def serving(plan: Plan) -> AsyncIterator[Up]:
    """Run the server that is planned in this process, on loopback, until the block ends."""
    server = await Server.open(plan)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(server.app, http=Connection, log_level="warning", lifespan="off")
    web = uvicorn.Server(config)
    running = asyncio.create_task(web.serve(sockets=[listener]))
    here = Up(server, f"http://127.0.0.1:{listener.getsockname()[1]}")
    await server.announce(here.url)
    try:
        yield here
    finally:
        for client in here.clients:
            await client.close()
        web.should_exit = True
        web.force_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await running
        listener.close()
        await server.close()


__all__ = ["Reply", "Up", "script", "serving", "up"]
