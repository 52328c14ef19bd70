"""Taking up a session whose process died in the middle of a model call."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from bench.measure import median
from bench.workload import FakeModel, Watch, agent_of, open_engine
from perdure.core import step as due
from perdure.core.content import as_content
from perdure.core.events import Event
from perdure.core.inbox import Say
from perdure.core.step import next_step
from perdure.engine.journal import load
from perdure.engine.kit import Bounds
from perdure.engine.runtime import Engine
from perdure.ports.model import Delta, ModelReply, ModelRequest
from perdure.stores.sqlite import SqliteStore

_DYING = Bounds(recoveries=1_000_000, close_s=0.05)
_EVENTS_A_PAIR = 5  # model requested and responded; tool requested, started and finished


class Resume(msgspec.Struct, frozen=True):
    """`tail` events are newer than the cached state. `known_ms`: from opening the file until the
    next step is known; `model_ms`: from opening the file until the model is called again, with
    the whole transcript. Both after imports, with the file in the page cache.
    """

    events: int
    tail: int
    known_ms: float
    model_ms: float


class _Stuck(FakeModel):
    """The model in whose last call the process dies."""

    def __init__(self, watch: Watch, steps: int) -> None:
        super().__init__(watch, steps)
        self.reached = asyncio.Event()
        self._last = steps

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """See `Model.stream`; the call after the last step never ends."""
        if len(request.items) > self._last:
            self.reached.set()
            await asyncio.Event().wait()
        async for piece in super().stream(request):
            yield piece


def resume(folder: Path, events: int, repeats: int) -> Resume:
    """Make a journal of about that many events, then resume it `repeats` times."""
    pairs = max(1, (events - 4) // _EVENTS_A_PAIR)
    path = folder / f"resume{events}.db"
    return asyncio.run(_resume(path, pairs * 2, repeats))


async def _resume(path: Path, steps: int, repeats: int) -> Resume:
    engine, store = await _until_stuck(path, steps)
    await _die(engine, store)
    known, called, tail, seq = [], [], 0, 0
    for _ in range(repeats):
        begun = time.perf_counter()
        store = await SqliteStore.open(path)
        state, _, cached = await load(store, "s")
        assert isinstance(next_step(state), due.RecoverModel)
        known.append(time.perf_counter() - begun)
        tail, seq = state.seq - cached, state.seq
        await store.close()
    for _ in range(repeats):
        begun = time.perf_counter()
        engine, store = await _until_stuck(path, steps, send=False)
        called.append(time.perf_counter() - begun)
        await _die(engine, store)
    return Resume(seq, tail, median(known) * 1000, median(called) * 1000)


async def _until_stuck(path: Path, steps: int, *, send: bool = True) -> tuple[Engine, SqliteStore]:
    """Return when the last model call is entered; where it was sent, when that is on the disk."""
    watch = Watch()
    model = _Stuck(watch, steps)
    engine, store = await open_engine(path, model, _DYING)
    session = await engine.session("s", agent_of(watch, "read"))
    if send:
        await session.post(Say("message", as_content("s")))
    else:
        engine.wake("s")
    await model.reached.wait()
    if send:
        await _written(engine, steps // 2 * _EVENTS_A_PAIR + 4)
    return engine, store


async def _written(engine: Engine, seq: int) -> None:
    async for event in (await engine.session("s")).follow():
        if isinstance(event, Event) and event.seq >= seq:
            return


async def _die(engine: Engine, store: SqliteStore) -> None:
    store.kill()
    await engine.close()
