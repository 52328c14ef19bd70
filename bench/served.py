"""A real `perdure up` in a process of its own, for measuring."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

_AGENTS = """
from perdure import Agent, tool


@tool(effect="read")
async def look(where: str) -> str:
    '''Look somewhere.

    Args:
        where: the place
    '''
    return "nothing new"


clerk = Agent("clerk", model="scripted:clerk.toml", tools=[look])
"""
_TURN = """
[[reply]]
[[reply.call]]
tool = "look"
arguments = { where = "outside" }

[[reply]]
text = "There is nothing new outside, and there will be nothing new tomorrow."
"""
_CONFIG = """
budget_usd = 0
[server]
requests_per_minute = 0
default_model = "talk"
[server.models]
talk = "scripted:clerk.toml"
"""


@dataclass
class Served:
    """A server and how it is reached."""

    folder: Path
    url: str = ""
    key: str = ""
    process: Process | None = None
    clients: list[httpx2.AsyncClient] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)  # more of it than this process has

    async def start(self) -> None:
        """Start it; return when it answers."""
        command = [sys.executable, "-m", "perdure", "up", "agents.py", "--json", "--port", "0"]
        self.process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.folder,
            stdout=PIPE,
            stderr=DEVNULL,
            env={**os.environ, **self.environ},
        )
        assert self.process.stdout is not None
        said = json.loads(await self.process.stdout.readline())
        self.url, self.key = said["url"], said["key"] or self.key

    async def kill(self) -> None:
        """Kill it, as a power failure would."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    def client(self) -> httpx2.AsyncClient:
        """Return a client of the server that runs now."""
        headers = {"authorization": f"Bearer {self.key}"}
        limits = httpx2.Limits(max_connections=5000, max_keepalive_connections=5000)
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=60.0, limits=limits)

    def rss_kib(self) -> int:
        """Return the memory that it has in use, in KiB."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)


@asynccontextmanager
async def served(folder: Path, turns: int = 40) -> AsyncIterator[Served]:
    """Run a server in `folder`; it is dead when the block ends."""
    (folder / "agents.py").write_text(_AGENTS)
    (folder / "clerk.toml").write_text(_TURN * turns)
    (folder / "perdure.toml").write_text(_CONFIG)
    here = Served(folder)
    await here.start()
    try:
        yield here
    finally:
        await here.kill()
