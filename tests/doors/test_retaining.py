"""A server with rules of retention deletes by itself; one without deletes nothing."""

from pathlib import Path

import pytest

from perdure.app import Options
from perdure.engine.retention import RetentionSettings
from perdure.ports.store import Batch, SessionRow
from perdure.serving.server import Plan, Server
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import SystemClock
from tests.contract.journals import diary
from tests.doors.serving import Scripts

DAY_US = 24 * 3600 * 1_000_000


async def fill(path: Path) -> None:
    store = await SqliteStore.open(path)
    for name, days in (("old", 40), ("shop\x1fold", 40), ("kept", 40), ("new", 1)):
        claim = await diary(store, name)
        updated_us = SystemClock().now_us() - days * DAY_US
        row = SessionRow(id=name, status="idle", seq=claim.seq, updated_at_us=updated_us)
        await store.append(Batch(name, claim.epoch, claim.seq, (), row=row))
    await store.close()


@pytest.mark.parametrize("days", [0, 30])
async def test_a_server_deletes_by_its_rules(tmp_path: Path, days: int) -> None:
    await fill(tmp_path / "perdure.db")
    settings = RetentionSettings(idle_after_days=days, keep=("kept",))
    options = Options(models=Scripts({}), environ={})
    url = f"sqlite:///{tmp_path / 'perdure.db'}"
    server = await Server.open(Plan(url, options=options, retention=settings))
    watching = await SqliteStore.open(tmp_path / "perdure.db")
    try:
        if not days:
            assert server._retaining is not None
            await server._retaining  # without a rule it has nothing to wait for
        expected = {"kept", "new"} if days else {"kept", "new", "old", "shop\x1fold"}
        while {row.id for row in await watching.sessions()} != expected:
            await watching.changed(1.0)
    finally:
        await watching.close()
        await server.close()
