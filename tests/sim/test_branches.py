"""Simulated runs with forks and rewinds: every invariant holds, and those broken on purpose show.

PERDURE_SIM_BRANCH_SEEDS says how many seeds are run (300).
"""

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from perdure.testing.broken import SEEDS_MAX
from perdure.testing.broken_branches import BRANCH_VARIANTS, catch_branch
from perdure.testing.sim import store_of
from perdure.testing.sim_branches import Branching
from perdure.testing.simulation import Report, simulate

SEEDS = int(os.environ.get("PERDURE_SIM_BRANCH_SEEDS", "300"))
CHUNK = 50
CHUNKS = [range(first, min(first + CHUNK, SEEDS)) for first in range(0, SEEDS, CHUNK)]


class Found:
    """What is kept of a chunk."""

    def __init__(self, reports: list[Report]) -> None:
        self.wrong = [f"seed {r.seed} ({r.store}): {v}" for r in reports for v in r.violations]
        self.kills = sum(r.kills for r in reports)
        self.types = Counter(
            event.type for r in reports for events in r.journals.values() for event in events
        )


def run_chunk(seeds: range) -> Found:
    logging.disable(logging.CRITICAL)
    return Found([simulate(seed, store_of(seed, "both"), kind=Branching) for seed in seeds])


def caught(name: str) -> bool:
    logging.disable(logging.CRITICAL)
    return catch_branch(name) is not None


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
    return {name: pool.submit(caught, name) for name in BRANCH_VARIANTS}


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: f"{chunk[0]}-{chunk[-1]}")
def test_every_invariant_holds(chunk: range, running: dict[int, Future[Found]]) -> None:
    wrong = running[chunk[0]].result().wrong
    assert not wrong, "\n".join(wrong)


def test_the_runs_are_worth_something(running: dict[int, Future[Found]]) -> None:
    found = [future.result() for future in running.values()]
    types = sum((each.types for each in found), Counter[str]())
    assert types["session.forked"] > SEEDS
    assert types["session.rewound"] > SEEDS
    assert sum(each.kills for each in found) > SEEDS / 2


@pytest.mark.parametrize("name", BRANCH_VARIANTS)
def test_what_is_broken_on_purpose_is_seen(name: str, hunts: dict[str, Future[bool]]) -> None:
    assert hunts[name].result(), f"{name}: not seen in {SEEDS_MAX} seeds"
