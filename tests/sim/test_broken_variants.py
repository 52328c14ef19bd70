"""The simulation sees what it is there for: each engine that is broken on purpose is caught."""

import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from perdure.testing.broken import SEEDS_MAX, VARIANTS, catch
from perdure.testing.simulation import Report


def caught(name: str) -> Report | None:
    logging.disable(logging.CRITICAL)
    report = catch(name)
    return report and report.without_story()


@pytest.fixture(scope="module")
def hunts() -> Iterator[dict[str, Future[Report | None]]]:
    """All variants, on all processors."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        yield {name: pool.submit(caught, name) for name in VARIANTS}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_is_caught(name: str, hunts: dict[str, Future[Report | None]]) -> None:
    report = hunts[name].result()
    seen_by = " or ".join(VARIANTS[name].seen_by)
    assert report is not None, f"{name}: not seen by {seen_by} in {SEEDS_MAX} seeds"
