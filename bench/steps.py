"""Durable steps: how many a second, how long each, what each costs the disk."""

import asyncio
import gc
import time
from pathlib import Path

import msgspec

from bench.counting import counting
from bench.measure import Control, Spread, bytes_of, median, spread
from bench.workload import (
    STEP_BYTES,
    STEPS,
    FakeModel,
    Watch,
    agent_of,
    open_engine,
    run_session,
)
from perdure.core import events as e, journal as records
from perdure.core.events import Event
from perdure.ports.store import Batch, Claim, Store
from perdure.stores.sqlite import SqliteStore


class Load(msgspec.Struct, frozen=True):
    """So many sessions at a time, so often. `effect` is the tool's; bare: the store alone.

    With `pause_ms` model and tool take that long before they answer; a step begins after it.
    """

    effect: str
    sessions: int
    waves: int
    counted_waves: int = 1
    pause_ms: float = 0.0


class Cell(msgspec.Struct, frozen=True):
    """What was measured of one load.

    `step` is the time from entering a model or tool until its result was seen to be on the disk;
    `pace` from entering one step to entering the next. `disk_bytes` is what a step takes in the
    closed file, `written_bytes` what SQLite wrote for it, log and checkpoints included.
    """

    load: Load
    steps_per_second: float
    step: Spread
    pace: Spread
    control: Spread
    fsyncs_per_step: float
    written_bytes: float
    disk_bytes: float

    @property
    def step_ratio(self) -> float:
        """The median step in medians of the control."""
        return self.step.p50_ms / self.control.p50_ms if self.control.p50_ms else 0.0

    @property
    def pace_ratio(self) -> float:
        """The median pace in medians of the control."""
        return self.pace.p50_ms / self.control.p50_ms if self.control.p50_ms else 0.0


class _Timed(msgspec.Struct):
    """What a run saw; rates are one for each wave."""

    rates: list[float]
    seconds: list[float]
    paces: list[float]
    syncs: int = 0
    written: int = 0


def cell(folder: Path, load: Load) -> Cell:
    """Measure one load: a timed run with the control between its waves, then a counted one."""
    control = Control(folder)
    timed = asyncio.run(_run(folder / "timed.db", load, load.waves, control))
    with counting() as counts:
        counted = asyncio.run(_run(folder / "counted.db", load, load.counted_waves, None, counts))
    steps = load.sessions * STEPS * load.counted_waves
    return Cell(
        load,
        median(timed.rates),
        spread(timed.seconds),
        spread(timed.paces),
        spread(control.seconds),
        counted.syncs / steps,
        counted.written / steps,
        bytes_of(folder / "counted.db") / steps,
    )


async def _run(
    path: Path, load: Load, waves: int, control: Control | None, counts: object = None
) -> _Timed:
    run = _bare if load.effect == "bare" else _full
    return await run(path, load, waves, control, counts)


async def _full(
    path: Path, load: Load, waves: int, control: Control | None, counts: object
) -> _Timed:
    watch = Watch()
    pause_s = load.pause_ms / 1000
    agent = agent_of(watch, load.effect, pause_s)
    engine, _ = await open_engine(path, FakeModel(watch, STEPS, pause_s))
    timed = _Timed([], watch.seconds, [])
    try:
        for wave in range(waves):
            names = [f"s{wave}-{n}" for n in range(load.sessions)]
            sessions = [await engine.session(name, agent) for name in names]
            begun = _begin(timed, control, counts)
            await asyncio.gather(*(run_session(each, watch) for each in sessions))
            _end(timed, begun, load, counts)
    finally:
        await engine.close()
    timed.paces = watch.paces()
    if control is not None:
        control.burst(20)
    return timed


async def _bare(
    path: Path, load: Load, waves: int, control: Control | None, counts: object
) -> _Timed:
    store = await SqliteStore.open(path)
    timed = _Timed([], [], [])
    try:
        for wave in range(waves):
            names = [f"s{wave}-{n}" for n in range(load.sessions)]
            claims = [await store.claim(name) for name in names]
            begun = _begin(timed, control, counts)
            await asyncio.gather(*(_append(store, claim, timed.seconds) for claim in claims))
            _end(timed, begun, load, counts)
    finally:
        await store.close()
    timed.paces = timed.seconds
    if control is not None:
        control.burst(20)
    return timed


async def _append(store: Store, claim: Claim, seconds: list[float]) -> None:
    """Append one record of 1 KiB after the other, each on the disk before the next."""
    previous, text = claim.hash, "t" * STEP_BYTES
    for seq in range(1, STEPS + 1):
        begun = time.perf_counter()
        event = Event(seq, "0" * 26, 0, 1, e.ToolFinished("t1.1", "ok", text))
        record = records.write(event, previous).record
        await store.append(Batch(claim.session, claim.epoch, seq - 1, [record]))
        previous = record.hash
        seconds.append(time.perf_counter() - begun)


def _begin(timed: _Timed, control: Control | None, counts: object) -> tuple[float, int, int]:
    if control is not None:
        control.burst(20)
    gc.collect()
    return time.perf_counter(), getattr(counts, "syncs", 0), getattr(counts, "bytes", 0)


def _end(timed: _Timed, begun: tuple[float, int, int], load: Load, counts: object) -> None:
    took = time.perf_counter() - begun[0]
    timed.rates.append(load.sessions * STEPS / took)
    timed.syncs += getattr(counts, "syncs", 0) - begun[1]
    timed.written += getattr(counts, "bytes", 0) - begun[2]
