"""A node in a process of its own: an engine on a store's address, told by lines of JSON what to do.

It reads `["open", wave, sessions]`, `["run"]` and `["end"]`, and answers each with a line.
"""

import asyncio
import sys
import time
from typing import Final

import msgspec

from bench.measure import wake_promptly
from bench.workload import STEPS, FakeModel, OneModel, Watch, agent_of, run_session
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.system import RandomIds, SystemClock

_BOUNDS: Final = Bounds(idle_s=3600.0)


class Answer(msgspec.Struct, frozen=True):
    """`seconds`: of each step, until it was seen to be on the disk; `cpu_s`: of this process."""

    cpu_s: float = 0.0
    seconds: list[float] = []


async def serve(url: str, pause_s: float) -> None:
    """Do what is asked until the end."""
    watch = Watch()
    agent = agent_of(watch, "once", pause_s)
    store = await PostgresStore.open(url)
    kit = Kit(
        store, SystemClock(), RandomIds(), OneModel(FakeModel(watch, STEPS, pause_s)),
        bounds=_BOUNDS,
    )  # fmt: skip
    sessions: list[Session] = []
    async with Engine(kit) as engine:
        _say(Answer())
        while line := await asyncio.to_thread(sys.stdin.readline):
            word, *rest = msgspec.json.decode(line)
            before = time.process_time()
            if word == "open":
                wave, count = rest
                names = [f"{store.node}-{wave}-{n}" for n in range(count)]
                opened = await asyncio.gather(*(engine.session(name, agent) for name in names))
                sessions = list(opened)
            elif word == "run":
                await asyncio.gather(*(run_session(each, watch) for each in sessions))
            else:
                break
            _say(Answer(time.process_time() - before, [round(s, 6) for s in watch.seconds]))
            watch.forget()
    await store.close()


def _say(answer: Answer) -> None:
    print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    wake_promptly()
    asyncio.run(serve(sys.argv[1], float(sys.argv[2]) / 1000))
