"""`perdure admin purge` and `retain`: what is shown before, what goes, what stays."""

import asyncio
from pathlib import Path

import pytest

from perdure.cli.app import main
from perdure.core.content import as_content
from perdure.core.events import InputAccepted
from perdure.ports.store import Batch, SessionRow
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import SystemClock
from tests.cli.shell import Shell
from tests.contract.journals import diary, record

DAY_US = 24 * 3600 * 1_000_000
SHOP = "shop\x1f"


async def sessions(path: Path) -> list[str]:
    store = await SqliteStore.open(path)
    found = sorted(row.id for row in await store.sessions())
    await store.close()
    return found


async def fill(path: Path) -> None:
    """Sessions of two people: one with a subagent, some old, some closed, one elsewhere."""
    path.parent.mkdir(exist_ok=True)
    store = await SqliteStore.open(path)
    now_us = SystemClock().now_us()
    for name, by, days, status, parent in (
        ("ses_anna", "anna", 100, "closed", ""),
        ("ses_anna.sub", "", 100, "idle", "ses_anna"),
        ("ses_bert", "bert", 100, "idle", ""),
        ("ses_both", "bert", 1, "closed", ""),
        ("legal_1", "bert", 100, "closed", ""),
        (SHOP + "ses_1", "anna", 100, "closed", ""),
    ):
        said = InputAccepted("message", as_content("hello"), by=by)
        claim = await record(store, await diary(store, name), said)
        if name == "ses_both":
            claim = await record(store, claim, InputAccepted("message", as_content("x"), by="anna"))
        row = SessionRow(
            id=name, status=status, parent=parent, seq=claim.seq,
            updated_at_us=now_us - days * DAY_US,
        )  # fmt: skip
        await store.append(Batch(name, claim.epoch, claim.seq, (), row=row))
    await store.close()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".perdure" / "perdure.db"
    asyncio.run(fill(path))
    return path


def test_a_persons_sessions_are_shown_and_then_purged(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = asyncio.run(sessions(path))
    assert main(["admin", "purge", "--person", "anna"]) == 4
    shown = capsys.readouterr().out
    assert "ses_anna and 1 subagent" in shown and "ses_both: 1 time from event 3 on" in shown
    assert "ses_bert" not in shown and "backups" in shown and "perdure admin gc" in shown
    assert "perdure admin purge --person anna --yes" in shown
    assert asyncio.run(sessions(path)) == before
    assert main(["admin", "purge", "--person", "anna", "--yes"]) == 0
    assert asyncio.run(sessions(path)) == ["legal_1", "ses_bert", SHOP + "ses_1"]
    assert main(["admin", "purge", "--person", "anna", "--yes"]) == 3
    assert "E-PERSON-NONE" in capsys.readouterr().err
    assert main(["admin", "purge", "--person", "anna", "--project", "shop", "--yes"]) == 0
    assert asyncio.run(sessions(path)) == ["legal_1", "ses_bert"]


def test_several_sessions_are_purged_together(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["admin", "purge", "bert", "both", "bert", "--json"]) == 4
    assert '"would_delete": [{"session": "ses_bert"' in capsys.readouterr().out
    assert main(["admin", "purge", "bert", "ses_none", "--yes"]) == 3
    assert "ses_bert" in asyncio.run(sessions(path)), "nothing goes when one is not known"
    assert main(["admin", "purge", "bert", "both", "--yes"]) == 0
    assert asyncio.run(sessions(path)) == ["legal_1", "ses_anna", "ses_anna.sub", SHOP + "ses_1"]
    capsys.readouterr()
    for words in ([], ["bert", "--person", "bert"]):
        assert main(["admin", "purge", *words]) == 2
        assert "E-USAGE" in capsys.readouterr().err


def test_retain_shows_and_only_deletes_when_told(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = asyncio.run(sessions(path))
    assert main(["admin", "retain"]) == 2
    assert "E-RETENTION-NONE" in capsys.readouterr().err
    file = path.parents[1] / "perdure.toml"
    file.write_text('[retention]\nclosed_after_days = 90\nkeep = ["legal*"]\n')
    assert main(["admin", "retain"]) == 0
    shown = capsys.readouterr().out
    assert "ses_anna and 1 subagent" in shown and "2 sessions would be deleted" in shown
    assert asyncio.run(sessions(path)) == before
    assert main(["admin", "retain", "--json", "--yes"]) == 0
    assert '"deleted": ["ses_anna.sub", "ses_anna", "ses_1"]' in capsys.readouterr().out
    assert asyncio.run(sessions(path)) == ["legal_1", "ses_bert", "ses_both"]
    file.write_text('[retention]\nidle_after_days = 30\nkeep = ["legal*"]\n')
    assert main(["admin", "retain", "--yes"]) == 0
    assert asyncio.run(sessions(path)) == ["legal_1", "ses_both"]
    capsys.readouterr()
    assert main(["admin", "retain", "--yes"]) == 0
    assert "Nothing has been kept for longer" in capsys.readouterr().out


def test_a_misspelt_rule_is_an_error(path: Path, shell: Shell) -> None:
    (path.parents[1] / "perdure.toml").write_text("[retention]\nclosed_after = 90\n")
    done = shell.perdure("admin", "retain", "--yes")
    assert (done.status, "closed_after_days" in done.err) == (2, True)
