"""Sessions that sleep, from the command line: said so, woken by `work`, told of events."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from perdure.core.events import Event, TimerSet
from perdure.engine.agent import Agent
from perdure.engine.kit import Kit
from perdure.engine.runtime import Engine
from perdure.models.scripted import Script, Scripted
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.waiting import sleep, wait_for
from tests.cli.shell import Shell, script
from tests.cli.terminal import Terminal
from tests.engine.stands import OneModel
from tests.trees.family import uses

AGENT = """
from perdure import Agent
from perdure.tools.waiting import sleep, wait_for

napper = Agent("napper", model="scripted:script.toml", tools=[sleep, wait_for])
"""
CONFIG = '[agents.napper]\npython = "agent.py:napper"\n'


def napper(shell: Shell, *replies: str) -> None:
    shell.write("agent.py", AGENT)
    shell.write("script.toml", script(*replies))


@contextmanager
def working(shell: Shell, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Have `perdure work` run meanwhile."""
    worker = subprocess.Popen(
        shell.words("work", *words),
        cwd=shell.folder,
        env=shell.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()


def heard(worker: "subprocess.Popen[str]", wanted: str) -> list[dict[str, Any]]:
    """Read what `work --json` says, up to a line that holds `wanted`."""
    assert worker.stdout is not None
    lines = []
    for line in worker.stdout:
        lines.append(json.loads(line))
        if wanted in line:
            return lines
    raise AssertionError(f"it ended without {wanted}: {lines}")


def test_a_long_sleep_is_told_and_left(shell: Shell) -> None:
    napper(shell, "sleep {seconds = 7200}", "Rested.")
    done = shell.perdure("run", "agent.py", "go", "--session", "s")
    assert done.status == 0, done.err
    assert "asleep" in done.out and "wakes by itself while `perdure work` runs" in done.out
    assert "perdure resume s" in done.out
    listed = shell.perdure("ls")
    assert "wakes in 1 h" in listed.out or "wakes in 119 min" in listed.out, listed.out
    shown = shell.perdure("show", "s")
    assert "sleeping" in shown.out and "sleeps until" in shown.out
    (row,) = shell.perdure("show", "s", "--json").lines
    assert row["status"] == "sleeping" and row["wake_at_us"] == row["timers"][0]["due_us"]
    again = shell.perdure("resume", "s")
    assert again.status == 0 and "asleep" in again.out
    (*_, last) = shell.perdure("resume", "s", "--json").lines
    assert last == {"session": "s", "status": "sleeping", "exit": 0}


def test_a_short_sleep_is_waited_for(shell: Shell) -> None:
    napper(shell, "sleep {seconds = 1}", "Rested.")
    done = shell.perdure("run", "agent.py", "go", "--session", "s")
    assert done.status == 0 and "Rested." in done.out
    assert "◔ waits until" in done.out and "asleep" not in done.out


def test_a_short_sleep_is_counted_down_on_a_terminal(shell: Shell) -> None:
    napper(shell, "sleep {seconds = 3}", "Rested.")
    with Terminal(shell, "run", "agent.py", "go") as terminal:
        terminal.expect("s to go")
        terminal.expect("Rested.")


def test_an_event_wakes_a_session_and_it_goes_on_in_the_background(shell: Shell) -> None:
    napper(shell, 'wait_for {event = "paid"}', "Thanks.")
    done = shell.perdure("run", "agent.py", "go", "--session", "s")
    assert done.status == 0 and "perdure signal s paid [DATA]" in done.out
    assert "waits for event 'paid'" in shell.perdure("show", "s").out
    told = shell.perdure("signal", "s", "paid", '{"eur": 5}', "--key", "k1")
    assert told.status == 0 and "goes on" in told.out
    done = shell.perdure("resume", "s")  # looks on until it is done
    assert done.status == 0
    assert '{"eur": 5}' in shell.perdure("show", "s", "--context").out
    assert "Thanks." in shell.perdure("show", "s").out
    (again,) = shell.perdure("signal", "s", "paid", '{"eur": 5}', "--key", "k1", "--json").lines
    assert not again["fresh"]
    other = shell.perdure("signal", "s", "paid", "6", "--key", "k1")
    assert other.status == 7 and "E-KEY-REUSED" in other.err


def test_an_event_that_nobody_waits_for_is_kept(shell: Shell) -> None:
    napper(shell, "Hello.", 'wait_for {event = "paid"}', "Thanks.")
    assert shell.perdure("run", "agent.py", "hello", "--session", "s").status == 0
    told = shell.perdure("signal", "s", "paid", "-", stdin="in cash")
    assert told.status == 0 and "kept until a call waits for it" in told.out
    assert "Thanks." in shell.perdure("run", "s", "wait for it").out
    assert "in cash" in shell.perdure("show", "s", "--context").out
    assert shell.perdure("signal", "nobody", "paid").status == 3


async def put_to_sleep(shell: Shell, seconds: int) -> None:
    """Let a session fall asleep in a process that then ends."""
    folder = shell.folder / ".perdure"
    folder.mkdir()
    agent = Agent("napper", "scripted:x", tools=[sleep, wait_for])
    script = msgspec.convert({"reply": [uses("sleep", seconds=seconds)]}, Script)
    models = OneModel(Scripted(script))
    store = await SqliteStore.open(folder / "perdure.db")
    async with Engine(Kit(store, SystemClock(), RandomIds(), models)) as engine:
        session = await engine.session("s", agent)
        async for item in session.send("go"):
            if isinstance(item, Event) and isinstance(item.payload, TimerSet):
                break


async def test_work_wakes_what_is_due_once_and_ends_in_order(shell: Shell) -> None:
    shell.write("agent.py", AGENT.replace("scripted:script.toml", "scripted:x"))
    shell.write("perdure.toml", CONFIG)
    shell.write("x", script("sleep {seconds = 1}", "Rested."))
    await put_to_sleep(shell, 2)
    with working(shell, "--json") as worker, working(shell, "--json"):
        said = heard(worker, '"begins"')
        shown = ""
        while "Rested." not in shown:  # the test's own time limit ends it
            shown = await asyncio.to_thread(lambda: shell.perdure("show", "s").out)
        worker.send_signal(signal.SIGTERM)
        said += heard(worker, '"ends"')
        assert worker.wait(timeout=30) == 0
    journal = shell.perdure("show", "s", "--events", "--json").lines
    assert [line["payload"]["type"] for line in journal].count("timer.fired") == 1, shown
    woken = [line for line in said if line.get("what") == "woken"]
    assert all(line["session"] == "s" for line in woken)


async def test_work_says_why_it_cannot_wake_a_session(shell: Shell) -> None:
    await put_to_sleep(shell, 1)
    with working(shell) as worker:
        assert worker.stdout is not None
        assert "begins" in worker.stdout.readline()
        assert "E-AGENT-MISSING" in worker.stdout.readline()
        worker.send_signal(signal.SIGINT)
        assert "ends" in worker.stdout.read()
        assert worker.wait(timeout=30) == 0
    assert "perdure resume s" in shell.perdure("show", "s").out
