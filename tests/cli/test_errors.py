"""Errors over all sessions: by cause, with what the vendor said, and moving on those that wait."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.cli.shell import Shell
from tests.cli.terminal import Terminal

MODEL = "openai-compatible:small"
BODY = '{"error": {"message": "key revoked on Friday", "type": "auth", "code": "revoked"}}'


class Refuses(BaseHTTPRequestHandler):
    """A provider that takes no key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


def stopped(shell: Shell, *names: str) -> str:
    """Let sessions stop because there is no key; return the cause's fingerprint."""
    shell.agent("Fine now.")
    for name in names:
        words = ("run", "agent.py", "x", "--session", name, "--model", "openai:gpt-5.2")
        assert shell.perdure(*words).status == 5
    fingerprint: str = groups(shell)[0]["fingerprint"]
    return fingerprint


def groups(shell: Shell) -> list[Any]:
    done = shell.perdure("errors", "--json")
    assert done.status == 0, done.err
    found: list[Any] = done.lines[0]
    return found


def test_without_errors_that_is_said(shell: Shell) -> None:
    shell.agent("Done.")
    shell.perdure("run", "agent.py", "x")
    assert shell.perdure("errors").out == "No session has met an error.\n"
    assert groups(shell) == []


def test_one_cause_in_several_sessions_is_one_line(shell: Shell) -> None:
    cause = stopped(shell, "s1", "s2")
    (group,) = groups(shell)
    assert (group["code"], group["count"], group["sessions"]) == ("E-KEY-MISSING", 2, 2)
    assert group["waiting"] == 2
    listed = shell.perdure("errors").out
    assert cause in listed and f"perdure errors redrive {cause}" in listed


def test_an_error_is_shown_as_the_vendor_put_it(shell: Shell, provider: str) -> None:
    shell.agent("unused")
    words = ("run", "agent.py", "x", "--session", "s1", "--model", MODEL)
    assert shell.perdure(*words, PERDURE_BASE_URL=provider).status == 5
    (group,) = groups(shell)
    shown = shell.perdure("errors", "show", group["fingerprint"][:5])
    assert shown.status == 0, shown.err
    assert "E-MODEL-AUTH" in shown.out and "key revoked on Friday" in shown.out
    assert '"code": "revoked"' in shown.out, "the raw body"
    assert "s1" in shown.out and "waits" in shown.out
    (told,) = shell.perdure("errors", "show", group["fingerprint"], "--json").lines
    assert "revoked" in told["error"]["detail"]
    assert told["occurrences"][0]["row"]["session"] == "s1"


def test_an_error_of_a_tool_names_its_own_line(shell: Shell) -> None:
    shell.agent("fail {}", "I see.")
    assert shell.perdure("run", "agent.py", "x", "--session", "s1").status == 0
    (group,) = groups(shell)
    assert group["waiting"] == 0
    shown = shell.perdure("errors", "show", group["fingerprint"]).out
    assert "E-TOOL-RAISED" in shown and "agent.py:" in shown
    assert "has moved on" in shown and "redrive" not in shown


def test_redrive_says_what_it_will_do_and_does_nothing_unasked(shell: Shell) -> None:
    cause = stopped(shell, "s1", "s2")
    done = shell.perdure("errors", "redrive", cause)
    assert done.status == 4
    assert "2 sessions waiting" in done.out and "openai:gpt-5.2 is called" in done.out
    assert f"perdure errors redrive {cause} --yes" in done.out
    (plan,) = shell.perdure("errors", "redrive", cause, "--json").lines
    assert plan["done"] is False and [each["go"] for each in plan["plan"]] == [True, True]
    assert groups(shell)[0]["count"] == 2
    with Terminal(shell, "errors", "redrive", cause) as terminal:
        terminal.expect("Resume 2 sessions")
        terminal.type("\n")
        status, out = terminal.end()
    assert status == 0 and "Nothing was done" in out


def test_redrive_resumes_each_once(shell: Shell) -> None:
    cause = stopped(shell, "s1", "s2")
    done = shell.perdure("errors", "redrive", cause, "--yes", "--rate", "50", "--json")
    assert done.status == 0, done.err
    outcomes = {(each["session"], each["outcome"]) for each in done.lines}
    assert outcomes == {("s1", "resumed"), ("s2", "resumed")}


def test_redrive_goes_on_once_the_cause_is_mended(shell: Shell) -> None:
    shell.agent("look {order = 1}", "look {order = 2}", "Found it.")
    for name in ("s1", "s2"):
        words = ("run", "agent.py", "x", "--session", name, "--limit", "steps=2")
        assert shell.perdure(*words).status == 8
    (group,) = groups(shell)
    assert group["code"] == "E-LIMIT-STEPS" and group["waiting"] == 2
    done = shell.perdure("errors", "redrive", group["fingerprint"], "--yes", "--rate", "50")
    assert done.status == 0 and done.out.count("resumed") == 2, done.out + done.err
    for name in ("s1", "s2"):
        assert shell.perdure("resume", name).status == 0
        assert "Found it." in shell.perdure("show", name).out
    assert groups(shell)[0]["waiting"] == 0
    again = shell.perdure("errors", "redrive", group["fingerprint"], "--yes")
    assert again.status == 0 and "No session stands there" in again.out


def test_an_unknown_outcome_is_not_redriven(shell: Shell) -> None:
    shell.agent("die_once {}", "So: {{last_result}}")
    assert shell.perdure("run", "agent.py", "x", "--session", "s1").status == 9
    (group,) = groups(shell)
    assert (group["code"], group["waiting"]) == ("E-TOOL-UNKNOWN", 1)
    done = shell.perdure("errors", "redrive", group["fingerprint"], "--yes")
    assert done.status == 4 and "a person owes it a decision" in done.out
    assert shell.read("once.txt") == "x"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("errors", "show"), 2, "E-USAGE"),
        (("errors", "explain", "x"), 2, "E-USAGE"),
        (("errors", "show", "ffff"), 3, "E-ERROR-UNKNOWN"),
        (("errors", "redrive", "ffff", "--yes"), 3, "E-ERROR-UNKNOWN"),
        (("errors", "redrive", "ffff", "--rate", "0"), 2, "E-REDRIVE-RATE"),
    ],
)
def test_bad_input_gets_a_good_error(
    shell: Shell, arguments: tuple[str, ...], status: int, code: str
) -> None:
    shell.agent("Done.")
    shell.perdure("run", "agent.py", "x")
    done = shell.perdure(*arguments)
    assert (done.status, done.err.split()[0]) == (status, code), done.err
    assert json.loads(shell.perdure(*arguments, "--json").out)["error"]["code"] == code
