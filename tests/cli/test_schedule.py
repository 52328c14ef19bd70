"""Schedules from the command line: made, looked at, changed, fired."""

import asyncio
import contextlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from perdure.cli.firing import Firing
from perdure.cli.worker import runtime_of
from perdure.config import load_project
from perdure.engine.session import Session
from tests.cli.shell import Shell

PAST = ("--at", "2026-01-01 09:00")
FIRED = "early-20260101T080000Z"


def add(shell: Shell, name: str, *more: str) -> Any:
    return shell.perdure("schedule", "add", name, "Sum up.", "--agent", "agent.py", *more)


async def fired(folder: Path) -> dict[str, str]:
    """Fire what is due as `perdure work` does; return what cannot be fired, with the codes."""
    project = load_project(folder, {})
    troubles: dict[str, str] = {}
    async with runtime_of(project) as runtime:
        firing = Firing(project, runtime, lambda n, e: troubles.update({n: e.code}), list)
        for _ in range(2):
            await firing.tick()
        for row in await runtime.sessions():
            async for _ in Session(await runtime.engine(), row.id).watch():
                pass
    return troubles


def fire(shell: Shell) -> dict[str, str]:
    with contextlib.chdir(shell.folder):
        return asyncio.run(fired(shell.folder))


def test_a_schedule_is_made_listed_and_shown(shell: Shell) -> None:
    shell.agent("Done.")
    made = add(shell, "nightly", "--cron", "0 3 * * *", "--tz", "Asia/Kolkata")
    assert made.status == 0, made.err
    assert "fires while `perdure work` runs" in made.out and "03:00:00 Asia/Kolkata" in made.out
    listed = shell.perdure("schedule", "ls").out
    assert "nightly" in listed and "0 3 * * *  Asia/Kolkata" in listed and "in " in listed
    shown = shell.perdure("schedule", "show", "nightly").out
    assert shown.count("03:00:00 Asia/Kolkata") == 5 and "Sum up." in shown
    (told,) = shell.perdure("schedule", "show", "nightly", "--json").lines
    assert len(told["next"]) == 5 and all(each.endswith("T03:00:00+05:30") for each in told["next"])
    assert told["plan"]["missed"] == "last" and told["past"] == []


def test_it_is_paused_resumed_and_taken_away(shell: Shell) -> None:
    shell.agent("Done.")
    add(shell, "nightly", "--cron", "@daily")
    assert shell.perdure("schedule", "pause", "nightly").status == 0
    assert "paused" in shell.perdure("schedule", "ls").out
    (told,) = shell.perdure("schedule", "resume", "nightly", "--json").lines
    assert told["plan"]["paused"] is False
    assert shell.perdure("schedule", "rm", "nightly").status == 0
    (none,) = shell.perdure("schedule", "ls", "--json").lines
    assert none == []
    gone = shell.perdure("schedule", "rm", "nightly")
    assert gone.status == 3 and gone.err.startswith("E-SCHEDULE-UNKNOWN")


