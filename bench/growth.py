"""One long session: does a step cost more, in bytes or in time, the later it comes?"""

import asyncio
from pathlib import Path

import msgspec

from bench.measure import bytes_of, median
from bench.workload import STEP_BYTES, FakeModel, Watch, agent_of, open_engine, run_session


class Growth(msgspec.Struct, frozen=True):
    """`bytes_ratio`: bytes on the disk after closing / payload. `time_ratio`: time of the last
    twentieth of the steps / that of the first (100 of 2,000), the median of all repeats.
    """

    steps: int
    bytes_ratio: float
    time_ratio: float
    steps_per_second: float


def growth(folder: Path, steps: int, repeats: int) -> Growth:
    """Run one session of that many steps, `repeats` times."""
    part = max(2, steps // 20)
    bytes_ratios, time_ratios, rates = [], [], []
    for number in range(repeats):
        path = folder / f"growth{number}.db"
        times = asyncio.run(_run(path, steps))
        time_ratios.append((times[-1] - times[-1 - part]) / (times[part] - times[0]))
        rates.append((len(times) - 1) / (times[-1] - times[0]))
        bytes_ratios.append(bytes_of(path) / (steps * STEP_BYTES))
    return Growth(steps, median(bytes_ratios), median(time_ratios), median(rates))


async def _run(path: Path, steps: int) -> list[float]:
    watch = Watch()
    engine, _ = await open_engine(path, FakeModel(watch, steps))
    try:
        session = await engine.session("long", agent_of(watch, "read"))
        await run_session(session, watch)
    finally:
        await engine.close()
    return watch.begun["long"]
