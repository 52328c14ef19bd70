"""Taking a session up again differently: fork and rewind, transcript and files together."""

import json
from typing import Any

import pytest

from tests.cli.shell import Shell, script
from tests.cli.terminal import Terminal

REFUND = "refund {order = 9, eur = 5.0}"
WORKER = """
from perdure import Agent

worker = Agent("worker", model="scripted:script.toml", workspace=True)
"""
STEPS = """
[[reply]]
[[reply.call]]
tool = "write"
arguments = { path = "a.txt", content = "first\\n" }
[[reply]]
[[reply.call]]
tool = "write"
arguments = { path = "a.txt", content = "second\\n" }
[[reply.call]]
tool = "write"
arguments = { path = "b.txt", content = "b\\n" }
[[reply]]
text = "Done."
"""


def refunded(shell: Shell) -> None:
    """An agent that has looked an order up and given money back."""
    shell.agent("look {order = 9}", REFUND, "Done: {{last_result}}")
    assert shell.perdure("run", "agent.py", "x", "--session", "s1").status == 0


def events(shell: Shell, session: str) -> list[Any]:
    return shell.perdure("show", session, "--events", "--json").lines


def seq_of(shell: Shell, session: str, kind: str, number: int = 1) -> int:
    """The seq of the session's `number`-th event of a type."""
    found = [each["seq"] for each in events(shell, session) if each["payload"]["type"] == kind]
    seq: int = found[number - 1]
    return seq


def before_refund(shell: Shell) -> int:
    return seq_of(shell, "s1", "tool.requested", 2)


def test_a_fork_says_first_what_it_means_and_does_nothing_unasked(shell: Shell) -> None:
    refunded(shell)
    done = shell.perdure("fork", "s1", "--at", str(before_refund(shell)))
    assert done.status == 4, done.err
    assert "2 model calls, 1 tool call" in done.out
    assert "you decide" in done.out and "refund(order=9, eur=5.0)" in done.out
    assert "perdure fork s1 --at 11 --yes" in done.out
    assert len(shell.perdure("ls", "--json").lines[0]) == 1
    (plan,) = shell.perdure("fork", "s1", "--at", "11", "--json").lines
    assert plan["done"] is False
    assert [call["verdict"] for call in plan["preflight"]["calls"]] == ["decide"]


def test_a_person_is_asked_first(shell: Shell) -> None:
    refunded(shell)
    with Terminal(shell, "fork", "s1", "--name", "f1") as terminal:
        terminal.expect("Make the fork")
        terminal.type("n\n")
        status, out = terminal.end()
    assert status == 0 and "Nothing was done" in out
    with Terminal(shell, "fork", "s1", "--name", "f1") as terminal:
        terminal.expect("Make the fork")
        terminal.type("y\n")
        status, out = terminal.end()
    assert status == 0 and "perdure resume f1" in out


def test_a_call_that_left_after_the_cut_is_not_run_again_without_a_decision(shell: Shell) -> None:
    refunded(shell)
    made = shell.perdure("fork", "s1", "--at", str(before_refund(shell)), "--name", "f1", "--yes")
    assert made.status == 0 and "perdure resume f1" in made.out, made.err
    assert shell.perdure("show", "f1", "--json").lines[0]["status"] == "paused"
    assert shell.perdure("resume", "f1", "--yes").status == 9
    assert shell.read("refunds.txt") == "9 5.0\n"
    settled = shell.perdure("resume", "f1", "--as", "done", "--result", '"refunded before"')
    assert settled.status == 0 and "Done: refunded before" in settled.out
    assert shell.read("refunds.txt") == "9 5.0\n"
    assert "fork    of s1 at event 11" in shell.perdure("show", "f1").out


def test_what_stays_done_is_said(shell: Shell) -> None:
    refunded(shell)
    at = seq_of(shell, "s1", "tool.finished")
    out = shell.perdure("rewind", "s1", "--to", str(at)).out
    assert "stays done" in out and "refund(order=9, eur=5.0)" in out
    (told,) = shell.perdure("rewind", "s1", "--to", str(at), "--json").lines
    assert [each["tool"] for each in told["preflight"]["happened_since"]] == ["refund"]


