"""Looking at sessions: whole, one event, as data; and bringing changes back."""

import json
from pathlib import Path

import pytest

from tests.cli.shell import Shell

WORKER = """
from perdure import Agent

worker = Agent("worker", model="scripted:script.toml", workspace=True)
"""
SCRIPT = """
[[reply]]
[[reply.call]]
tool = "write"
arguments = { path = "sub/new.txt", content = "fresh\\n" }
[[reply.call]]
tool = "edit"
arguments = { path = "old.txt", old = "two", new = "TWO" }
[[reply.call]]
tool = "bash"
arguments = { command = "rm gone.txt; printf '#!/bin/sh\\n' > tool.sh; chmod +x tool.sh" }
[[reply]]
text = "Done."
"""


def test_one_event_the_state_and_the_context(shell: Shell) -> None:
    shell.agent("look {order = 9}", "Done.")
    shell.perdure("run", "agent.py", "hello", "--session", "s1")
    assert "event 2 of s1: input.accepted" in shell.perdure("show", "s1:2").out
    assert shell.perdure("show", "s1:2", "--json").lines[0]["payload"]["kind"] == "message"
    assert json.loads(shell.perdure("show", "s1", "--state").out)["turns"] == 1
    assert json.loads(shell.perdure("show", "s1:1", "--state").out)["seq"] == 1
    context = shell.perdure("show", "s1", "--context").out
    assert "you" in context and "hello" in context and "order 9 was delivered" in context
    assert shell.perdure("show", "s1:99").status == 3


def test_ids_may_be_shortened(shell: Shell) -> None:
    shell.agent("one", "two")
    shell.perdure("run", "agent.py", "a", "--session", "alpha-1")
    shell.perdure("run", "agent.py", "a", "--session", "alpha-2")
    assert "alpha-2" in shell.perdure("show", "@last").out
    many = shell.perdure("show", "alpha")
    assert many.status == 2 and "E-SESSION-MANY" in many.err
    unknown = shell.perdure("show", "alpha-3")
    assert unknown.status == 3 and "Did you mean" in unknown.err


def test_no_control_characters_reach_the_terminal(shell: Shell) -> None:
    shell.agent("x")
    shell.write(
        "script.toml", '[[reply]]\ntext = "a\\u001b]0;title\\u0007b\\u001b[2Jc\\rd\\u202ee"\n'
    )
    done = shell.perdure("run", "agent.py", "x", "--session", "s1")
    shown = done.out + shell.perdure("show", "s1").out + shell.perdure("ls").out
    assert not any(char in shown for char in "\x1b\x07\r\u202e")


def test_no_color_is_obeyed_without_a_terminal_too(shell: Shell) -> None:
    shell.agent("Done.")
    assert "\x1b" not in shell.perdure("run", "agent.py", "x", NO_COLOR="1").out


def worked(shell: Shell) -> Path:
    """Let the agent change a copy of a directory; return the directory."""
    shell.write("agent.py", WORKER)
    shell.write("script.toml", SCRIPT)
    source = shell.folder / "project"
    for name, text in (("old.txt", "one\ntwo\n"), ("gone.txt", "bye\n"), ("kept.txt", "k\n")):
        shell.write(f"project/{name}", text)
    done = shell.perdure("run", "agent.py", "x", "--workspace", "project", "--session", "s1")
    assert done.status == 0, done.out + done.err
    return source


@pytest.mark.sandbox
def test_a_workspace_is_a_copy_with_a_diff(shell: Shell) -> None:
    source = worked(shell)
    assert (source / "old.txt").read_text() == "one\ntwo\n"
    diff = shell.perdure("show", "s1", "--diff").out
    assert "--- a/old.txt\n+++ b/old.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+TWO\n" in diff
    assert "--- /dev/null\n+++ b/sub/new.txt" in diff and "+++ /dev/null" in diff
    assert "kept.txt" not in diff


@pytest.mark.sandbox
def test_the_changes_are_brought_back(shell: Shell) -> None:
    source = worked(shell)
    done = shell.perdure("show", "s1", "--apply")
    assert done.status == 0, done.err
    assert done.out.startswith("  - gone.txt\n  ~ old.txt\n  + sub/new.txt\n  + tool.sh\n4 files")
    assert (source / "old.txt").read_text() == "one\nTWO\n"
    assert (source / "sub/new.txt").read_text() == "fresh\n"
    assert not (source / "gone.txt").exists()
    assert (source / "tool.sh").stat().st_mode & 0o111
    assert "Nothing to bring" in shell.perdure("show", "s1", "--apply").out


@pytest.mark.sandbox
def test_what_somebody_changed_is_left_alone(shell: Shell) -> None:
    source = worked(shell)
    (source / "old.txt").write_text("mine\n")
    done = shell.perdure("show", "s1", "--apply")
    assert done.status == 7 and "E-WORKSPACE-CHANGED" in done.err and "old.txt" in done.err
    assert (source / "gone.txt").exists() and (source / "old.txt").read_text() == "mine\n"
    assert shell.perdure("show", "s1", "--apply", "--force").status == 0
    assert (source / "old.txt").read_text() == "one\nTWO\n"


@pytest.mark.sandbox
def test_nothing_is_brought_through_a_link_that_leads_out(shell: Shell) -> None:
    source = worked(shell)
    outside = shell.folder / "outside"
    outside.mkdir()
    (source / "sub").symlink_to(outside)
    done = shell.perdure("show", "s1", "--apply", "--force")
    assert done.status == 5 and "E-PATH-OUTSIDE" in done.err
    assert list(outside.iterdir()) == []


@pytest.mark.sandbox
def test_in_place_works_on_the_directory_itself(shell: Shell) -> None:
    shell.write("agent.py", WORKER)
    shell.write("script.toml", SCRIPT)
    for name, text in (("old.txt", "two\n"), ("gone.txt", "bye\n")):
        shell.write(f"project/{name}", text)
    words = ("run", "agent.py", "x", "--workspace", "project", "--in-place", "--session", "s1")
    done = shell.perdure(*words)
    assert done.status == 0, done.out + done.err
    assert "itself" in done.out
    assert shell.read("project/old.txt") == "TWO\n"
    assert shell.perdure("show", "s1", "--apply").status == 2
