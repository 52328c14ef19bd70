"""Simulated runs in which calls wait for people, clients, moments, signals and their next attempt,
and every way in which that is broken on purpose.

PERDURE_SIM_WAIT_SEEDS says how many seeds are run (250). A failure names its seed; to see its
story: python -m perdure.testing.sim --kind waits --seed N
"""

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from perdure.core import events as e
from perdure.core.events import Event
from perdure.testing.broken_waits import SEEDS_MAX, WAIT_VARIANTS, catch_wait
from perdure.testing.sim import KINDS, store_of
from perdure.testing.simulation import Report, simulate

SEEDS = int(os.environ.get("PERDURE_SIM_WAIT_SEEDS", "250"))
CHUNK = 50
CHUNKS = [range(first, min(first + CHUNK, SEEDS)) for first in range(0, SEEDS, CHUNK)]
WORTH = {
    # what must have happened, at least so often for each hundred seeds
    "kills": 50,
    "allow": 20,
    "allow for longer": 30,
    "allowed before": 5,
    "grant.revoked": 10,
    "deny": 5,
    "expired": 10,
    "answer": 30,
    "too late": 5,
    "time": 40,
    "signal": 15,
    "signal.received": 100,
    "retry": 15,
    "held": 5,
    "unknown": 5,
}


class Found:
    """What is kept of a chunk."""

    def __init__(self, reports: list[Report]) -> None:
        self.wrong = [f"seed {r.seed} ({r.store}): {v}" for r in reports for v in r.violations]
        self.seen: Counter[str] = Counter(kills=sum(r.kills for r in reports))
        for report in reports:
            for events in report.journals.values():
                self.seen.update(word for event in events for word in words(event))


def words(event: Event) -> Iterator[str]:
    """What of `WORTH` an event is."""
    yield event.type
    match event.payload:
        case e.ActionResolved(decision=decision, grant=grant):
            yield f"{decision} for longer" if grant else decision
        case e.ActionRequested(kind=kind):
            yield kind
        case e.ToolRequested(grant=grant) if grant is not None:
            yield "allowed before"
        case e.TimerFired(signal=signal):
            yield "signal" if signal else "time"
        case e.ToolFinished(status=status):
            yield status
        case e.NoteRecorded(text=text) if "refused: " in text or "was not needed" in text:
            yield "too late"
        case _:
            pass


def run_chunk(seeds: range) -> Found:
    logging.disable(logging.CRITICAL)
    return Found([simulate(seed, store_of(seed, "both"), kind=KINDS["waits"]) for seed in seeds])


def caught(name: str) -> bool:
    logging.disable(logging.CRITICAL)
    return catch_wait(name) is not None


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as processes:
        yield processes
        processes.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def running(pool: ProcessPoolExecutor) -> dict[int, Future[Found]]:
    return {chunk[0]: pool.submit(run_chunk, chunk) for chunk in CHUNKS}


@pytest.fixture(scope="module")
def hunts(pool: ProcessPoolExecutor) -> dict[str, Future[bool]]:
    return {name: pool.submit(caught, name) for name in WAIT_VARIANTS}


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: f"{chunk[0]}-{chunk[-1]}")
def test_every_invariant_holds(chunk: range, running: dict[int, Future[Found]]) -> None:
    wrong = running[chunk[0]].result().wrong
    assert not wrong, "\n".join(wrong)


def test_the_runs_are_worth_something(running: dict[int, Future[Found]]) -> None:
    seen = sum((future.result().seen for future in running.values()), Counter[str]())
    rare = {what: seen[what] for what, least in WORTH.items() if seen[what] * 100 < least * SEEDS}
    assert not rare


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_seed_is_the_same_run_every_time(store: str) -> None:
    one, other = (simulate(11, store, kind=KINDS["waits"]) for _ in range(2))
    assert one.story == other.story
    assert one.journals == other.journals


@pytest.mark.parametrize("name", WAIT_VARIANTS)
def test_what_is_broken_on_purpose_is_seen(name: str, hunts: dict[str, Future[bool]]) -> None:
    assert hunts[name].result(), f"{name}: not seen in {SEEDS_MAX} seeds"