@pytest.mark.parametrize(
    ("more", "code", "status"),
    [
        (("--cron", "0 3 * *"), "E-SCHEDULE-CRON", 2),
        (("--cron", "@daily", "--tz", "Mars/One"), "E-SCHEDULE-TZ", 2),
        (("--at", "tomorrow"), "E-USAGE", 2),
        ((), "E-SCHEDULE-WHEN", 2),
        (("--cron", "@daily", "--missed", "some"), "E-SCHEDULE-POLICY", 2),
        (("--cron", "@daily", "--workspace", "nowhere"), "E-USAGE", 2),
        (("--cron", "@hourly"), "E-SCHEDULE-EXISTS", 7),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_kept(
    more: tuple[str, ...], code: str, status: int, shell: Shell
) -> None:
    shell.agent("Done.")
    add(shell, "nightly", "--cron", "0 3 * * *")
    before = shell.perdure("schedule", "ls", "--json").lines
    done = add(shell, "nightly", *more)
    assert (done.status, done.err.split()[0]) == (status, code)
    told = add(shell, "nightly", *more, "--json")
    assert json.loads(told.out)["error"]["code"] == code
    assert shell.perdure("schedule", "ls", "--json").lines == before


def test_the_same_again_changes_nothing(shell: Shell) -> None:
    shell.agent("Done.")
    first, again = (add(shell, "nightly", "--cron", "@daily", "--json") for _ in range(2))
    assert (first.status, again.status) == (0, 0) and first.lines == again.lines


def test_what_is_due_runs_once_and_its_session_can_be_gone_on_with(shell: Shell) -> None:
    shell.agent("Summed up.", "And again.")
    shell.write("perdure.toml", "")
    add(shell, "early", *PAST, "--tz", "Europe/Berlin")
    assert fire(shell) == {} and fire(shell) == {}
    (told,) = shell.perdure("schedule", "show", "early", "--json").lines
    ((run),) = told["past"]
    assert (run["session"], run["status"], run["at"]) == (
        FIRED,
        "idle",
        "2026-01-01T09:00:00+01:00",
    )
    assert told["next"] == []
    shown = shell.perdure("schedule", "show", "early").out
    assert f"perdure show {FIRED}" in shown and "idle" in shown and "over" in shown
    assert "Summed up." in shell.perdure("show", FIRED).out
    assert "And again." in shell.perdure("run", FIRED, "Once more.").out


def test_a_run_asked_for_begins_where_schedules_fire(shell: Shell) -> None:
    shell.agent("Summed up.")
    shell.write("perdure.toml", "")
    add(shell, "nightly", "--cron", "@daily")
    (told,) = shell.perdure("schedule", "now", "nightly", "--json").lines
    assert shell.perdure("ls", "--json").lines == [[]]
    fire(shell)
    ((row,),) = shell.perdure("ls", "--json").lines
    assert row["id"] == told["session"] and row["agent"] == "helper"


def test_runs_that_go_with_their_schedule_are_named(shell: Shell) -> None:
    shell.agent("Summed up.")
    add(shell, "nightly", "--cron", "@daily")
    (told,) = shell.perdure("schedule", "now", "nightly", "--json").lines
    (again,) = shell.perdure("schedule", "now", "nightly", "--json").lines
    said = shell.perdure("schedule", "rm", "nightly").out
    assert "2 announced runs go with it and never begin" in said
    assert told["session"] in said and again["session"] in said
    add(shell, "other", "--cron", "@daily")
    (last,) = shell.perdure("schedule", "now", "other", "--json").lines
    (gone,) = shell.perdure("schedule", "rm", "other", "--json").lines
    assert gone == {"schedule": "other", "dropped": [last["session"]]}
    add(shell, "quiet", "--cron", "@daily")
    assert "announced" not in shell.perdure("schedule", "rm", "quiet").out


def test_a_moment_that_is_past_is_called_so(shell: Shell) -> None:
    shell.agent("Summed up.")
    assert "past, so it fires at once" in add(shell, "early", *PAST).out
    assert "past, so it is missed" in add(shell, "never", *PAST, "--missed", "skip").out
    assert "past" not in add(shell, "later", "--at", "2999-01-01").out


def test_an_agent_that_is_gone_is_told_and_stops_nobody_else(shell: Shell) -> None:
    shell.agent("Summed up.")
    shell.write("perdure.toml", "")
    shell.write(
        "other.py", 'from perdure import Agent\nother = Agent("other", "scripted:x.toml")\n'
    )
    shell.perdure("schedule", "add", "aaa", "x", "--agent", "other.py", *PAST)
    add(shell, "early", *PAST, "--tz", "Europe/Berlin")
    (shell.folder / "other.py").unlink()
    assert fire(shell) == {"schedule aaa": "E-AGENT-UNKNOWN"}
    ((row,),) = shell.perdure("ls", "--json").lines
    assert row["id"] == FIRED


def until_fired(shell: Shell, *, kill: bool) -> list[Any]:
    """Let `perdure work` run until a run is over; return what it said."""
    lines: list[Any] = []
    with subprocess.Popen(
        shell.words("work", "--json"), cwd=shell.folder, env=shell.environ,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1].get("event", {}).get("payload", {}).get("type") == "turn.ended":
                process.send_signal(signal.SIGKILL if kill else signal.SIGINT)
    assert process.returncode == (-signal.SIGKILL if kill else 0)
    return lines


def test_perdure_work_fires_and_starting_it_again_fires_nothing_twice(shell: Shell) -> None:
    shell.agent("Summed up.", "And again.")
    add(shell, "early", *PAST, "--tz", "Europe/Berlin")
    lines = until_fired(shell, kill=True)
    assert {line["session"] for line in lines} == {"", FIRED}
    add(shell, "later", *PAST)
    lines = until_fired(shell, kill=False)
    assert FIRED not in {line["session"] for line in lines}
    ((one, two),) = shell.perdure("ls", "--json").lines
    assert {one["id"], two["id"]} == {FIRED, "later-20260101T090000Z"}
    assert (one["turns"], two["turns"]) == (1, 1)