def test_a_fork_goes_on_with_another_model(shell: Shell) -> None:
    """The model is adopted: no drift, although a limit was put in force meanwhile."""
    refunded(shell)
    shell.write("other.toml", script("unused", "unused", "Another ending."))
    assert shell.perdure("resume", "s1", "--limit", "steps=9").status == 0
    words = ("fork", "s1", "--model", "scripted:other.toml", "--name", "f1", "--json", "--yes")
    (made,) = shell.perdure(*words).lines
    assert made["session"] == "f1" and made["done"] is True
    state = json.loads(shell.perdure("show", "f1", "--state").out)
    assert state["agent"]["model"] == "scripted:other.toml"
    assert state["agent"]["limits"]["steps"] == 9
    done = shell.perdure("run", "f1", "And now?")
    assert done.status == 0, done.err
    assert "scripted:other.toml" in done.out


def test_a_fork_goes_on_as_another_agent(shell: Shell) -> None:
    refunded(shell)
    shell.write("other.toml", script("unused", "unused", "unused", "Says another."))
    code = (
        shell.read("agent.py").replace('"helper"', '"second"').replace("script.toml", "other.toml")
    )
    shell.write("second.py", code)
    made = shell.perdure("fork", "s1", "--agent", "second.py", "--name", "f1", "--yes")
    assert made.status == 0, made.err
    done = shell.perdure("run", "f1", "And now?")
    assert done.status == 0 and "second on f1" in done.out, done.err


def test_a_rewind_takes_the_session_back_and_deletes_nothing(shell: Shell) -> None:
    refunded(shell)
    at = seq_of(shell, "s1", "tool.finished")
    before = events(shell, "s1")
    done = shell.perdure("rewind", "s1", "--to", str(at), "--yes")
    assert done.status == 0 and f"back at event {at}, paused" in done.out, done.err
    after = events(shell, "s1")
    assert after[: len(before)] == before
    assert after[-1]["payload"]["type"] == "session.rewound"
    assert "refund" not in shell.perdure("show", "s1", "--context").out
    shown = shell.perdure("show", "s1").out
    assert "taken back" in shown and f"rewind  back to event {at}" in shown
    assert "(taken back)" in shell.perdure("show", "s1", "--events").out


def test_a_rewind_ends_the_turn_that_is_open(shell: Shell) -> None:
    shell.agent("look {order = 9}", "refund {order = 9, eur = 38.0}", "Done.")
    assert shell.perdure("run", "agent.py", "x", "--session", "s1").status == 4
    at = seq_of(shell, "s1", "tool.finished")
    done = shell.perdure("rewind", "s1", "--to", str(at), "--yes")
    assert done.status == 0 and "turn open" in done.out, done.err
    assert shell.perdure("approve").out == "Nothing waits for anybody.\n"
    assert shell.perdure("resume", "s1").status == 4
    assert shell.read("refunds.txt") == ""


def test_a_rewind_while_somebody_looks_on(shell: Shell) -> None:
    shell.agent("look {order = 9}", "refund {order = 9, eur = 38.0}", "Done.")
    with Terminal(shell, "run", "agent.py", "x", "--session", "s1") as terminal:
        terminal.expect("why")
        at = seq_of(shell, "s1", "tool.finished")
        assert shell.perdure("rewind", "s1", "--to", str(at), "--yes").status == 0
        status, out = terminal.end()
    assert status in (0, 130) and "Traceback" not in out, out
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "paused"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("fork", "s1", "--at", "99"), 3, "E-EVENT-UNKNOWN"),
        (("fork", "s1:2", "--at", "3"), 2, "E-USAGE"),
        (("fork", "s1", "--at", "-1"), 2, "E-USAGE"),
        (("fork", "s2"), 3, "E-SESSION-UNKNOWN"),
        (("fork", "s1", "--name", "s1", "--yes"), 7, "E-SESSION-EXISTS"),
        (("fork", "s1", "--model", "opnai:gpt", "--yes"), 2, "E-MODEL-NAME"),
        (("fork", "s1", "--agent", "nobody", "--yes"), 3, "E-AGENT-UNKNOWN"),
        (("rewind", "s1"), 2, "E-USAGE"),
        (("rewind", "s1", "--to", "0", "--yes"), 2, "E-USAGE"),
        (("rewind", "s1", "--to", "99", "--yes"), 3, "E-EVENT-UNKNOWN"),
    ],
)
def test_bad_input_gets_a_good_error(
    shell: Shell, arguments: tuple[str, ...], status: int, code: str
) -> None:
    shell.agent("Done.")
    shell.perdure("run", "agent.py", "x", "--session", "s1")
    done = shell.perdure(*arguments)
    assert (done.status, done.err.split()[0]) == (status, code), done.err
    assert "Traceback" not in done.err
    assert len(shell.perdure("ls", "--json").lines[0]) == 1


