"""The demonstration keeps what it promises; the scaffold runs as it is."""

import re
import subprocess
import sys

import pytest

from tests.cli.shell import Shell
from tests.cli.terminal import Terminal

needs_sandbox = pytest.mark.sandbox


@needs_sandbox
def test_the_demo_tells_the_truth(shell: Shell) -> None:
    done = shell.perdure("demo")
    assert done.status == 0, done.out + done.err
    assert re.search(r"kill -9 \d+: the worker is dead", done.out)
    assert "3 files: prices/apple.txt, prices/bread.txt, prices/cheese.txt" in done.out
    assert done.out.count("✓ ") == 6 and "✗ open" not in done.out
    home = shell.folder / ".perdure/demo/demo"
    assert (home / "tickets.txt").read_text().count("\n") == 1
    assert (home / "published.txt").read_text().count("\n") == 1
    assert (home / "shop/prices/apple.txt").read_text() == "0.45\n"
    journal = shell.perdure("show", "demo", "--events", "--json").lines
    types = [event["payload"]["type"] for event in journal]
    assert types.count("session.recovered") == 1 and types.count("environment.restored") == 1


@needs_sandbox
def test_the_demo_asks_in_a_terminal(shell: Shell) -> None:
    with Terminal(shell, "demo") as terminal:
        terminal.expect("kill -9")
        terminal.expect(r"\[a\]pprove")
        terminal.type("a\n")
        status, out = terminal.end()
    assert status == 0 and "the tests pass" in out


@needs_sandbox
def test_what_the_demo_says_to_type_next_works(shell: Shell) -> None:
    """Also where a demo was before: the second one leaves the first alone."""
    shell.write(".perdure/demo/demo/tickets.txt", "mine\n")
    out = shell.perdure("demo", "--yes").out
    pattern = re.compile(r"^ +(?:Next +)?perdure (show \S+(?: --\w+)?|new \S+)  ", re.MULTILINE)
    commands = pattern.findall(out)
    assert len(commands) == 3 and "on demo-2" in out
    for command in commands:
        assert shell.perdure(*command.split()).status == 0, command
    assert shell.read(".perdure/demo/demo/tickets.txt") == "mine\n"
    shop = shell.folder / ".perdure/demo/demo-2/shop"
    assert (shop / "prices/apple.txt").read_text() == "45\n"
    words = [sys.executable, "-B", "-m", "unittest", "-q"]
    assert subprocess.run(words, cwd=shop, capture_output=True, check=False).returncode == 0


def test_without_a_sandbox_the_demo_says_so_and_does_nothing(shell: Shell) -> None:
    """A kernel that forbids namespaces is what most machines without a sandbox have."""
    code = (
        "import sys; from pathlib import Path; from perdure.environments import bubblewrap;"
        "bubblewrap.bwrap_programs.__code__ = (lambda: []).__code__;"
        "from perdure.cli.app import main; sys.exit(main(['demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=shell.folder,
        env=shell.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 6
    assert done.stderr.startswith("E-SANDBOX-BWRAP  ") and "Fix:" in done.stderr
    assert not (shell.folder / ".perdure/demo").exists()


def test_unsandboxed_is_said_each_time(shell: Shell) -> None:
    done = shell.perdure("demo", "--unsandboxed", "--yes")
    assert done.status == 9, done.out + done.err
    assert "NOT SANDBOXED" in done.out and "without a sandbox nobody can" in done.out
    assert shell.perdure("resume", "demo", "--as", "failed").status == 4


def test_a_new_agent_runs_as_it_is(shell: Shell) -> None:
    made = shell.perdure("new", "myagent")
    assert made.status == 0 and "perdure run myagent" in made.out
    folder = shell.folder / "myagent"
    assert len(list(folder.iterdir())) <= 6
    inside = Shell(folder)
    done = inside.perdure("run", "myagent", "hello")
    assert done.status == 0 and "Done (noted; there are 1)" in done.out
    assert inside.read("notes.txt") == "The user said: hello\n"
    asked = inside.perdure("run", "myagent", "hello!")
    assert asked.status == 4 and "add_note" in asked.out
    tested = subprocess.run(
        [sys.executable, "-m", "unittest"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stderr
    assert inside.perdure("doctor").out.count("agent myagent") == 1


def test_new_writes_over_nothing(shell: Shell) -> None:
    shell.write("myagent/agent.py", "mine")
    done = shell.perdure("new", "myagent")
    assert done.status == 7 and "E-NEW-EXISTS" in done.err
    assert [path.name for path in (shell.folder / "myagent").iterdir()] == ["agent.py"]
    assert shell.perdure("new", "9lives").status == 2
