"""A system under test as a process: commands come as lines of JSON, answers leave as such.

Standard library only, because it runs in the peers' environment. The first line out is
`{"ready": time}`; every command is answered by one line. `{"do": ...}`:

- `open` (folder, url, stall): open the store; answers versions and settings.
- `run` (sessions, steps, at_once, least_s, most_s): run so many sessions, again until `least_s`
  have passed. What is cut after `most_s` has its steps of the second half of that time
  counted. Answers steps, seconds, p50, p99, cut, RSS.
- `stall` (steps): begin one session; answers when the step after `steps` is entered, and never
  leaves it.
- `resume`: in a new process after the other was killed; answers when that step is entered again.
- `close`: answers the bytes written by this process.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from bench.peers.recorder import Recorder


class System(Protocol):
    """A system under test."""

    async def open(self, folder: Path, url: str, recorder: Recorder) -> dict[str, str]:
        """Open the store, begin what works in the background; return versions."""
        ...

    async def run(self, names: list[str], steps: int, at_once: int) -> None:
        """Run these sessions to their end, `at_once` of them at a time."""
        ...

    async def resume(self, name: str) -> None:
        """Take up a session whose process was killed, where that is not done by `open`."""
        ...

    async def close(self) -> None:
        """Let everything go."""
        ...


class Server:
    """Answers the commands of one process."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._recorder = Recorder()
        self._task: asyncio.Task[None] | None = None
        self._names = 0

    async def answer(self, said: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match said["do"]:
            case "open":
                self._recorder = Recorder(said.get("stall"))
                folder = Path(said["folder"])
                return await self._system.open(folder, said["url"], self._recorder)
            case "run":
                return await self._run(said)
            case "stall":
                self._task = asyncio.create_task(self._system.run(["s"], said["steps"] + 20, 1))
                return await self._reached()
            case "resume":
                self._task = asyncio.create_task(self._system.resume("s"))
                return await self._reached()
            case _:
                await self._system.close()
                return {"written": written()}

    async def _run(self, said: dict[str, Any]) -> dict[str, Any]:
        self._recorder.take(complete=True)
        begun, cut, waves, rss = time.monotonic(), False, 0, 0
        while not cut and (not waves or time.monotonic() - begun < said["least_s"]):
            names = [f"s{self._names + n}" for n in range(said["sessions"])]
            self._names += len(names)
            work = self._system.run(names, said["steps"], said["at_once"])
            task = asyncio.create_task(work)
            left = said["most_s"] - (time.monotonic() - begun)
            done, _ = await asyncio.wait({task}, timeout=max(0.0, left))
            cut = not done
            if not cut:
                task.result()
            waves += 1
            rss = rss or peak_rss()
        seconds = time.monotonic() - begun
        # While it goes on, as many steps begin as end; the first ones of all sessions only begin.
        late = self._recorder.begun_after(begun + seconds / 2)
        steps, times = self._recorder.take(complete=not cut)
        if cut:
            steps, seconds = late, seconds / 2
        ends = _ends(times) if said["sessions"] == 1 else (0.0, 0.0)
        return {
            "steps": steps, "seconds": seconds, "cut": cut, "rss": rss,
            "p50_ms": _percentile(times, 0.5), "p99_ms": _percentile(times, 0.99),
            "first_ms": ends[0], "last_ms": ends[1],
        }  # fmt: skip

    async def _reached(self) -> dict[str, Any]:
        """Wait until the step is entered, or say why the session ended before it."""
        assert self._task is not None
        reached = asyncio.create_task(asyncio.to_thread(self._recorder.reached.wait))
        await asyncio.wait({reached, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not self._recorder.reached.is_set() and self._task.done():
            self._task.result()
        await reached
        return {"at": self._recorder.reached_at, "again": self._recorder.again}


def peak_rss() -> int:
    """Return the most memory that this process ever had in RAM, in bytes; 0 where not told."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def written(process: int | str = "self") -> int:
    """Return the bytes that a process and its ended children made the system write to the disk."""
    try:
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes")), 0)


def _ends(times: list[float]) -> tuple[float, float]:
    """Return the median of the first and of the last twentieth, in milliseconds."""
    part = max(2, len(times) // 20)
    return (median(times[:part]) * 1000, median(times[-part:]) * 1000) if times else (0.0, 0.0)


def _percentile(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


def serve(system: System) -> None:
    """Answer commands until standard input ends."""
    began = time.monotonic()
    # What a system prints must not look like an answer.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        asyncio.run(_serve(Server(system), out, began))


async def _serve(server: Server, out: Any, began: float) -> None:
    print(json.dumps({"ready": began}), file=out, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            answer = await server.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001  # whatever a peer raises is this run's finding
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), file=out, flush=True)
        if json.loads(line)["do"] == "close":
            break
    # Threads of a system that do not end must not keep its process, nor must a benchmark that died.
    os._exit(0)
