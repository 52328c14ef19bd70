"""Nodes from the command line: workers that share a store, on one machine."""

import asyncio
import json
from pathlib import Path

import pytest

from perdure.core.codec import encode
from perdure.core.content import as_content
from perdure.core.inbox import Say
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing.store_harness import begin
from tests.cli.shell import Shell
from tests.cli.test_sleeping import heard, working
from tests.contract.postgres import database, postgres

__all__ = ["database", "postgres"]  # fixtures

TOML = '[agents.helper]\npython = "agent.py:helper"\n'


def test_there_are_none_where_nothing_runs(shell: Shell) -> None:
    shell.agent("Done.")
    assert shell.perdure("run", "agent.py", "go").status == 0
    assert "No node is alive" in shell.perdure("nodes").out
    assert shell.perdure("nodes", "--json").lines == [[]]
    done = shell.perdure("nodes", "show", "nobody")
    assert done.status == 3 and "E-NODE-UNKNOWN" in done.err
    assert "no nodes" in shell.perdure("nodes", PERDURE_STORE="memory:").out


def test_a_worker_is_one_and_ends_when_it_is_told(shell: Shell) -> None:
    shell.agent("Done.")
    shell.write("perdure.toml", TOML)
    with working(shell, "--json", "--store", "sqlite:///elsewhere.db") as worker:
        said = heard(worker, "elsewhere.db")
        assert said[-1]["what"] == "begins"
        there = {"PERDURE_STORE": "sqlite:///elsewhere.db"}
        ((row,),) = shell.perdure("nodes", "--json", **there).lines
        while not row["version"]:  # it has not said where it is yet
            ((row,),) = shell.perdure("nodes", "--json", **there).lines
        assert (row["address"], row["sessions"], row["draining"]) == ("", 0, False)
        shown = shell.perdure("nodes", "show", row["name"], **there).out
        assert "it serves nobody" in shown and "0 sessions" in shown
        assert row["name"] in shell.perdure("nodes", **there).out
        drained = shell.perdure("nodes", "drain", row["name"], "--json", **there)
        assert drained.lines == [{"name": row["name"], "draining": True}]
        assert "drains" in json.dumps(heard(worker, '"ends"'))
        assert worker.wait(60) == 0


def test_a_worker_goes_on_with_what_nobody_works_on(shell: Shell) -> None:
    shell.agent("Done.", "And again.")
    shell.write("perdure.toml", "[server]\ntakeover_s = 0.2\n")
    assert shell.perdure("run", "agent.py", "go", "--session", "s").status == 0
    asyncio.run(_post(shell.folder / ".perdure" / "perdure.db"))
    (row,) = shell.perdure("ls", "--json").lines[0]
    assert row["turns"] == 1, "looking on takes no letters"
    with working(shell, "--json") as worker:
        said = heard(worker, "turn.ended")
    assert [line for line in said if "And again." in json.dumps(line) or "turn.ended" in str(line)]


async def _post(path: Path) -> None:
    """Write to a session and die before anybody works on it."""
    store = await SqliteStore.open(path)
    await store.post("s", "k", encode(Say("message", as_content("again"))))
    store.kill()


@pytest.mark.postgres
def test_a_dead_node_is_told_nothing_and_what_it_left_is_free(shell: Shell, database: str) -> None:
    there = {"PERDURE_STORE": database}
    name = asyncio.run(_died(f"{database}&lease_s=0.3"))
    ((row,),) = shell.perdure("nodes", "--json", **there).lines
    while row["alive"]:
        ((row,),) = shell.perdure("nodes", "--json", **there).lines
    assert (row["name"], row["sessions"]) == (name, 1)
    listed = shell.perdure("nodes", **there).out
    assert "left 1" in listed and "free to be taken" in listed
    shown = shell.perdure("nodes", "show", name, **there).out
    assert "left 1 session " in shown and "ses_1" in shown
    told = shell.perdure("nodes", "drain", name[:8], **there)
    said = " ".join(told.err.split())
    assert told.status == 7 and "E-NODE-DEAD" in said and "no other node is alive" in said
    assert "takes nothing new" not in told.out


async def _died(url: str) -> str:
    """Begin a session and die; return the name of the node."""
    store = await PostgresStore.open(url)
    await begin(store)
    store.kill()
    return store.node
