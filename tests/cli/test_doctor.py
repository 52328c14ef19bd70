"""`perdure doctor` finds what is broken, and says what to type."""

import pytest

from tests.cli.shell import Shell

PERMISSION = """[agents.a]
model = "scripted:x"

[[agents.a.permissions]]
tool = "b"
verdict = "maybe"
"""


def findings(shell: Shell, *arguments: str) -> dict[str, dict[str, object]]:
    done = shell.perdure("doctor", "--json", *arguments)
    (report,) = done.lines
    assert (done.status == 0) == report["ok"]
    return {each["about"]: each for each in report["findings"]}


@pytest.mark.sandbox
def test_a_sound_project_is_all_well(shell: Shell) -> None:
    shell.agent("Done.")
    shell.write("perdure.toml", '[agents.helper]\npython = "agent.py:helper"\n')
    shell.perdure("run", "helper", "x")
    found = findings(shell, "--verify", "--online")
    for about in ("Python", "disk", "SQLite", "store", "journals", "agent helper", "sandbox"):
        assert found[about]["ok"] is True, found[about]
    assert found["model scripted"]["ok"] is True
    assert "All is well" in shell.perdure("doctor").out


def test_a_damaged_journal_is_named(shell: Shell) -> None:
    shell.agent("A sentence to be changed.")
    shell.perdure("run", "agent.py", "x", "--session", "s1")
    path = shell.folder / ".perdure/perdure.db"
    data = path.read_bytes()
    assert b"A sentence to be changed." in data
    path.write_bytes(data.replace(b"to be changed", b"that is other"))
    found = findings(shell, "--verify")
    bad = [each for each in found.values() if each["ok"] is False and "s1" in str(each["about"])]
    assert bad and "E-JOURNAL-HASH" in str(bad[0]["detail"])


def test_a_broken_agent_and_a_missing_key_are_told_apart(shell: Shell) -> None:
    shell.write("agent.py", "import nothing_of_that_name\n")
    shell.write("perdure.toml", '[agents.helper]\npython = "agent.py:helper"\n')
    done = shell.perdure("doctor")
    assert done.status == 1
    assert "nothing_of_that_name" in done.out and "agent.py:1" in done.out


def test_keys_are_named_and_never_shown(shell: Shell) -> None:
    out = shell.perdure("doctor", ANTHROPIC_API_KEY="sk-ant-very-secret").out
    assert "ANTHROPIC_API_KEY" in out and "very-secret" not in out


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[agents.a]\nmodle = "x"\n', ("perdure.toml:2", "'modle'", "'model'")),
        ("store = 3\n", ("perdure.toml:1", "store", "Expected `str`")),
        (PERMISSION, ("perdure.toml:6", "allow, ask, deny")),
        ('[prices."openai:x"]\ninput = 1.0\n', ("perdure.toml:1", "'output' is missing")),
        ("[agents\n", ("perdure.toml", "line 1")),
    ],
)
def test_a_mistake_in_the_configuration_is_found(
    shell: Shell, toml: str, words: tuple[str, ...]
) -> None:
    shell.write("perdure.toml", toml)
    done = shell.perdure("ls")
    assert done.status == 2 and done.err.startswith("E-CONFIG  ")
    assert all(word in done.err for word in words), done.err


def test_the_environment_wins_over_the_file(shell: Shell) -> None:
    shell.agent("Done.")
    shell.write("perdure.toml", 'store = "sqlite:///one.db"\n')
    shell.perdure("run", "agent.py", "x", PERDURE_STORE="sqlite:///two.db")
    assert (shell.folder / "two.db").exists() and not (shell.folder / "one.db").exists()
    assert shell.perdure("ls", PERDURE_ALLOW_UNSANDBOXED="perhaps").status == 2


@pytest.mark.sandbox
@pytest.mark.slow
def test_the_sandbox_can_be_attacked_by_anybody(shell: Shell) -> None:
    done = shell.perdure("selftest", "sandbox")
    assert done.status == 0, done.out
    assert "were stopped" in done.out


def test_agents_can_be_whole_in_toml(shell: Shell) -> None:
    shell.agent("look {order = 9}", "So: {{last_result}}")
    shell.write(
        "helper.toml",
        'model = "scripted:script.toml"\ninstructions = "Help."\ntools = ["agent.py:look"]\n'
        'permissions = [{ tool = "look", verdict = "deny", when = "order > 5" }]\n',
    )
    done = shell.perdure("run", "helper.toml", "x")
    assert done.status == 0 and "denied by rule" in done.out, done.out + done.err
