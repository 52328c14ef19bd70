"""Forking a long session that has a large workspace.

The workspaces are those of the `process` environment: what is stored and made anew is the same as
in a sandbox, and it runs everywhere.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from bench.measure import Control, Spread, median, spread
from bench.workload import FakeModel, OneModel, Watch, session_of, tool_of
from perdure.core.agent import EnvironmentSpec, Limits
from perdure.core.content import Text, ToolCall, Usage, as_content
from perdure.core.inbox import Say
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.environments.process import Process
from perdure.ports.model import Delta, ModelReply, ModelRequest
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.workspace import workspace_tools

_EVENTS_A_PAIR = 5
_FILE_BYTES = 2048
_BURST = 50


class Forks(msgspec.Struct, frozen=True):
    """`end_ms` and `middle_ms`: until a fork is on the disk, cut at the last event or half-way.
    `files_ms`: from then until its workspace is there. `model_ms`: from the first message to it
    until its model is called with the whole transcript. Each in an engine that has just started.
    """

    events: int
    files: int
    end_ms: float
    middle_ms: float
    files_ms: float
    model_ms: float
    control: Spread


class _Writer(FakeModel):
    """Writes one file first, so that there is a workspace, and then looks at things."""

    def __init__(self, watch: Watch, steps: int) -> None:
        super().__init__(watch, steps)
        self.called = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """See `Model.stream`."""
        self.called.set()
        if len(request.items) > 1:
            async for piece in super().stream(request):
                yield piece
            return
        self._watch.begin(session_of(request))
        name = f"{request.call_prefix}{request.first_call}"
        call = ToolCall(name, "write", '{"path": "first", "content": "x"}')
        yield ModelReply((Text("I write."), call), Usage(input_tokens=9), "tool_calls")


class _Bench:
    """A folder with a session, and engines that open it one after the other."""

    def __init__(self, folder: Path, events: int) -> None:
        self._folder = folder
        self._pairs = max(2, (events - 10) // _EVENTS_A_PAIR)
        self._watch = Watch()

    async def open(self) -> tuple[Engine, _Writer]:
        """Start an engine as a process does."""
        store = await SqliteStore.open(self._folder / "forks.db")
        model = _Writer(self._watch, self._pairs * 2)
        places = {"process": Process(self._folder / "places", SystemClock(), allow=True)}
        bounds = Bounds(idle_s=3600.0)
        kit = Kit(store, SystemClock(), RandomIds(), OneModel(model), places, bounds=bounds)
        engine = await Engine(kit).__aenter__()
        await engine.register(self._agent())
        return engine, model

    def _agent(self) -> Agent:
        return Agent(
            "bench",
            "fake:bench",
            tools=[*workspace_tools(), tool_of(self._watch, "read", 0.0)],
            limits=Limits(steps=None, tool_calls=None, wall_s=None),
            environment=EnvironmentSpec(kind="process"),
        )

    async def live(self, source: Path) -> int:
        """Live the long session to its end; return its number of events."""
        engine, _ = await self.open()
        session = await engine.session("s", self._agent(), source=str(source))
        state = await session.send("s")
        await engine.close()
        return state.seq

    async def fork(self, at: int) -> tuple[float, float, float]:
        """Fork and go on; return the times to the fork, to its files and to its model's call."""
        engine, model = await self.open()
        begun = time.perf_counter()
        fork = await Session(engine, "s").fork(at)
        forked = time.perf_counter()
        async for _ in fork.watch():
            pass
        made = time.perf_counter()
        model.called.clear()
        await fork.post(Say("message", as_content("go on")))
        await model.called.wait()
        called = time.perf_counter()
        await engine.close()
        return forked - begun, made - forked, called - made


def forks(folder: Path, events: int, files: int, repeats: int) -> Forks:
    """Make a session of about that many events over that many files, then fork it."""
    return asyncio.run(_forks(folder, events, files, repeats))


async def _forks(folder: Path, events: int, files: int, repeats: int) -> Forks:
    source = folder / "source"
    _fill(source, files)
    bench, control = _Bench(folder, events), Control(folder)
    seq = await bench.live(source)
    ends, middles = [], []
    for _ in range(repeats):
        control.burst(_BURST)
        ends.append(await bench.fork(seq))
        middles.append(await bench.fork(seq // 2))
    return Forks(
        seq,
        files,
        median(t for t, _, _ in ends) * 1000,
        median(t for t, _, _ in middles) * 1000,
        median(t for _, t, _ in ends) * 1000,
        median(t for _, _, t in ends) * 1000,
        spread(control.seconds),
    )


def _fill(source: Path, files: int) -> None:
    for number in range(files):
        path = source / f"part{number % 70}" / f"file{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number}\n".encode().ljust(_FILE_BYTES, b"."))
