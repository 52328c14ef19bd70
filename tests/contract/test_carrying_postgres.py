"""Into PostgreSQL and out of it again: everything, also after a SIGKILL in the middle."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.app import migrations_of
from perdure.cli.app import main
from perdure.cli.desk import shown_url
from perdure.core.errors import Conflict
from perdure.stores.carrying.moving import move
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.postgres import migrations
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing.store_harness import refused
from tests.cli.test_admin_stores import KILLED, filled, read_all
from tests.contract.furnished import NAMES, content, faults, furnish, stretches
from tests.contract.postgres import database, postgres

__all__ = ["database", "postgres"]  # fixtures

pytestmark = pytest.mark.postgres


async def test_into_postgresql_and_back(database: str, tmp_path: Path) -> None:
    source = await SqliteStore.open(tmp_path / "source.db", fsync=False)
    await furnish(source)
    before = await content(source)
    there = await PostgresStore.open(database)
    outcome = await move(source, there, "here")
    assert outcome.summary.sessions == len(NAMES)
    assert await content(there) == before
    assert await faults(there) == []
    assert await stretches(there, "ses_deep") == await stretches(source, "ses_deep")
    assert not await there.post("ses_1", "a", b"a"), "it was taken before the move"
    back = MemoryStore(MemoryDisk())
    await move(there, back, "there")
    assert await content(back) == before
    assert await stretches(back, "ses_deep") == await stretches(source, "ses_deep")
    await source.close()
    await there.close()


async def test_a_node_that_lives_keeps_the_source(database: str) -> None:
    source, node = await PostgresStore.open(database), await PostgresStore.open(database)
    target = MemoryStore(MemoryDisk())
    assert (await refused(Conflict, move(source, target, "x"))).code == "E-MOVE-IN-USE"
    other = MemoryStore(MemoryDisk())
    assert (await refused(Conflict, move(other, source, "x"))).code == "E-MOVE-IN-USE"
    assert await source.kept_docs() == []
    await node.close()
    await move(source, target, "x")
    await source.close()


async def all_of(url: str) -> dict[str, Any]:
    store = await PostgresStore.open(url)
    try:
        assert await faults(store) == []
        return await content(store)
    finally:
        await store.close()


def test_a_kill_in_the_middle_and_then_again(
    database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = asyncio.run(filled(tmp_path / "from.db", 20))
    target = f"{database}&lease_s=0.5"
    words = ["admin", "move", "--from", "sqlite:///from.db", "--to", target, "--yes"]
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    for at in (15, 90):
        done = subprocess.run(
            [sys.executable, script, str(at), *words], cwd=tmp_path, check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL
    assert main([*words, "--json"]) == 0
    assert f'"sessions": {len(NAMES) + 20}' in capsys.readouterr().out
    assert asyncio.run(all_of(target)) == before
    for verb in (
        ["backup", "all.perdure", "--store", target],
        ["backup", "--check", "all.perdure"],
        ["restore", "all.perdure", "--to", "sqlite:///back.db", "--yes"],
    ):
        assert main(["admin", *verb]) == 0
    assert asyncio.run(read_all(tmp_path / "back.db")) == before
    monkeypatch.setenv("PERDURE_STORE", target)
    for words in (["purge", "ses_long", "ses_fork", "--yes"], ["retain"], ["projects", "ls"]):
        status = main(["admin", *words])
        assert status == (2 if words == ["retain"] else 0)
    left = asyncio.run(all_of(target))
    assert left["ses_deep"] == before["ses_deep"], "a fork keeps its past"
    assert "ses_long" not in left and "ses_fork" not in left


def test_the_plan_of_a_database_is_shown_before_anything_is_made(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["admin", "migrate", "--store", database]
    assert main([*words, "--plan"]) == 0
    out = capsys.readouterr().out
    assert "there are no tables yet" in out and "CREATE TABLE sessions" in out
    assert migrations.steps()[0].checksum in out
    tables = migrations_of(database)
    assert asyncio.run(tables.current()) == 0, "looking at it made nothing"
    assert main([*words, "--yes"]) == 0
    assert asyncio.run(tables.current()) == asyncio.run(tables.known())
    assert asyncio.run(tables.pending()) == []
    assert main([*words, "--yes"]) == 0
    assert "Nothing is to be done" in capsys.readouterr().out


def test_a_password_is_never_shown() -> None:
    assert "secret" not in shown_url("postgresql://me:secret@db/x?schema=perdure")
