"""Simulated runs of all kinds but the plain one, and what is broken on purpose in each of them.

PERDURE_SIM_KIND_SEEDS says how many seeds of each kind are run (200). A failure names its seed;
to see its story: python -m perdure.testing.sim --kind KIND --seed N
"""

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from perdure.testing.broken import SEEDS_MAX
from perdure.testing.broken_trees import VARIANTS_OF, catch_tree
from perdure.testing.sim import KINDS, store_of
from perdure.testing.simulation import Report, simulate

SEEDS = int(os.environ.get("PERDURE_SIM_KIND_SEEDS", "200"))
CHUNK = 50
CHUNKS = [
    (kind, range(first, min(first + CHUNK, SEEDS)))
    for kind in KINDS
    if kind not in ("plain", "branches", "waits")  # they have files of their own
    for first in range(0, SEEDS, CHUNK)
]
HUNTS = [(kind, name) for kind, (_, variants) in VARIANTS_OF.items() for name in variants]
WORTH = {
    # kind: what must have happened, at least so often for each hundred seeds
    "trees": {"subagents": 150, "kills": 50, "action.resolved": 50},
    "budgets": {"subagents": 150, "kills": 50, "stopped": 100, "session.updated": 50},
}


class Found:
    """What is kept of a chunk."""

    def __init__(self, reports: list[Report]) -> None:
        self.wrong = [f"seed {r.seed} ({r.store}): {v}" for r in reports for v in r.violations]
        self.seen: Counter[str] = Counter(kills=sum(r.kills for r in reports))
        for report in reports:
            self.seen["subagents"] += sum("." in name for name in report.journals)
            for events in report.journals.values():
                self.seen.update(event.type for event in events)
                self.seen["stopped"] += sum(
                    event.type == "turn.ended" and "E-LIMIT" in str(event.payload)
                    for event in events
                )


def run_chunk(kind: str, seeds: range) -> Found:
    logging.disable(logging.CRITICAL)
    return Found([simulate(seed, store_of(seed, "both"), kind=KINDS[kind]) for seed in seeds])


def caught(kind: str, name: str) -> bool:
    logging.disable(logging.CRITICAL)
    return catch_tree(kind, name) is not None


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as processes:
        yield processes
        processes.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def running(pool: ProcessPoolExecutor) -> dict[tuple[str, int], Future[Found]]:
    return {(kind, chunk[0]): pool.submit(run_chunk, kind, chunk) for kind, chunk in CHUNKS}


@pytest.fixture(scope="module")
def hunts(pool: ProcessPoolExecutor) -> dict[tuple[str, str], Future[bool]]:
    return {hunt: pool.submit(caught, *hunt) for hunt in HUNTS}


@pytest.mark.parametrize(("kind", "chunk"), CHUNKS, ids=lambda x: str(x).replace(" ", ""))
def test_every_invariant_holds(
    kind: str, chunk: range, running: dict[tuple[str, int], Future[Found]]
) -> None:
    wrong = running[kind, chunk[0]].result().wrong
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kind", WORTH)
def test_the_runs_are_worth_something(
    kind: str, running: dict[tuple[str, int], Future[Found]]
) -> None:
    found = [future.result().seen for (name, _), future in running.items() if name == kind]
    seen = sum(found, Counter[str]())
    for what, least in WORTH[kind].items():
        assert seen[what] * 100 >= least * SEEDS, what


@pytest.mark.parametrize(("kind", "name"), HUNTS)
def test_what_is_broken_on_purpose_is_seen(
    kind: str, name: str, hunts: dict[tuple[str, str], Future[bool]]
) -> None:
    assert hunts[kind, name].result(), f"{name}: not seen in {SEEDS_MAX} seeds"
