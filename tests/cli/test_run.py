"""`perdure run`, and what can be done about its session afterwards."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.shell import Shell, script

REFUND = "refund {order = 9, eur = 38.0}"


def test_a_run_shows_what_is_done_and_ends_well(shell: Shell) -> None:
    shell.agent("I look it up.", "never")
    shell.write("script.toml", script("look {order = 9}", "It says: {{last_result}}"))
    done = shell.perdure("run", "agent.py", "Where is order 9?", "--session", "s1")
    assert done.status == 0, done.err
    assert "look(order=9)  → order 9 was delivered" in done.out
    assert "It says: order 9 was delivered" in done.out
    assert "a script, no AI" in done.out
    assert "\x1b" not in done.out
    listed = shell.perdure("ls")
    assert "s1" in listed.out and "helper" in listed.out


def test_the_same_id_goes_on_at_the_same_place(shell: Shell) -> None:
    shell.agent("First.", "Second.")
    assert "First." in shell.perdure("run", "agent.py", "a", "--session", "s1").out
    again = shell.perdure("run", "agent.py", "b", "--session", "s1")
    assert again.status == 0 and "Second." in again.out and "First." not in again.out
    by_id = shell.perdure("run", "s1", "c")
    assert by_id.status == 0 and "The script has ended" in by_id.out


def test_json_is_one_object_a_line(shell: Shell) -> None:
    shell.agent("look {order = 9}", "Done.")
    done = shell.perdure("run", "agent.py", "x", "--session", "s1", "--json")
    lines = done.lines
    assert lines[-1] == {"session": "s1", "status": "idle", "exit": 0}
    events = [line for line in lines if "seq" in line]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert any(line["live"]["type"] == "text.delta" for line in lines if "live" in line)
    journal = shell.perdure("show", "s1", "--events", "--json").lines
    assert journal == events


def test_text_comes_from_standard_input(shell: Shell) -> None:
    shell.agent("You said: {{last_user}}")
    done = shell.perdure("run", "agent.py", "-", stdin="from a pipe\n")
    assert "You said: from a pipe" in done.out


def test_without_a_terminal_a_question_ends_with_status_4(shell: Shell) -> None:
    shell.agent(REFUND, "Done: {{last_result}}")
    done = shell.perdure("run", "agent.py", "x", "--session", "s1")
    assert done.status == 4
    assert "perdure approve s1 --allow" in done.out
    assert shell.read("refunds.txt") == ""


def test_yes_answers_and_says_so(shell: Shell) -> None:
    shell.agent(REFUND, "Done: {{last_result}}")
    done = shell.perdure("run", "agent.py", "x", "--yes")
    assert done.status == 0
    assert "refund approved by" in done.out and "--yes" in done.out
    assert shell.read("refunds.txt") == "9 38.0\n"


def test_a_killed_worker_is_replaced_and_nothing_is_done_twice(shell: Shell) -> None:
    shell.agent("refund {order = 1, eur = 5.0}", "die_first {times = 2}", "Still here.")
    done = shell.perdure("run", "agent.py", "x", "--session", "s1")
    assert done.status == 0, done.err
    assert done.out.count("was killed (signal 9)") == 2
    assert "goes on: events 1–" in done.out and "Still here." in done.out
    assert shell.read("refunds.txt") == "1 5.0\n"
    assert shell.read("idempotent.txt") == "xxx"


def test_an_unknown_outcome_is_never_guessed(shell: Shell) -> None:
    shell.agent("die_once {}", "So: {{last_result}}")
    done = shell.perdure("run", "agent.py", "x", "--session", "s1")
    assert done.status == 9
    assert (
        "die_once()" in done.out and "--as done --result JSON | --rerun | --as failed" in done.out
    )
    assert shell.read("once.txt") == "x"
    settled = shell.perdure("resume", "s1", "--as", "done", "--result", '{"receipt": "r_81"}')
    assert settled.status == 0 and 'So: {"receipt": "r_81"}' in settled.out
    assert shell.read("once.txt") == "x"


def test_no_session_begins_with_nothing_to_do(shell: Shell) -> None:
    shell.agent("Done.", "Again.")
    for words in (("agent.py",), ("agent.py", ""), ("agent.py", "-", "--detach")):
        done = shell.perdure("run", *words)
        assert done.status == 2 and 'Fix:   perdure run AGENT "what to do"' in done.err
    assert shell.perdure("ls", "--json").lines == [[]]
    piped = shell.perdure("run", "agent.py", "--session", "s1", stdin="Do it.\n")
    assert piped.status == 0 and "Done." in piped.out
    assert shell.perdure("run", "s1").status == 0, "one that is there is only looked at"


def test_what_became_of_a_call_is_one_of_three(shell: Shell) -> None:
    shell.agent("die_once {}", "ok")
    assert shell.perdure("run", "agent.py", "go", "--session", "s1").status == 9
    done = shell.perdure("resume", "s1", "--as", "maybe")
    assert done.status == 2 and "Fix:   perdure resume s1 --as done --result JSON" in done.err


def test_the_list_asks_whether_it_happened_and_says_why(shell: Shell) -> None:
    shell.agent("die_once {}", "ok")
    assert shell.perdure("run", "agent.py", "go", "--session", "s1").status == 9
    listed = " ".join(shell.perdure("approve").out.split())
    assert "asks did it happen?" in listed and "why It left, and no result came back" in listed
    assert "perdure resume s1 --as done" in listed


def test_an_unknown_outcome_can_have_failed(shell: Shell) -> None:
    shell.agent("die_once {}", "So: {{last_result}}")
    shell.perdure("run", "agent.py", "x", "--session", "s1")
    settled = shell.perdure("resume", "s1", "--as", "failed", "--reason", "the shop says no")
    assert settled.status == 0 and "the shop says no" in settled.out
    again = shell.perdure("resume", "s1", "--as", "failed")
    assert again.status == 3 and "E-ACTION-UNKNOWN" in again.err


def test_a_session_that_kills_its_workers_is_parked(shell: Shell) -> None:
    shell.agent("die_first {times = 99}", "never")
    done = shell.perdure("run", "agent.py", "x", "--session", "s1")
    assert done.status == 1
    assert "E-SESSION-POISON" in done.err and "perdure resume s1" in done.err
    listed = shell.perdure("ls", "--failed", "--json").lines[0]
    assert [row["status"] for row in listed] == ["parked"]


def test_a_tool_that_raises_is_told_with_its_line(shell: Shell) -> None:
    shell.agent("fail {}", "I see.")
    done = shell.perdure("run", "agent.py", "x", "--session", "s1")
    assert done.status == 0
    assert "E-TOOL-RAISED  ValueError: no such customer" in done.out
    shown = shell.perdure("show", "s1", "--events", "--json").out
    assert "agent.py:" in shown


def test_a_missing_key_is_status_5_and_loses_nothing(shell: Shell) -> None:
    shell.agent("x")
    done = shell.perdure("run", "agent.py", "hi", "--session", "s1", "--model", "openai:gpt-5.2")
    assert done.status == 5
    assert "E-KEY-MISSING" in done.err and "OPENAI_API_KEY" in done.err
    assert "Traceback" not in done.err + done.out


def test_a_limit_is_status_8_and_can_be_raised(shell: Shell) -> None:
    shell.agent("look {order = 1}", "look {order = 2}", "Done.")
    done = shell.perdure("run", "agent.py", "x", "--session", "s1", "--limit", "steps=1")
    assert done.status == 8 and "E-LIMIT-STEPS" in done.err
    assert shell.perdure("resume", "s1", "--limit", "steps=9").status == 0


def test_detach_returns_at_once_and_the_work_goes_on(shell: Shell) -> None:
    shell.agent("This is written while nobody looks on.", delay_s=1.0)
    done = shell.perdure("run", "agent.py", "x", "--session", "s1", "--detach")
    assert (done.status, done.out) == (0, "s1\n")
    assert shell.perdure("show", "s1", "--json").lines[0]["status"] == "running"
    assert shell.perdure("resume", "s1").status == 0
    assert "while nobody looks on." in shell.perdure("show", "s1").out


def test_what_runs_can_be_stopped_from_elsewhere(shell: Shell) -> None:
    shell.agent("This is written slowly, so that it can be stopped." * 3, "More.", delay_s=0.5)
    shell.perdure("run", "agent.py", "x", "--session", "s1", "--detach")
    assert shell.perdure("stop", "s1", "--cancel").status == 0
    (shown,) = shell.perdure("show", "s1", "--json").lines
    assert (shown["status"], shown["turns"]) == ("idle", 1)
    assert "cancelled" in shell.perdure("show", "s1").out
    assert "nothing under way" in shell.perdure("stop", "s1", "--cancel").out


def test_two_command_lines_on_one_session(shell: Shell) -> None:
    """The second does not work beside the first: it posts, follows and sees the same events."""
    shell.agent("A rather long reply that takes a while.", "And another one.", delay_s=0.2)
    words = shell.words("run", "agent.py", "a", "--session", "s1", "--json")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, cwd=shell.folder, env=shell.environ, stdout=pipe, text=True
    ) as one:
        assert one.stdout is not None
        first = one.stdout.readline()
        two = shell.perdure("run", "agent.py", "b", "--session", "s1", "--json")
        out = first + one.stdout.read()
    assert two.status == 0 and one.returncode == 0
    journal = shell.perdure("show", "s1", "--events", "--json").lines
    ended = [event for event in journal if event["payload"]["type"] == "turn.ended"]
    assert [event["payload"]["status"] for event in ended] == ["completed", "completed"]
    seen = [json.loads(line)["seq"] for line in out.splitlines() if '"seq"' in line[:8]]
    assert seen == sorted(set(seen))


def test_a_killed_command_line_leaves_the_agent_alone(shell: Shell, tmp_path: Path) -> None:
    shell.agent("A reply that takes a while to be written down.", delay_s=0.2)
    words = shell.words("run", "agent.py", "a", "--session", "s1", "--json")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, cwd=shell.folder, env=shell.environ, stdout=pipe, text=True
    ) as one:
        assert one.stdout is not None
        while '"live"' not in one.stdout.readline():
            pass
        os.kill(one.pid, signal.SIGKILL)
    done = shell.perdure("resume", "s1")
    assert done.status == 0
    assert "takes a while to be written down." in shell.perdure("show", "s1").out


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("run", "nobody", "x"), 3, "E-AGENT-UNKNOWN"),
        (("run", "agent.py:nobody", "x"), 2, "E-AGENT-FILE"),
        (("run", "agent.py", "x", "--model", "opnai:gpt"), 2, "E-MODEL-NAME"),
        (("run", "agent.py", "x", "--model", "scripted:none.toml"), 2, "E-MODEL-SCRIPT"),
        (("run", "agent.py", "x", "--limit", "stps=1"), 2, "E-USAGE"),
        (("run", "agent.py", "x", "--workspace", "nowhere"), 2, "E-USAGE"),
        (("run", "agent.py", "x", "--in-place"), 2, "E-USAGE"),
        (("run", "agent.py", "x", "--workspace", ".", "--in-place"), 2, "E-AGENT-WORKSPACE"),
        (("show", "nothing"), 3, "E-STORE-NONE"),
        (("approve", "--allow", "--deny"), 2, "E-USAGE"),
    ],
)
def test_bad_input_gets_a_good_error(
    shell: Shell, arguments: tuple[str, ...], status: int, code: str
) -> None:
    shell.agent("x")
    done = shell.perdure(*arguments)
    assert (done.status, done.err.split()[0]) == (status, code), done.err
    assert "Traceback" not in done.err
    told = shell.perdure(*arguments, "--json").lines
    assert told[-1]["error"]["code"] == code


def test_a_broken_agent_file_names_its_own_line(shell: Shell) -> None:
    shell.write("agent.py", "from perdure import Agent\n\nhelper = Agnet('x')\n")
    done = shell.perdure("run", "agent.py", "x")
    assert done.status == 2
    assert "NameError" in done.err and "agent.py:3" in done.err
    assert "Traceback" not in done.err


def test_changed_code_is_a_conflict_until_it_is_adopted(shell: Shell) -> None:
    shell.agent("one", "two")
    shell.perdure("run", "agent.py", "a", "--session", "s1")
    text = shell.read("agent.py").replace("Look an order up.", "Look up an order.")
    shell.write("agent.py", text)
    done = shell.perdure("run", "agent.py", "b", "--session", "s1")
    assert done.status == 7 and "E-CODE-DRIFT" in done.err and "--adopt" in done.err
    assert shell.perdure("run", "agent.py", "b", "--session", "s1", "--adopt").status == 0


def test_a_model_with_a_price_gets_the_projects_budget(shell: Shell) -> None:
    shell.agent("x")
    shell.write(
        "perdure.toml", 'budget_usd = 0.5\n[prices."openai:*"]\ninput = 1.0\noutput = 2.0\n'
    )
    done = shell.perdure("run", "agent.py", "x", "--session", "s1", "--model", "openai:gpt-5.2")
    assert "at most $0.50" in done.out
    state = json.loads(shell.perdure("show", "s1", "--state").out)
    assert state["agent"]["limits"]["usd"] == 0.5
    free = shell.perdure("run", "agent.py", "x", "--model", "anthropic:claude-opus-5-5")
    assert "cost unknown: no price in perdure.toml" in free.out


def test_verbose_shows_tracebacks_and_what_was_printed(shell: Shell) -> None:
    shell.write("agent.py", "from perdure import Agent\n\nprint('loading')\nhelper = Agnet('x')\n")
    done = shell.perdure("run", "agent.py", "x", "-v")
    assert done.status == 2 and "Traceback" in done.err and "loading" in done.err
    assert "Traceback" in shell.perdure("-v", "show", "x").err
