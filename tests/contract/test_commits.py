"""A store tells how long its commits take and how much each carries, both of its writers alike."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.doors.metrics import Metrics
from perdure.ports.commits import Commits
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import SystemClock
from perdure.testing.store_harness import Pen
from tests.contract.postgres import database, postgres

__all__ = ["database", "postgres"]  # fixtures

Opened = SqliteStore | PostgresStore


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    if request.param == "postgres":
        opened: Opened = await PostgresStore.open(request.getfixturevalue("database"))
    else:
        opened = await SqliteStore.open(tmp_path / "s.db")
    try:
        yield opened
    finally:
        await opened.close()


class Steps:
    """A clock on which half a second passes between any two looks."""

    def __init__(self) -> None:
        self._looks = 0

    def now_us(self) -> int:
        return 0

    def monotonic(self) -> float:
        self._looks += 1
        return self._looks / 2


async def test_every_batch_is_in_a_commit_and_every_commit_is_timed(store: Opened) -> None:
    metrics = Metrics()
    assert isinstance(store, Commits)
    pens = [Pen(await store.claim(f"ses_{n}")) for n in range(8)]
    store.tell_commits(metrics.committed, Steps())
    await asyncio.gather(*(store.append(pen.batch(b'{"n":1}')) for pen in pens))
    for pen in pens:
        await store.append(pen.batch(b'{"n":2}'))
    await store.put_doc("kind", "name", b"{}")
    counted = metrics.values()
    commits = counted["perdure_store_commit_batches_count"]
    assert 10 <= commits < 17  # the first eight wait for one another
    assert counted["perdure_store_commit_batches_sum"] == 16
    assert counted['perdure_store_commit_batches_bucket{le="0"}'] == 1  # the document
    assert counted["perdure_store_commit_seconds_count"] == commits
    assert counted["perdure_store_commit_seconds_sum"] == commits / 2


async def test_a_real_clock_and_a_store_that_is_not_watched(store: Opened) -> None:
    pen = Pen(await store.claim("ses_1"))
    await store.append(pen.batch(b"{}"))  # nobody listens
    told: list[tuple[float, int]] = []
    store.tell_commits(lambda seconds, batches: told.append((seconds, batches)), SystemClock())
    await store.append(pen.batch(b"{}"))
    assert [batches for _, batches in told] == [1]
    assert 0 < told[0][0] < 10
