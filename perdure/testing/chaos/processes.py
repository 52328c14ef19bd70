"""Nodes as processes: started, stopped, killed, and told to finish."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Self

import msgspec

from perdure.testing.chaos.node import Plan

_START_S = 60.0
_FINISH_S = 60.0


class NodeProcess:
    """One node, from its start to its end; a name is used once."""

    def __init__(self, plan: Plan, process: asyncio.subprocess.Process) -> None:
        self.plan = plan
        self._process = process

    @classmethod
    async def start(cls, plan: Plan, library: str = "") -> Self:
        """Start it and wait until it serves. With `library` (libfaketime's), its whole process has
        the wrong clock, and no more than that one. Raises `RuntimeError` with what it said.
        """
        skew: list[str] = []
        if library and plan.skew_s:
            skew = ["env", f"LD_PRELOAD={library}", f"FAKETIME={plan.skew_s:+g}s"]
            skew += ["DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
            plan = msgspec.structs.replace(plan, skew_s=0.0)
        words = [sys.executable, "-m", "perdure.testing.chaos.node"]
        with cls._said(plan).open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *skew,
                *words,
                msgspec.json.encode(plan).decode(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=said,
            )
        node = cls(plan, process)
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            if (await process.stdout.readline()).strip() != b"ready":
                raise RuntimeError(f"{plan.name} did not start: {node.said}")
        return node

    @staticmethod
    def _said(plan: Plan) -> Path:
        return Path(plan.home) / f"{plan.name}.err"

    @property
    def name(self) -> str:
        """Its name in all observations."""
        return self.plan.name

    @property
    def said(self) -> str:
        """What it wrote to standard error."""
        return self._said(self.plan).read_text(errors="replace").strip()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: all of it stands still, and its connections stay."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def finish(self) -> None:
        """Let it read to the end and leave in order. Raises `RuntimeError` when it does not."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"finish\n")
        try:
            async with asyncio.timeout(_FINISH_S):
                status = await self._process.wait()
        except TimeoutError:
            self._process.send_signal(signal.SIGABRT)  # it says where all its threads stand
            await self._process.wait()
            raise RuntimeError(f"{self.name} did not end: {self.said}") from None
        if status:
            raise RuntimeError(f"{self.name} ended with {status}: {self.said}")
