"""Every example runs, offline, and says what its description promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

EXAMPLES = ROOT / "examples"
PROMISES = {
    "approvals": (
        "the shop pays 9.50",
        "the shop pays 100.00",
        "Not by an agent.",
        "asked: refund",
    ),
    "forms": (
        "waiting for ship_to",
        "`number` must be a whole number",
        "E-ANSWER-TWICE",
        "anna@web",
        'It goes to {"street":"Elm","number":4}.',
        "closed, and its fork is paused",
    ),
    "idempotent": ("2 attempts, 1 key, 1 payment",),
    "kept_regression": (
        "test_clerk_two_parcels: passed",
        "the shop pays 9.50",
        "clerk would decide differently now",
        "verdict was 'ask', now 'allow'",
    ),
    "killed": ("died of signal 9", "We do not know whether", "letters written: 2"),
    "mcp_tools": ("library__find_book: read", "'Night Trains', shelf 12"),
    "nightly_agent": (
        (
            "the run of Sat 21 03:00 is completed: 1 so far\nSat 21 02:00 UTC\n"
            "  the run of Sat 21 03:00 is completed: 1 so far"
        ),
        "the run of Mon 23 03:00 is completed: 2 so far\n  missed: Sun 22 03:00",
    ),
    "plain_script": ("when the first one is gone.", "poem: idle"),
    "quickstart": ("tool.finished", "turn 1 completed: 1 tool calls"),
    "refund_agent": (
        "the model wrote: Order 1 is small change, order 2 lost its glass.",
        "bert is too late: a1 of ticket-4712: anna allowed it at",
        "the shop pays 80.00 for order 4",
        "allow  refund: eur < 100 → allow (this session, by anna)",
        "deny   refund: eur > 500 → deny",
        "after anna took it back: []",
    ),
    "subagent_tree": (
        "The limit of 6000 tokens for this session and its subagents is reached",
        "Raised at the top, it is seen by all",
        "The editor's turn: completed.",
    ),
}


def run(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_test_that_was_kept_pays_nobody(tmp_path: Path) -> None:
    assert run("kept_regression", tmp_path).count("the shop pays") == 1


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_an_example_keeps_its_promise(name: str, tmp_path: Path) -> None:
    out = run(name, tmp_path)
    for promise in PROMISES[name]:
        assert promise in out


def test_the_second_run_goes_on_with_the_session(tmp_path: Path) -> None:
    run("quickstart", tmp_path)
    assert "turn 2 completed" in run("quickstart", tmp_path)


@pytest.mark.sandbox
def test_the_coding_agent_works_on_a_copy(tmp_path: Path) -> None:
    out = run("coding_agent", tmp_path)
    assert "FAILED (failures=1)" in out and "ok: OK" in out
    assert "isolated by bubblewrap" in out and "the original is untouched: True" in out


def test_every_example_is_run_and_listed() -> None:
    there = {path.stem for path in EXAMPLES.glob("*.py")}
    assert there == {*PROMISES, "coding_agent"}
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}.py]" in page for name in there)
