"""Going through sessions again: the same, differently, as a test, beside another, elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.shell import Done, Shell, script
from tests.cli.test_fork import STEPS, WORKER, seq_of

REFUND = "refund {order = 9, eur = 38.0}"


def refunded(shell: Shell) -> None:
    shell.agent("look {order = 9}", REFUND, "Done: {{last_result}}")
    assert shell.perdure("run", "agent.py", "x", "--session", "s1", "--yes").status == 0


def journal(shell: Shell, session: str) -> str:
    return shell.perdure("show", session, "--events", "--json").out


def test_a_replay_is_the_same_and_touches_nothing(shell: Shell) -> None:
    refunded(shell)
    before, refunds = journal(shell, "s1"), shell.read("refunds.txt")
    done = shell.perdure("replay", "s1")
    assert done.status == 0 and "all identical" in done.out, done.err
    (report,) = shell.perdure("replay", "s1", "--json").lines
    assert report["identical"] is True and report["events"] == len(before.splitlines())
    assert shell.perdure("replay", "s1:9").status == 0
    assert (journal(shell, "s1"), shell.read("refunds.txt")) == (before, refunds)


def test_kills_forks_and_rewinds_are_replayed_too(shell: Shell) -> None:
    shell.agent("die_first {times = 2}", REFUND, "Done.")
    assert shell.perdure("run", "agent.py", "x", "--session", "s1", "--yes").status == 0
    at = str(seq_of(shell, "s1", "tool.finished"))
    assert shell.perdure("fork", "s1", "--at", at, "--name", "f1", "--yes").status == 0
    assert shell.perdure("rewind", "s1", "--to", at, "--yes").status == 0
    assert shell.perdure("resume", "s1", "--yes").status == 0
    for name in ("s1", "f1"):
        done = shell.perdure("replay", name)
        assert done.status == 0, done.err


def test_another_model_is_called_and_no_tool_is_run(shell: Shell) -> None:
    refunded(shell)
    shell.write("other.toml", script("look {order = 9}", "I offer a replacement."))
    before, refunds = journal(shell, "s1"), shell.read("refunds.txt")
    words = ("replay", "s1", "--model", "scripted:other.toml")
    done = shell.perdure(*words)
    assert done.status == 0, done.err
    assert "I offer a replacement." in done.out and "refund(" in done.out
    (told,) = shell.perdure(*words, "--json").lines
    assert told["spent"]["steps"] == 2 and told["differs_at"] == 3
    assert (journal(shell, "s1"), shell.read("refunds.txt")) == (before, refunds)


def test_a_call_that_was_never_recorded_stops_or_gets_a_stub(shell: Shell) -> None:
    refunded(shell)
    shell.write("other.toml", script("look {order = 8}", "So: {{last_result}}"))
    words = ("replay", "s1", "--model", "scripted:other.toml")
    stopped = shell.perdure(*words)
    assert stopped.status == 0 and "Stopped at look" in stopped.out and "--stub" in stopped.out
    stubbed = shell.perdure(*words, "--stub")
    assert stubbed.status == 0 and "So: " in stubbed.out and "Stub for look" in stubbed.out


def test_a_model_without_a_key_is_told(shell: Shell) -> None:
    refunded(shell)
    done = shell.perdure("replay", "s1", "--model", "openai:gpt-5.2")
    assert done.status == 5 and "E-KEY-MISSING" in done.err


def run_test(shell: Shell, file: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        cwd=shell.folder, env=shell.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_session_becomes_a_test_that_notices_a_change(shell: Shell) -> None:
    refunded(shell)
    done = shell.perdure("replay", "s1", "--save-test", "test_refund.py")
    assert done.status == 0 and "test_refund.jsonl" in done.out, done.err
    good = run_test(shell, "test_refund.py")
    assert good.returncode == 0, good.stdout
    shell.write("agent.py", shell.read("agent.py").replace("eur > 20", "eur > 50"))
    bad = run_test(shell, "test_refund.py")
    assert bad.returncode == 1 and "would decide differently now" in bad.stdout
    assert shell.perdure("replay", "s1", "--save-test", "test_refund.py").status == 7


def test_a_test_is_never_written_over_something_else(shell: Shell) -> None:
    refunded(shell)
    shell.write("test_mine.py", "MINE = 1\n")
    done = shell.perdure("replay", "s1", "--save-test", "test_mine.py")
    assert done.status == 7 and "E-REPLAY-EXISTS" in done.err
    assert shell.read("test_mine.py") == "MINE = 1\n"


def compared(shell: Shell) -> Done:
    refunded(shell)
    at = str(seq_of(shell, "s1", "tool.finished"))
    shell.write("other.toml", script("unused", "Another ending."))
    words = ("fork", "s1", "--at", at, "--name", "f1", "--model", "scripted:other.toml", "--yes")
    assert shell.perdure(*words).status == 0
    assert shell.perdure("resume", "f1").status == 0
    return shell.perdure("show", "--compare", "s1", "f1")


def test_two_sessions_are_compared(shell: Shell) -> None:
    done = compared(shell)
    assert done.status == 0, done.err
    assert "refund(" in done.out and "Another ending." in done.out and "in common" in done.out
    assert '"scripted:script.toml" → "scripted:other.toml"' in done.out
    (told,) = shell.perdure("show", "s1", "f1", "--compare", "--json").lines
    assert told["a"]["session"] == "s1" and told["shared_items"] == 3 and not told["files"]


@pytest.mark.sandbox
def test_files_are_compared(shell: Shell) -> None:
    shell.write("agent.py", WORKER)
    shell.write("script.toml", STEPS)
    shell.write("project/kept.txt", "k\n")
    words = ("run", "agent.py", "x", "--workspace", "project", "--session", "s1")
    assert shell.perdure(*words).status == 0
    at = seq_of(shell, "s1", "model.requested", 2) - 1
    done = shell.perdure("show", "--compare", f"s1:{at}", "s1")
    assert done.status == 0 and "~ a.txt" in done.out and "+ b.txt" in done.out, done.err


def test_a_session_is_carried_to_another_store(shell: Shell, tmp_path: Path) -> None:
    refunded(shell)
    shell.write("s1.jsonl", shell.perdure("export", "s1").out)
    again = shell.perdure("import", "s1.jsonl")
    assert again.status == 7 and "E-SESSION-EXISTS" in again.err
    assert "Nothing was written" in again.err and "--name" in again.err
    elsewhere = Shell(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    (taken,) = elsewhere.perdure("import", "../s1.jsonl", "--json").lines
    assert taken == {"session": "s1"}
    *past, note = journal(elsewhere, "s1").splitlines()
    said = json.loads(note)["payload"]
    assert past == journal(shell, "s1").splitlines() and said["imported"] == len(past)
    shown = elsewhere.perdure("show", "s1").out
    assert f"events 1 to {len(past)} imported by {said['imported_by']}" in shown
    copied = elsewhere.perdure("import", "-", "--name", "copy", stdin=shell.read("s1.jsonl"))
    assert copied.status == 0 and "perdure resume copy" in copied.out, copied.err
    assert elsewhere.perdure("show", "copy", "--json").lines[0]["status"] == "paused"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("replay", "s2"), 3, "E-SESSION-UNKNOWN"),
        (("replay", "s1:99"), 3, "E-EVENT-UNKNOWN"),
        (("replay", "s1", "--model", "opnai:gpt"), 2, "E-MODEL-NAME"),
        (("replay", "s1", "--instructions", "none.md"), 2, "E-USAGE"),
        (("replay", "s1", "--save-test", "refund.txt"), 2, "E-USAGE"),
        (("replay", "s1", "--save-test", "nowhere/test_x.py"), 2, "E-USAGE"),
        (("replay", "s1", "--agent", "agent:helper"), 2, "E-USAGE"),
        (("show", "s1", "s2"), 2, "E-USAGE"),
        (("show", "--compare", "s1"), 2, "E-USAGE"),
        (("show", "--compare", "s1", "s2"), 3, "E-SESSION-UNKNOWN"),
        (("export", "s2"), 3, "E-SESSION-UNKNOWN"),
        (("import", "none.jsonl"), 2, "E-USAGE"),
        (("import", "agent.py"), 2, "E-IMPORT"),
    ],
)
def test_bad_input_gets_a_good_error(
    shell: Shell, arguments: tuple[str, ...], status: int, code: str
) -> None:
    shell.agent("Done.")
    shell.perdure("run", "agent.py", "x", "--session", "s1")
    done = shell.perdure(*arguments)
    assert (done.status, done.err.split()[0]) == (status, code), done.err
    if arguments[0] != "export":
        assert json.loads(shell.perdure(*arguments, "--json").out)["error"]["code"] == code
