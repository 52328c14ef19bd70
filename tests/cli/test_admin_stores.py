"""`perdure admin move, backup, restore, migrate`: whole stores, with real kills in the middle."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from perdure.cli.app import main
from perdure.core.events import NoteRecorded
from perdure.stores.sqlite import SqliteStore, connect
from perdure.stores.verify import verify
from tests.cli.shell import Shell
from tests.contract.furnished import NAMES, content, faults, furnish
from tests.contract.journals import diary, record
from tests.contract.test_store_sqlite_migrations import make_version

MANY = 60


async def read_all(path: Path) -> dict[str, Any]:
    store = await SqliteStore.open(path)
    try:
        assert await faults(store) == []
        return await content(store)
    finally:
        await store.close()


async def filled(path: Path, sessions: int = 0) -> dict[str, Any]:
    store = await SqliteStore.open(path, fsync=False)
    await furnish(store)
    for number in range(sessions):
        claim = await diary(store, f"ses_many_{number}")
        await record(store, claim, *(NoteRecorded(f"{number} {n}") for n in range(400)))
        await store.post(f"ses_many_{number}", "k", b"waits")
    found = await content(store)
    await store.close()
    return found


def test_a_store_is_moved(shell: Shell) -> None:
    before = asyncio.run(filled(shell.folder / "from.db"))
    words = ("admin", "move", "--from", "sqlite:///from.db", "--to", "sqlite:///to.db")
    asked = shell.perdure(*words)
    assert (asked.status, "--yes" in asked.out) == (4, True)
    assert not (shell.folder / "to.db").exists()
    done = shell.perdure(*words, "--yes", "--json").lines[0]
    assert (done["sessions"], done["verified"]) == (len(NAMES), done["events"])
    assert done["not_moved"] == [str(shell.folder / "from.db.work")]
    assert asyncio.run(read_all(shell.folder / "to.db")) == before
    assert asyncio.run(read_all(shell.folder / "from.db")) == before
    again = shell.perdure(*words, "--yes")
    assert (again.status, "E-MOVE-DONE" in again.err) == (7, True)
    other = shell.perdure(*words[:3], "sqlite:///to.db", "--to", "sqlite:///b.db", "-y")
    assert other.status == 0 and "Each session's chain" in other.out
    assert asyncio.run(read_all(shell.folder / "b.db")) == before


def test_what_cannot_be_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(filled(tmp_path / "from.db"))
    here = "sqlite:///from.db"
    asyncio.run(filled(tmp_path / "full.db"))
    for from_, to, status, code in (
        ("sqlite:///none.db", "sqlite:///to.db", 3, "E-STORE-NONE"),
        (here, f"sqlite:///{tmp_path}/from.db", 2, "E-MOVE-SAME"),
        (here, "sqlite:///full.db", 7, "E-TARGET-NOT-EMPTY"),
        (here, "mysql://x", 2, "E-STORE-URL"),
    ):
        assert main(["admin", "move", "--from", from_, "--to", to, "--yes"]) == status
        assert code in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


def test_a_source_with_a_living_owner_is_refused(shell: Shell) -> None:
    path = shell.folder / "from.db"
    asyncio.run(filled(path))
    program = Path(__file__).parents[1] / "contract" / "store_process.py"
    owner = subprocess.Popen(
        [sys.executable, program, "hold", path, "ses_held"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(program.parents[2])},
    )  # fmt: skip
    assert owner.stdin and owner.stdout
    assert owner.stdout.readline().startswith("ready")
    words = ("admin", "move", "--from", "sqlite:///from.db", "--to", "sqlite:///to.db", "--yes")
    refused = shell.perdure(*words)
    assert (refused.status, "E-MOVE-IN-USE" in refused.err) == (7, True), refused
    owner.stdin.write("\n")
    owner.stdin.close()
    owner.stdout.close()
    owner.wait(20)
    assert shell.perdure(*words).status == 0


KILLED = """
import os, signal, sys
from perdure.stores.carrying import writing

taken, at = 0, int(sys.argv.pop(1))
real = writing.Writing.take

async def take(self, entry):
    global taken
    taken += 1
    if taken == at:
        os.kill(os.getpid(), signal.SIGKILL)
    await real(self, entry)

