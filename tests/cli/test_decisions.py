"""Approving, denying, editing, stopping: from another command line."""

import re
from pathlib import Path

from tests.cli.shell import Shell

REFUND = "refund {order = 9, eur = 38.0}"


def waiting(shell: Shell) -> None:
    shell.agent(REFUND, "So: {{last_result}}")
    assert shell.perdure("run", "agent.py", "x", "--session", "s1").status == 4


def answer(shell: Shell) -> str:
    """What the agent said in the end; waits for it."""
    assert shell.perdure("resume", "s1").status == 0
    return shell.perdure("show", "s1").out


def test_the_inbox_lists_what_waits(shell: Shell) -> None:
    waiting(shell)
    listed = shell.perdure("approve")
    assert listed.status == 0
    assert all(word in listed.out for word in ("s1:a1", "refund", "38.0", "eur > 20", "--allow"))
    (found,) = shell.perdure("approve", "--json").lines
    assert found[0]["session"] == "s1" and found[0]["call"]["tool"] == "refund"


def test_what_is_allowed_runs_in_the_background(shell: Shell) -> None:
    waiting(shell)
    done = shell.perdure("approve", "s1", "--allow")
    assert done.status == 0 and "allowed" in done.out and "goes on" in done.out
    assert "So: refunded 38.0" in answer(shell)
    assert shell.read("refunds.txt") == "9 38.0\n"
    assert shell.perdure("approve", "s1", "--allow").status == 3


def test_what_was_decided_elsewhere_is_hearsay(shell: Shell, tmp_path: Path) -> None:
    """A journal can be written by anybody: who decided in one that was imported is marked."""
    waiting(shell)
    asked = shell.perdure("export", "s1").out
    assert shell.perdure("approve", "s1", "--allow").status == 0
    assert "(imported)" not in answer(shell)
    decided = shell.perdure("export", "s1").out
    elsewhere = Shell(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    for lines, name in ((asked, "asked"), (decided, "decided")):
        assert elsewhere.perdure("import", "-", "--name", name, stdin=lines).status == 0
    listed = elsewhere.perdure("approve").out
    assert "imported by" in listed and "asked:a1" in listed
    (found,) = elsewhere.perdure("approve", "--json").lines
    assert found[0]["imported"] == asked.count('"seq":') // 2 and found[0]["imported_by"]
    shown = elsewhere.perdure("show", "decided").out
    assert re.search(r"refund approved by \S+ \(imported\)", shown) and "imported by" in shown
    late = elsewhere.perdure("approve", "decided:a1", "--deny")
    assert late.status == 7 and "(imported) allowed" in late.err


def test_what_is_denied_is_told_to_the_model(shell: Shell) -> None:
    waiting(shell)
    assert shell.perdure("approve", "s1:a1", "--deny", "--reason", "too much").status == 0
    assert "too much" in answer(shell)
    assert shell.read("refunds.txt") == ""


def test_what_is_edited_runs_as_edited(shell: Shell) -> None:
    waiting(shell)
    done = shell.perdure("approve", "s1", "--edit", '{"order": 9, "eur": 21}')
    assert done.status == 0 and "allowed  refund(order=9, eur=21)" in done.out
    assert "38.0" not in done.out  # what was asked is not what was allowed
    assert "refund(order=9, eur=21)" in answer(shell)
    assert shell.read("refunds.txt") == "9 21.0\n"


def test_an_edit_that_is_no_json_changes_nothing(shell: Shell) -> None:
    waiting(shell)
    done = shell.perdure("approve", "s1", "--edit", "eur=21")
    assert done.status == 2 and "E-TOOL-ARGUMENTS" in done.err
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "waiting"


def test_an_edit_that_the_tool_would_not_take_decides_nothing(shell: Shell) -> None:
    waiting(shell)
    for edit, wrong in (
        ('{"order": "nine", "eur": 21}', "`order`"),
        ('{"order": 9}', "lacks `eur`"),
        ('{"order": 9, "eur": 21, "to": "me"}', "`to`"),
    ):
        done = shell.perdure("approve", "s1:a1", "--edit", edit)
        said = " ".join(done.err.split())
        assert done.status == 2 and "E-TOOL-ARGUMENTS" in said and wrong in said, said
        assert "Nothing was decided" in said
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "waiting"
    assert shell.perdure("approve", "s1:a1", "--edit", '{"order": 9, "eur": 21}').status == 0


def test_nothing_is_allowed_wholesale(shell: Shell) -> None:
    waiting(shell)
    assert shell.perdure("approve", "--allow").status == 2
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "waiting"


def test_pause_and_go_on(shell: Shell) -> None:
    waiting(shell)
    paused = shell.perdure("stop", "s1")
    assert paused.status == 0 and "Paused s1" in paused.out
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "paused"
    assert shell.perdure("resume", "s1", "--yes").status == 0
    assert shell.read("refunds.txt") == "9 38.0\n"


def test_cancel_ends_the_turn(shell: Shell) -> None:
    waiting(shell)
    ended = shell.perdure("stop", "@last", "--cancel", "--json")
    assert ended.status == 0 and ended.lines[0]["status"] == "idle"
    assert shell.perdure("approve").out == "Nothing waits for anybody.\n"
    assert shell.read("refunds.txt") == ""
