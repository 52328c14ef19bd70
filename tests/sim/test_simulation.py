"""Thousands of simulated runs, each with its own crashes: every invariant holds in all of them.

PERDURE_SIM_SEEDS says how many seeds are run (1,000). A failure names its seed; to see its story:
python -m perdure.testing.sim --seed N
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from perdure.testing.sim import main, run_chunk, store_of
from perdure.testing.simulation import Report, simulate

SEEDS = int(os.environ.get("PERDURE_SIM_SEEDS", "1000"))
CHUNK = 50
CHUNKS = [range(first, min(first + CHUNK, SEEDS)) for first in range(0, SEEDS, CHUNK)]


@pytest.fixture(scope="module")
def running() -> Iterator[dict[int, Future[list[Report]]]]:
    """All chunks, on all processors."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        yield {chunk[0]: pool.submit(run_chunk, chunk, "both") for chunk in CHUNKS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: f"{chunk[0]}-{chunk[-1]}")
def test_every_invariant_holds(chunk: range, running: dict[int, Future[list[Report]]]) -> None:
    reports = running[chunk[0]].result()
    wrong = [f"seed {r.seed} ({r.store}): {v}" for r in reports for v in r.violations]
    assert not wrong, "\n".join(wrong)
    assert [r.seed for r in reports] == list(chunk)


def test_the_runs_are_worth_something(running: dict[int, Future[list[Report]]]) -> None:
    reports = [report for future in running.values() for report in future.result()]
    assert sum(r.events for r in reports) > 20 * len(reports)
    assert sum(r.kills for r in reports) > len(reports) / 2


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_seed_is_the_same_run_every_time(store: str) -> None:
    one, other = simulate(7, store), simulate(7, store)
    assert one.story == other.story
    assert one.journals == other.journals


def test_both_stores_take_part() -> None:
    assert {store_of(seed, "both") for seed in range(16)} == {"memory", "sqlite"}


def test_the_command_line_tells_the_story_of_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--store", "memory"]) == 0
    told = capsys.readouterr().out
    assert "user: message" in told
    assert "session.created" in told
    assert "every invariant holds" in told