writing.Writing.take = take
from perdure.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("verb", ["move", "restore"])
def test_a_kill_in_the_middle_and_then_again(shell: Shell, verb: str) -> None:
    source, target = shell.folder / "from.db", shell.folder / "to.db"
    before = asyncio.run(filled(source, MANY))
    words = ["admin", "move", "--from", "sqlite:///from.db", "--to", "sqlite:///to.db", "--yes"]
    if verb == "restore":
        made = shell.perdure("admin", "backup", "all.perdure", "--store", "sqlite:///from.db")
        assert made.status == 0, made
        words = ["admin", "restore", "all.perdure", "--to", "sqlite:///to.db", "--yes"]
    script = shell.folder / "killed.py"
    script.write_text(KILLED)
    for at in (7, 130, 260):
        done = subprocess.run(
            [sys.executable, script, str(at), *words], cwd=shell.folder, check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL
    connection = apsw.Connection(str(target))
    there: Any = connection.execute("SELECT count(*) FROM events").get
    connection.close()
    early = shell.perdure("ls", PERDURE_STORE="sqlite:///to.db")
    assert (early.status, "E-STORE-HALF" in early.err) == (7, True), "nobody works in half a store"
    done = shell.perdure(*words, "--json").lines[0]
    assert there > 0, "the kills were in the middle"
    assert done["written"] == done["events"] - there
    assert done["verified"] == done["events"]
    assert asyncio.run(read_all(target)) == before


def test_a_backup_restores_while_somebody_writes(shell: Shell) -> None:
    path = shell.folder / "from.db"
    asyncio.run(filled(path, 5))
    program = Path(__file__).parents[1] / "contract" / "store_process.py"
    writer = subprocess.Popen(
        [sys.executable, program, "append", path, "ses_busy", "100000"],
        stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(program.parents[2])},
    )  # fmt: skip
    assert writer.stdout
    while not writer.stdout.readline().startswith("ack"):
        pass
    try:
        words = ("admin", "backup", "all.perdure", "--store", "sqlite:///from.db", "--json")
        made = shell.perdure(*words).lines[0]
    finally:
        writer.kill()
        writer.communicate()
    assert made["sessions"] == len(NAMES) + 6
    assert (shell.folder / "all.perdure").stat().st_size == made["bytes"]
    checked = shell.perdure("admin", "backup", "--check", "all.perdure", "--json").lines[0]
    assert (checked["whole"], checked["events"]) == (True, made["events"])
    exists = shell.perdure(*words)
    assert (exists.status, "E-BACKUP-EXISTS" in exists.out) == (7, True)
    assert shell.perdure(*words, "--yes").status == 0
    into = ("admin", "restore", "all.perdure", "--to", "sqlite:///to.db")
    assert shell.perdure(*into).status == 4
    done = shell.perdure(*into, "--yes")
    assert (done.status, "Restored" in done.out) == (0, True), done
    whole = (shell.folder / "all.perdure").read_bytes()
    (shell.folder / "cut.perdure").write_bytes(whole[: len(whole) // 2])
    cut = shell.perdure("admin", "backup", "--check", "cut.perdure")
    assert (cut.status, "E-BACKUP-CORRUPT" in cut.err) == (1, True)
    partial = shell.perdure("admin", "restore", "cut.perdure", "--to", "sqlite:///half.db", "-y")
    assert (partial.status, "E-BACKUP-CORRUPT" in partial.err) == (1, True)


def test_what_would_be_done_to_the_tables_is_shown_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "old.db"
    make_version(3, path)
    before = path.read_bytes()
    words = ["admin", "migrate", "--store", f"sqlite:///{path}"]
    assert main([*words, "--plan"]) == 0
    out = capsys.readouterr().out
    assert f"of version 3; this perdure knows version {connect.SCHEMA}" in out
    assert "-- version 4, SHA-256 " in out and "CREATE INDEX sessions_forks" in out
    assert main(words) == 4
    assert path.read_bytes() == before
    capsys.readouterr()
    assert main([*words, "--yes", "--json"]) == 0
    assert f'"applied": {connect.SCHEMA - 3}' in capsys.readouterr().out
    assert main([*words, "--plan"]) == 0
    assert "Nothing is to be done" in capsys.readouterr().out
    (tmp_path / "other.db").write_bytes(b"not a database, but long enough to be taken for one" * 99)
    assert main(["admin", "migrate", "--plan", "--store", "sqlite:///other.db"]) == 2
    assert "E-DB-FOREIGN" in capsys.readouterr().err
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", connect.SCHEMA + 1)
    connection.close()
    assert main([*words, "--plan"]) == 6
    assert "E-DB-NEWER" in capsys.readouterr().err


async def test_a_migrated_file_is_whole(tmp_path: Path) -> None:
    make_version(2, tmp_path / "old.db")
    assert (
        await asyncio.to_thread(
            main, ["admin", "migrate", "--store", f"sqlite:///{tmp_path}/old.db", "--yes", "--json"]
        )
        == 0
    )
    store = await SqliteStore.open(tmp_path / "old.db")
    assert await verify(store) == []
    await store.close()
