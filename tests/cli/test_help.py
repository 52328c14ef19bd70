"""What can be read before anything runs."""

import re
import subprocess
import sys

import pytest

from tests.cli.shell import Shell

HEAVY = ("rich", "openai", "anthropic", "mcp", "apsw", "asyncio", "msgspec", "zstandard", "httpx2")
VERBS = ["demo", "new", "run", "resume", "stop", "approve", "ls", "show", "doctor", "selftest"]


def test_help_names_every_verb(shell: Shell) -> None:
    done = shell.perdure("--help")
    assert done.status == 0
    assert all(re.search(rf"^  {verb} ", done.out, re.MULTILINE) for verb in VERBS)
    assert shell.perdure().out == done.out
    assert "_worker" not in done.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from perdure.cli.app import main; main(['--help']);"
        f"print('heavy:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("verb", [*VERBS, "schedule add", "up", "answer", "errors"])
def test_no_types_of_the_code_are_shown(shell: Shell, verb: str) -> None:
    said = shell.perdure(*verb.split(), "--help").out
    assert not re.search(r"<[a-z]", said) and " --" in said
    if verb == "approve":
        assert re.search(r"^  \[ID…\]  Sessions", said, re.MULTILINE) and "--reason TEXT" in said


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(shell: Shell, verb: str) -> None:
    done = shell.perdure(verb, "--help")
    assert done.status == 0
    assert f"perdure {verb}" in done.out


def test_completion_is_there(shell: Shell) -> None:
    done = shell.perdure("--show-completion", "bash")
    assert done.status == 0 and "_PERDURE_COMPLETE" in done.out
    words = {"_PERDURE_COMPLETE": "complete_bash", "COMP_WORDS": "perdure r", "COMP_CWORD": "1"}
    found = shell.perdure(**words).out.split()
    assert found == ["run", "resume", "rewind", "replay"]


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [(("rum",), "run"), (("run", "x", "--wrkspace", "."), "--workspace"), (("apprve",), "approve")],
)
def test_what_is_misspelt_gets_a_suggestion(
    shell: Shell, arguments: tuple[str, ...], nearest: str
) -> None:
    done = shell.perdure(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("E-USAGE  ") and nearest in done.err
    assert "Traceback" not in done.err


def test_the_version_is_said(shell: Shell) -> None:
    assert re.fullmatch(r"perdure \d+\.\d+\.\d+\n", shell.perdure("--version").out)