def worked(shell: Shell, *more: str) -> None:
    """An agent that has written two files in its workspace, in two steps."""
    shell.write("agent.py", WORKER)
    shell.write("script.toml", STEPS)
    shell.write("project/kept.txt", "k\n")
    words = ("run", "agent.py", "x", "--workspace", "project", "--session", "s1", *more)
    done = shell.perdure(*words)
    assert done.status == 0, done.out + done.err


@pytest.mark.sandbox
def test_a_fork_has_the_files_of_its_moment(shell: Shell) -> None:
    worked(shell)
    at = seq_of(shell, "s1", "model.requested", 2) - 1
    shell.write("end.toml", script("unused", "The end."))
    words = ("fork", "s1", "--at", str(at), "--name", "f1", "--model", "scripted:end.toml")
    made = shell.perdure(*words, "--yes")
    assert made.status == 0 and "2 files differ from now: a.txt, b.txt" in made.out, made.err
    assert "+first" in shell.perdure("show", "f1", "--diff").out
    early = shell.perdure("show", "f1", "--apply")
    assert early.status == 7 and "E-WORKSPACE-LATER" in early.err
    assert shell.perdure("resume", "f1").status == 0
    diff = shell.perdure("show", "f1", "--diff").out
    assert "+first" in diff and "b.txt" not in diff
    assert "+second" in shell.perdure("show", "s1", "--diff").out
    assert shell.perdure("show", "f1", "--apply").status == 0
    assert shell.read("project/a.txt") == "first\n"


@pytest.mark.sandbox
def test_a_rewind_brings_the_files_back_before_it_returns(shell: Shell) -> None:
    worked(shell, "--in-place")
    assert shell.read("project/a.txt") == "second\n"
    at = seq_of(shell, "s1", "model.requested", 2) - 1
    done = shell.perdure("rewind", "s1", "--to", str(at), "--yes")
    assert done.status == 0 and "2 files put back" in done.out, done.out + done.err
    assert "project itself is taken back" in " ".join(done.out.split())
    assert shell.read("project/a.txt") == "first\n"
    assert not (shell.folder / "project/b.txt").exists()
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "paused"
    assert shell.perdure("resume", "s1").status == 0
    assert shell.read("project/a.txt") == "second\n"


@pytest.mark.sandbox
def test_a_rewind_to_the_beginning_gives_the_first_files_back(shell: Shell) -> None:
    worked(shell, "--in-place")
    (done,) = shell.perdure("rewind", "s1", "--to", "2", "--yes", "--json").lines
    assert done["done"] is True
    assert done["files"] == {"restored": 2, "kept": []}
    assert sorted(path.name for path in (shell.folder / "project").iterdir()) == ["kept.txt"]


def test_a_fork_says_the_last_message_in_other_words(shell: Shell) -> None:
    refunded(shell)
    done = shell.perdure("fork", "s1", "--edit", "look at 10", "--name", "other", "--yes")
    assert done.status == 0, done.err
    said = [
        e["payload"] for e in events(shell, "other") if e["payload"]["type"] == "input.accepted"
    ]
    assert [p.get("kind") for p in said] == ["message", "pause"]
    assert said[0]["content"][0]["text"] == "look at 10"
    assert [e["payload"]["type"] for e in events(shell, "other")].count("turn.started") == 0
    assert shell.perdure("resume", "other").status == 0
    assert "turn.ended" in [e["payload"]["type"] for e in events(shell, "other")]
    assert [e for e in events(shell, "s1") if "look at 10" in json.dumps(e)] == []


def test_a_fork_cannot_say_anew_what_was_never_said(shell: Shell) -> None:
    refunded(shell)
    done = shell.perdure("fork", "s1", "--at", "1", "--edit", "x", "--yes")
    assert done.status == 2 and "E-FORK-EDIT" in done.err
