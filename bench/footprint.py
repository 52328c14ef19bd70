"""What a process costs before and beside its work: start-up time, memory of sessions at rest."""

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.measure import median, resident_bytes
from bench.workload import FakeModel, Watch, agent_of, open_engine, run_all
from perdure.engine.kit import Bounds

_WARM_STEPS = 40


class Startup(msgspec.Struct, frozen=True):
    """Milliseconds of whole processes, except `open_ms` and `reopen_ms`: `async with Runtime` on
    a new file and on one that is there, after imports.
    """

    python_ms: float
    import_ms: float
    help_ms: float
    runtime_process_ms: float
    open_ms: float
    reopen_ms: float


class Memory(msgspec.Struct, frozen=True):
    """Bytes in RAM for each session at rest: after one short exchange, after a turn of 20 steps,
    and after such a turn when it has been put out of memory.
    """

    sessions: int
    short: float
    long: float
    evicted: float


_OPEN = """
import asyncio, sys, time
from perdure import Runtime
async def main():
    begun = time.perf_counter()
    async with Runtime("sqlite:///" + sys.argv[1]):
        print((time.perf_counter() - begun) * 1000)
asyncio.run(main())
"""


def startup(folder: Path, repeats: int) -> Startup:
    """Start processes, one after the other, taking turns."""
    runs: dict[str, list[float]] = {name: [] for name in Startup.__struct_fields__}
    for number in range(repeats):
        path = str(folder / f"startup{number}.db")
        runs["python_ms"].append(_process("-c", "pass")[0])
        runs["import_ms"].append(_process("-c", "import perdure")[0])
        runs["help_ms"].append(_process("-m", "perdure", "--help")[0])
        took, said = _process("-c", _OPEN, path)
        runs["runtime_process_ms"].append(took)
        runs["open_ms"].append(float(said))
        runs["reopen_ms"].append(float(_process("-c", _OPEN, path)[1]))
    return Startup(**{name: median(times) for name, times in runs.items()})


def _process(*arguments: str) -> tuple[float, str]:
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    return (time.perf_counter() - begun) * 1000, done.stdout


def memory(folder: Path, sessions: int, warm: int) -> Memory:
    """Measure each kind in a process of its own, so that none inherits another's free memory."""
    kinds = {"short": (2, False), "long": (20, False), "evicted": (20, True)}
    found = {}
    for name, (steps, evict) in kinds.items():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            arguments = json.dumps([place, warm, sessions, steps, evict])
            found[name] = float(_process("-m", "bench.footprint", arguments)[1])
    return Memory(sessions, **found)


async def _resident(place: str, warm: int, sessions: int, steps: int, evict: int) -> float:
    """Return the bytes of RAM for each session at rest. `warm` sessions run first."""
    watch = Watch()
    model = FakeModel(watch, _WARM_STEPS)
    bounds = Bounds(idle_s=0.2 if evict else 3600.0)
    engine, _ = await open_engine(Path(place) / "m.db", model, bounds)
    agent = agent_of(watch, "read")

    async def settle(name: str, count: int) -> int:
        await run_all(engine, agent, watch, [f"{name}{n}" for n in range(count)])
        if evict:
            await asyncio.sleep(1.0)
        watch.forget()
        gc.collect()
        return resident_bytes()

    # Fills SQLite's page cache, which would otherwise grow while sessions are counted.
    await settle("warm", warm)
    model.steps = steps
    before = await settle("first", sessions // 4)
    after = await settle("s", sessions)
    await engine.close()
    return (after - before) / sessions


if __name__ == "__main__":
    print(asyncio.run(_resident(*json.loads(sys.argv[1]))))
