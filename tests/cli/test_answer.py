"""Answering what is left to clients, and closing: from other processes, and in a terminal."""

import json

from tests.cli.shell import Shell, script
from tests.cli.terminal import Terminal

AGENT = '''
from dataclasses import dataclass
from typing import Annotated, Literal

from perdure import Agent, ask_user, client_tool, form


@dataclass
class Address:
    """Where it goes."""
    street: str
    number: int
    express: bool
    kind: Literal["home", "work"] = "home"


@client_tool(ask="pages > 9")
def sign(pages: int) -> bool:
    """Have a paper signed."""


ship_to = form("ship_to", "Ask where to send the parcel.", Address)
office = Agent("office", model="scripted:script.toml", tools=[ask_user, sign, ship_to])
'''
COLOUR = 'ask_user {question = "Which colour?", options = ["red", "blue"]}'
SHIP = 'ship_to {message = "the vase"}'
SAYS = "So: {{last_result}}"


def office(shell: Shell, *replies: str) -> None:
    shell.write("agent.py", AGENT)
    shell.write("script.toml", script(*replies))


def waiting(shell: Shell, *replies: str) -> str:
    """Begin a session that waits; return the call it waits for."""
    office(shell, *replies)
    begun = shell.perdure("run", "agent.py", "x", "--session", "s1")
    assert begun.status == 4 and "perdure answer s1" in begun.out, begun
    (listed,) = shell.perdure("answer", "s1", "--json").lines
    return str(listed[0]["call_id"])


def ended(shell: Shell) -> str:
    assert shell.perdure("resume", "s1").status == 0
    return shell.perdure("show", "s1").out


def test_what_waits_is_listed_with_what_may_be_answered(shell: Shell) -> None:
    name = waiting(shell, SHIP, SAYS)
    out = shell.perdure("answer").out
    assert f"s1:{name}" in out and "number: whole number" in out and "home or work" in out
    (found,) = shell.perdure("answer", "--json").lines
    assert found[0]["tool"] == "ship_to"
    assert found[0]["answer_schema"]["required"] == ["street", "number", "express"]
    assert "perdure answer s1" in shell.perdure("approve").out
    assert "ship_to" in shell.perdure("show", "s1").out
    (row,) = shell.perdure("ls", "--json").lines[0]
    assert row["status"] == "waiting"
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "waiting"


def test_an_answer_from_another_process_goes_on_in_the_background(shell: Shell) -> None:
    name = waiting(shell, COLOUR, SAYS)
    assert "red | blue" in shell.perdure("answer", f"s1:{name}").out
    done = shell.perdure("answer", "s1", "green")
    assert done.status == 0 and "answered" in done.out and "goes on" in done.out
    assert "So: green" in ended(shell)
    again = shell.perdure("answer", f"s1:{name}", "green", "--json")
    assert again.status == 0 and again.lines[0]["event"]["payload"]["result"] == "green"
    other = shell.perdure("answer", f"s1:{name}", "red")
    assert other.status == 7 and "E-ANSWER-TWICE" in other.err
    assert shell.perdure("answer", "s1", "green").status == 3
    assert shell.perdure("answer").out == "Nothing waits for an answer.\n"


def test_json_files_and_no_answer_at_all(shell: Shell) -> None:
    name = waiting(shell, SHIP, SHIP, SHIP, SAYS)
    wrong = shell.perdure("answer", "s1", "--json-value", '{"street": "Elm"}')
    assert wrong.status == 2 and "E-ANSWER-FORM" in wrong.err and "lacks `number`" in wrong.err
    form = {"street": "Elm", "number": 4, "express": True}
    assert shell.perdure("answer", "s1", "--json-value", json.dumps(form)).status == 0
    shell.perdure("resume", "s1")
    assert shell.perdure("answer", "s1", "--file", "-", stdin=json.dumps(form)).status == 0
    shell.perdure("resume", "s1")
    assert shell.perdure("answer", "s1", "--failed", "nobody is at home").status == 0
    assert "nobody is at home" in ended(shell)
    assert shell.perdure("answer", f"s1:{name}", "x", "--failed", "y").status == 2
    assert shell.perdure("answer", "", "x").status == 2


def test_a_form_is_filled_in_the_terminal(shell: Shell) -> None:
    office(shell, SHIP, SAYS)
    with Terminal(shell, "run", "agent.py", "x") as terminal:
        asked = terminal.expect(r"street \(text\): ")
        assert "asks you" in asked and "the vase" in asked
        terminal.type("\n")
        terminal.expect(r"street \(text\): ")
        terminal.type("Elm\n")
        terminal.expect(r"number \(whole number\): ")
        terminal.type("four\n")
        terminal.expect(r"must be a whole number[\s\S]*number \(whole number\): ")
        terminal.type("4\n")
        terminal.expect(r"express \(y/n\): ")
        terminal.type("y\n")
        terminal.expect(r"kind \(home or work, Enter leaves it out\): ")
        terminal.type("work\n")
        status, out = terminal.end()
    assert status == 0 and "ship_to answered by" in out
    assert '"street":"Elm","number":4,"express":true,"kind":"work"' in out.replace("\n", "")


def test_a_question_is_answered_by_number_or_in_words(shell: Shell) -> None:
    office(shell, COLOUR, COLOUR, SAYS)
    with Terminal(shell, "run", "agent.py", "x") as terminal:
        asked = terminal.expect("your answer › ")
        assert "Which colour?" in asked and "2  blue" in asked
        terminal.type("2\n")
        terminal.expect("your answer › ")
        terminal.type("a warm grey\n")
        status, out = terminal.end()
    assert status == 0 and "So: a warm grey" in out


def test_approval_first_then_the_answer(shell: Shell) -> None:
    office(shell, "sign {pages = 12}", SAYS)
    with Terminal(shell, "run", "agent.py", "x", "--yes") as terminal:
        terminal.expect(r"\(y/n\) your answer › ")
        terminal.type("perhaps\n")
        terminal.expect("must be true or false")
        terminal.type("yes\n")
        status, out = terminal.end()
    assert status == 0 and "So: true" in out


def test_closing_ends_the_turn_and_everything_after_it(shell: Shell) -> None:
    name = waiting(shell, COLOUR, SAYS)
    closed = shell.perdure("stop", "s1", "--close", "--json")
    assert closed.status == 0 and closed.lines[0]["status"] == "closed", closed
    assert "was closed already" in shell.perdure("stop", "s1", "--close").out
    for words in (
        ("run", "s1", "more"),
        ("resume", "s1"),
        ("answer", f"s1:{name}", "red"),
        ("approve", "s1:a1", "--allow"),
        ("rewind", "s1", "--to", "3", "--yes"),
    ):
        refused = shell.perdure(*words)
        assert refused.status == 7 and "E-SESSION-CLOSED" in refused.err, (words, refused)
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "closed"
    forked = shell.perdure("fork", "s1", "--name", "s2", "--yes", "--json")
    assert forked.status == 0, forked
    assert shell.perdure("show", "s2", "--json").lines[0]["status"] == "paused"
