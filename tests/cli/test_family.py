"""Sessions with subagents, as the command line shows and drives them."""

from tests.cli.shell import Shell, script

FAMILY = '''
from pathlib import Path

from perdure import Agent, subagent, tool

HERE = Path(__file__).parent


@tool(effect="once", ask="true")
def pay(eur: float) -> str:
    """Pay somebody."""
    with (HERE / "paid.txt").open("a") as file:
        file.write(f"{eur}\\n")
    return f"paid {eur}"


helper = Agent("helper", model="scripted:helper.toml", tools=[pay])
lead = Agent("lead", model="scripted:lead.toml", tools=[subagent(helper), pay])
'''
CHILD = "s1.t1.1"


def waiting(shell: Shell) -> None:
    shell.write("agent.py", FAMILY)
    shell.write("lead.toml", script('helper {task = "Pay 5."}', "All is {{last_result}}."))
    shell.write("helper.toml", script("pay {eur = 5.0}", "done: {{last_result}}"))
    done = shell.perdure("run", "agent.py:lead", "x", "--session", "s1")
    assert done.status == 4, done.out + done.err


def test_subagents_stand_below_the_session_they_work_for(shell: Shell) -> None:
    waiting(shell)
    rows = shell.perdure("ls").out.splitlines()[1:]
    assert "s1 " in rows[0] and f"└ {CHILD}" in rows[1]
    assert all(line.lstrip().startswith("⏸") for line in rows)
    shown = shell.perdure("show", "s1").out
    assert "1 subagent" in shown and "together with them" in shown and f"└ {CHILD}" in shown
    tree = shell.perdure("show", "s1", "--json").lines[0]["tree"]
    assert [row["id"] for row in tree["rows"]] == ["s1", CHILD]
    assert "subagent of s1" in shell.perdure("show", CHILD).out


def test_what_a_subagent_asks_is_approved_and_the_whole_tree_goes_on(shell: Shell) -> None:
    waiting(shell)
    assert f"{CHILD}:a1" in shell.perdure("approve").out
    done = shell.perdure("approve", CHILD, "--allow")
    assert done.status == 0 and "s1 goes on" in done.out, done.out + done.err
    assert shell.perdure("resume", "s1").status == 0
    assert "All is done: paid 5.0." in shell.perdure("show", "s1").out
    assert shell.read("paid.txt") == "5.0\n"


def test_a_subagent_is_resumed_with_the_session_on_top(shell: Shell) -> None:
    waiting(shell)
    done = shell.perdure("resume", CHILD)
    assert done.status == 4 and "is a subagent of s1" in done.out, done.out + done.err
    refused = shell.perdure("rewind", CHILD, "--to", "2", "--yes")
    assert refused.status == 2 and "E-REWIND" in refused.err
