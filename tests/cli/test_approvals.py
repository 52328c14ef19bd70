"""Approvals on the command line: what waits, what is allowed beyond one call, who was first."""

import json

from tests.cli.shell import Shell
from tests.cli.terminal import Terminal

REFUND = "refund {order = 9, eur = 38.0}"
MORE = "refund {order = 10, eur = 45.0}"
TOO_MUCH = "refund {order = 11, eur = 60.0}"


def waiting(shell: Shell, *more: str) -> None:
    shell.agent(REFUND, *more, "So: {{last_result}}")
    assert shell.perdure("run", "agent.py", "x", "--session", "s1").status == 4


def rested(shell: Shell) -> None:
    """Wait until the worker in the background has come to rest."""
    shell.perdure("resume", "s1", "--no-wait")


def family(shell: Shell) -> None:
    shell.agent("helper {task = 'refund it'}", "So: {{last_result}}")
    with (shell.folder / "agent.py").open("a") as file:
        file.write(
            "\nfrom perdure import subagent\n"
            'below = Agent("below", model="scripted:below.toml", tools=tools)\n'
            'top = Agent("top", model="scripted:script.toml", '
            'tools=[subagent(below, name="helper")])\n'
        )
    shell.write(
        "below.toml",
        '[[reply]]\ntext = "The parcel is lost, so I pay."\n[[reply.call]]\ntool = "refund"\n'
        "arguments = {order = 9, eur = 38.0}\n[[reply]]\ntext = 'paid'\n",
    )


def test_the_list_says_all_there_is_to_know(shell: Shell) -> None:
    family(shell)
    assert shell.perdure("run", "agent.py:top", "x", "--session", "s1").status == 4
    listed = shell.perdure("approve").out
    for word in (
        "s1 › s1.t1.1  below", "s1.t1.1:a1", "order: 9", "eur: 38.0", "refund: eur > 20 → ask",
        "“The parcel is lost, so I pay.”", "ago", "expires in 6 d",
        "perdure approve s1.t1.1:a1 --allow [--for session|rule]",
    ):  # fmt: skip
        assert word in listed, (word, listed)
    ((found,),) = shell.perdure("approve", "--json").lines
    assert (found["session"], found["above"], found["agent"]) == ("s1.t1.1", ["s1"], "below")
    assert found["said"] == "The parcel is lost, so I pay." and found["tool"] == "refund"
    assert json.loads(found["call"]["arguments"]) == {"order": 9, "eur": 38.0}
    assert found["scopes"] == ["once", "session", "rule"] and len(found["digest"]) == 64
    assert 0 < found["expires_in_s"] <= 7 * 24 * 3600 and found["age_s"] >= 0


def test_long_arguments_are_shown_whole(shell: Shell) -> None:
    words = " ".join(f"word{number}" for number in range(200))
    shell.agent(f'beg {{text = "{words}"}}', "done")
    with (shell.folder / "agent.py").open("a") as file:
        file.write("\n@tool(ask=True)\ndef beg(text: str) -> str:\n    return text\n")
        file.write('\nmore = Agent("more", model="scripted:script.toml", tools=[beg])\n')
    assert shell.perdure("run", "agent.py:more", "x", "--session", "s1").status == 4
    assert words in " ".join(shell.perdure("approve").out.split())


def test_calls_can_be_allowed_for_the_session(shell: Shell) -> None:
    waiting(shell, MORE, TOO_MUCH)
    done = shell.perdure("approve", "s1:a1", "--allow", "--for", "session", "--when", "eur < 50")
    assert done.status == 0, done
    assert "from now on  refund when eur < 50, in s1, until it is revoked" in done.out
    rested(shell)
    assert shell.read("refunds.txt") == "9 38.0\n10 45.0\n"
    listed = shell.perdure("approve", "--rules")
    assert "s1:a1  refund when eur < 50, in s1, until it is revoked" in listed.out, listed
    ((grant,),) = shell.perdure("approve", "--rules", "--json").lines
    assert (grant["name"], grant["tool"], grant["scope"]) == ("s1:a1", "refund", "session")
    assert grant["sessions"] == ["s1"] and grant["ended"] is False
    gone = shell.perdure("approve", "--revoke", "s1:a1", "--json")
    assert gone.status == 0 and gone.lines == [{"revoked": "s1:a1", "sessions": ["s1"]}]
    assert "Nothing is allowed beyond single calls." in shell.perdure("approve", "--rules").out
    again = shell.perdure("approve", "--revoke", "s1:a1")
    assert again.status == 3 and "E-GRANT-UNKNOWN" in again.err


