"""`perdure up` as a process of its own, for tests of what happens when it is told to end."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

START_S = 60.0


@dataclass
class Running:
    """A process that serves, and what it said when it began."""

    process: Process
    said: Mapping[str, Any]

    def client(self, key: str) -> httpx2.AsyncClient:
        headers = {"authorization": f"Bearer {key}"}
        return httpx2.AsyncClient(base_url=self.said["url"], headers=headers, timeout=30.0)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait until it has ended; return its exit status."""
        async with asyncio.timeout(START_S):
            return await self.process.wait()


@asynccontextmanager
async def running(folder: Path, *arguments: str, **environ: str) -> AsyncIterator[Running]:
    """Run `perdure up` in `folder`; it is dead when the block ends."""
    process = await launched(folder, *arguments, **environ)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        assert line, await refused(process)
        yield Running(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def launched(folder: Path, *arguments: str, **environ: str) -> Process:
    """Start `perdure up --json` on a free port."""
    command = [sys.executable, "-m", "perdure", "up", "--json", *arguments]
    if "--port" not in arguments:
        command += ["--port", "0"]
    chosen = {k: v for k, v in os.environ.items() if not k.startswith("PERDURE_")} | environ
    return await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=chosen, stdout=PIPE, stderr=PIPE
    )


async def refused(process: Process) -> str:
    """Return what a process that did not start has to say."""
    async with asyncio.timeout(START_S):
        said, errors = await process.communicate()
    return (said + errors).decode()
