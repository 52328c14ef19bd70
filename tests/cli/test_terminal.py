"""The same commands in a terminal: questions, streaming, colours, Ctrl-C."""

import os

from tests.cli.shell import Shell
from tests.cli.terminal import CTRL_C, Terminal

REFUND = "refund {order = 9, eur = 38.0}"
SLOW = "This reply is written slowly, piece by piece, so that there is time to press a key. " * 3


def test_a_question_is_asked_and_answered(shell: Shell) -> None:
    shell.agent(REFUND, "So: {{last_result}}")
    with Terminal(shell, "run", "agent.py", "x") as terminal:
        asked = terminal.expect(r"\[a\]pprove +\[s\]ession +\[e\]dit +\[d\]eny +\[\?\]why")
        assert "refund" in asked and "eur: 38.0" in asked and "eur > 20" in asked
        terminal.type("?\n")
        terminal.expect("rule: refund")
        terminal.type("a\n")
        status, out = terminal.end()
    assert status == 0
    assert "refund approved by" in out and "So: refunded 38.0" in out
    assert shell.read("refunds.txt") == "9 38.0\n"


def test_arguments_are_edited_one_by_one(shell: Shell) -> None:
    shell.agent(REFUND, "So: {{last_result}}")
    with Terminal(shell, "run", "agent.py", "x") as terminal:
        terminal.expect("why")
        terminal.type("e\n")
        terminal.expect(r"order \[9\]: ")
        terminal.type("\n")
        terminal.expect(r"eur \[38.0\]: ")
        terminal.type("5\n")
        status, out = terminal.end()
    assert status == 0 and "refund(order=9, eur=5)" in out
    assert shell.read("refunds.txt") == "9 5.0\n"


def test_what_is_edited_into_what_the_tool_does_not_take_is_asked_again(shell: Shell) -> None:
    shell.agent(REFUND, "So: {{last_result}}")
    with Terminal(shell, "run", "agent.py", "x") as terminal:
        terminal.expect("why")
        terminal.type("e\n")
        terminal.expect(r"order \[9\]: ")
        terminal.type("nine\n")
        terminal.expect(r"eur \[38.0\]: ")
        terminal.type("\n")
        assert "`order`" in terminal.expect(r"nothing was decided[^\n]*\n[^\n]*why")
        terminal.type("a\n")
        status, _ = terminal.end()
    assert status == 0 and shell.read("refunds.txt") == "9 38.0\n"


def test_a_refusal_carries_its_reason(shell: Shell) -> None:
    shell.agent(REFUND, "So: {{last_result}}")
    with Terminal(shell, "run", "agent.py", "x") as terminal:
        terminal.expect("why")
        terminal.type("d\n")
        terminal.expect("why")
        terminal.type("ask the owner first\n")
        status, out = terminal.end()
    assert status == 0 and "ask the owner first" in out
    assert shell.read("refunds.txt") == ""


def test_somebody_else_may_answer_meanwhile(shell: Shell) -> None:
    shell.agent(REFUND, "So: {{last_result}}")
    with Terminal(shell, "run", "agent.py", "x", "--session", "s1") as terminal:
        terminal.expect("why")
        assert shell.perdure("approve", "s1", "--allow").status == 0
        status, out = terminal.end()
    assert status == 0 and "refund approved by" in out and "So: refunded 38.0" in out


def test_the_end_of_input_leaves_the_question_open(shell: Shell) -> None:
    shell.agent(REFUND, "x")
    with Terminal(shell, "run", "agent.py", "x", "--session", "s1") as terminal:
        terminal.expect("why")
        terminal.type("\x04")
        status, out = terminal.end()
    assert status == 4 and "perdure approve s1" in out


def test_ctrl_c_leaves_the_agent_to_its_work(shell: Shell) -> None:
    shell.agent(SLOW, delay_s=0.25)
    with Terminal(shell, "run", "agent.py", "x", "--session", "s1") as terminal:
        terminal.expect("This reply")
        terminal.type(CTRL_C)
        terminal.expect("Leaving. The agent goes on")
        status, out = terminal.end()
    assert status == 130
    assert "perdure show s1" in out and "perdure stop s1 --cancel" in out
    assert shell.perdure("resume", "s1").status == 0
    assert " ".join(shell.perdure("show", "s1").out.split()).count("press a key.") == 3


def test_ctrl_c_twice_interrupts_the_agent(shell: Shell) -> None:
    shell.agent(SLOW, delay_s=0.25)
    with Terminal(shell, "run", "agent.py", "x", "--session", "s1") as terminal:
        terminal.expect("This reply")
        terminal.type(CTRL_C)
        terminal.expect("Leaving")
        terminal.type(CTRL_C)
        status, out = terminal.end()
    assert status == 130 and "Interrupt" in out and "perdure resume s1" in out
    shown = shell.perdure("show", "s1", "--json").lines[0]
    assert shown["status"] == "idle"
    assert "interrupted" in shell.perdure("show", "s1").out


def test_colours_are_for_terminals_that_want_them(shell: Shell) -> None:
    shell.agent("Done.")
    with Terminal(shell, "run", "agent.py", "x") as terminal:
        terminal.expect("Done")
        while terminal.process.poll() is None:
            os.sched_yield()
    with Terminal(shell, "run", "agent.py", "x", NO_COLOR="1") as terminal:
        raw = ""
        while "tokens" not in raw:
            raw += terminal.expect(r"\S")
        assert terminal.end()[0] == 0