def test_a_rule_holds_in_other_sessions_until_it_is_revoked(shell: Shell) -> None:
    waiting(shell)
    done = shell.perdure("approve", "s1", "--allow", "--for", "rule", "--until", "7d")
    assert done.status == 0, done
    assert "refund with ANY arguments, in all sessions of helper, until 20" in done.out
    assert shell.perdure("run", "agent.py", "x", "--session", "s2").status == 0
    ((rule,),) = shell.perdure("approve", "--rules", "--json").lines
    assert (rule["scope"], rule["agent"], rule["when"]) == ("rule", "helper", "")
    assert "✓ revoked  refund" in shell.perdure("approve", "--revoke", "s1:a1").out
    assert shell.perdure("run", "agent.py", "x", "--session", "s3").status == 4


def test_an_end_is_read_in_the_local_time_zone(shell: Shell) -> None:
    waiting(shell)
    until = ("--until", "2199-12-01T18:00")
    done = shell.perdure("approve", "s1", "--allow", "--for", "rule", *until, TZ="Asia/Tokyo")
    assert "until 2199-12-01 18:00 JST" in done.out, done
    ((rule,),) = shell.perdure("approve", "--rules", "--json").lines
    assert rule["until_us"] == 7_255_472_400_000_000


def test_what_makes_no_sense_decides_nothing(shell: Shell) -> None:
    waiting(shell)
    for words, code in (
        (("--allow", "--for", "rule", "--until", "2001-12-01"), "E-GRANT"),
        (("--allow", "--for", "rule", "--until", "soon"), "E-GRANT"),
        (("--allow", "--for", "rule", "--when", "eur <"), "E-CONDITION"),
        (("--allow", "--for", "ever"), "E-USAGE"),
        (("--allow", "--when", "eur < 50"), "E-USAGE"),
        (("--for", "rule"), "E-USAGE"),
        (("--deny", "--for", "rule"), "E-USAGE"),
    ):
        done = shell.perdure("approve", "s1", *words)
        assert done.status == 2 and code in done.err, (words, done)
    assert "1 question for you" in shell.perdure("approve").out
    assert "Nothing is allowed" in shell.perdure("approve", "--rules").out


def test_who_comes_too_late_is_told_who_was_first_and_it_is_recorded(shell: Shell) -> None:
    waiting(shell)
    assert shell.perdure("approve", "s1:a1", "--deny", "--reason", "no", LOGNAME="anna").status == 0
    late = shell.perdure("approve", "s1:a1", "--allow", LOGNAME="bert")
    assert late.status == 7 and "E-ACTION-DECIDED" in late.err and "anna denied it" in late.err
    told = shell.perdure("approve", "s1:a1", "--allow", "--json", LOGNAME="bert")
    assert told.status == 7 and told.lines[0]["error"]["code"] == "E-ACTION-DECIDED"
    events = shell.perdure("show", "s1", "--events", "--json").out
    assert events.count("allow of a1 by 'bert' refused: anna had decided already: deny") == 2
    assert shell.perdure("approve", "s1:a7", "--allow").status == 3
    assert shell.read("refunds.txt") == ""


def test_the_terminal_offers_the_session_too(shell: Shell) -> None:
    shell.agent(REFUND, MORE, "So: {{last_result}}")
    with Terminal(shell, "run", "agent.py", "x") as terminal:
        terminal.expect(r"\[s\]ession")
        terminal.type("s\n")
        terminal.expect("refund may run with ANY arguments in this session")
        status, out = terminal.end()
    assert status == 0 and "So: refunded 45.0" in out
    assert shell.read("refunds.txt") == "9 38.0\n10 45.0\n"
