"""The short form of `make chaos`: real nodes, struck in every way, on a primary that fails over."""

from dataclasses import replace
from pathlib import Path

import pytest

from perdure.testing.chaos.__main__ import faketime, lines_of
from perdure.testing.chaos.crew import Options
from perdure.testing.chaos.ground import PostgresGround, SqliteGround
from perdure.testing.chaos.run import play
from perdure.testing.postgres import PostgresServer

pytestmark = pytest.mark.slow

SHORT = Options(
    sessions=12, takeovers=40, seconds=30.0, lease_s=1.0, seed=7, calm_leases=0.0, failovers=8
)


@pytest.mark.postgres
async def test_many_nodes_keep_every_promise(tmp_path: Path) -> None:
    options = replace(SHORT, library=faketime())
    with PostgresServer() as server:  # one of its own: it is killed
        ground = PostgresGround(server, "chaos", options.lease_s)
        report = await play(ground, tmp_path, options, print)
    assert report.good, "\n".join(lines_of(report))
    assert report.takeovers > 0
    assert len(report.strikes) > 2, "it was struck in several ways"


async def test_processes_on_one_sqlite_file_do_too(tmp_path: Path) -> None:
    options = Options(sessions=6, takeovers=10, seconds=8.0, lease_s=1.0, seed=3, calm_leases=0.0)
    report = await play(SqliteGround(tmp_path), tmp_path, options, print)
    assert report.good, "\n".join(lines_of(report))
    assert report.takeovers > 0
