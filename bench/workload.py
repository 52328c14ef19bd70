"""The workload of all cells: a fake model and a fake tool that answer with 1 KiB each, at once.

A step is one call whose result is journaled: a model reply (`model.responded`) or a tool result
(`tool.finished`). They alternate; the reply that ends the turn is not counted as a step.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from perdure.core import events as e
from perdure.core.agent import Limits
from perdure.core.content import Text, ToolCall, Usage, UserItem, text_of
from perdure.core.events import Event
from perdure.engine.agent import Agent
from perdure.engine.hub import Live
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.ports.model import Delta, Model, ModelReply, ModelRequest
from perdure.ports.tool import Tool, ToolContext
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.python import tool

STEP_BYTES: Final = 1024
STEPS: Final = 20


class Watch:
    """When each step of a session began, and how long it took until it was durable."""

    def __init__(self) -> None:
        self.begun: dict[str, list[float]] = defaultdict(list)
        self.seconds: list[float] = []
        self._open: dict[str, deque[float]] = defaultdict(deque)

    def begin(self, session: str) -> None:
        """A model or tool has just been entered."""
        now = time.perf_counter()
        self.begun[session].append(now)
        self._open[session].append(now)

    def see(self, session: str, piece: Event | Live) -> None:
        """A follower was handed `piece`: what it says is on the disk."""
        if not isinstance(piece, Event):
            return
        if isinstance(piece.payload, e.ModelResponded | e.ToolFinished):
            self.seconds.append(time.perf_counter() - self._open[session].popleft())

    def forget(self) -> None:
        """Drop what was seen, so that it does not count as somebody's memory."""
        self.begun.clear()
        self.seconds.clear()
        self._open.clear()

    def paces(self) -> list[float]:
        """Return the times from the beginning of one step to that of the next."""
        return [b - a for times in self.begun.values() for a, b in pairwise(times)]


class FakeModel:
    """Asks for the tool until `steps` are done, then ends the turn. Thinks for `pause_s`."""

    def __init__(self, watch: Watch, steps: int, pause_s: float = 0.0) -> None:
        self._watch = watch
        self._pause_s = pause_s
        self.steps = steps
        self._text = "m" * STEP_BYTES

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """See `Model.stream`."""
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
        self._watch.begin(session_of(request))
        usage = Usage(input_tokens=1000, output_tokens=250)
        if len(request.items) > self.steps:
            yield ModelReply((Text("done"),), usage, "stop")
            return
        call = ToolCall(f"{request.call_prefix}{request.first_call}", "look", '{"number": 7}')
        yield ModelReply((Text(self._text), call), usage, "tool_calls")

    async def check(self) -> str:
        """See `Model.check`."""
        return "fake"

    async def close(self) -> None:
        """See `Model.close`."""


class OneModel:
    """Finds the same model under every name."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def get(self, name: str) -> tuple[Model, str]:
        """See `Models.get`."""
        return self._model, name


def session_of(request: ModelRequest) -> str:
    """Return the session: its name is what the user said."""
    first = request.items[0]
    return text_of(first.content) if isinstance(first, UserItem) else ""


def tool_of(watch: Watch, effect: str, pause_s: float) -> Tool:
    """Return the fake tool. It is a coroutine: a plain function would get a thread per call."""
    text = "t" * STEP_BYTES

    @tool(effect=effect)
    async def look(number: int, context: ToolContext) -> str:
        """Look at something."""
        if pause_s:
            await asyncio.sleep(pause_s)
        watch.begin(context.session_id)
        return text

    return look


def agent_of(watch: Watch, effect: str, pause_s: float = 0.0) -> Agent:
    """Return an agent without limits of its own."""
    limits = Limits(steps=None, tool_calls=None, wall_s=None)
    return Agent("bench", "fake:bench", tools=[tool_of(watch, effect, pause_s)], limits=limits)


async def open_engine(
    path: Path, model: Model, bounds: Bounds | None = None
) -> tuple[Engine, SqliteStore]:
    """Return a running engine on a SQLite file, as `Runtime` puts it together."""
    store = await SqliteStore.open(path)
    bounds = bounds or Bounds(idle_s=3600.0)
    kit = Kit(store, SystemClock(), RandomIds(), OneModel(model), bounds=bounds)
    return await Engine(kit).__aenter__(), store


async def run_all(engine: Engine, agent: Agent, watch: Watch, names: list[str]) -> None:
    """Run these sessions, fifty at a time."""
    for start in range(0, len(names), 50):
        some = [await engine.session(name, agent) for name in names[start : start + 50]]
        await asyncio.gather(*(run_session(each, watch) for each in some))


async def run_session(session: Session, watch: Watch) -> None:
    """Send one message and follow the turn to its end, as a client does."""
    async for piece in session.send(session.id):
        watch.see(session.id, piece)
