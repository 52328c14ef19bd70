"""`perdure compact`, and how a compaction is shown."""

from tests.cli.shell import Shell

AGENT = """
name = "talker"
model = "scripted:script.toml"

[compaction]
keep_tokens = 100
"""


def script(*, overflows: bool) -> str:
    """Long replies. Where no reply is left in what is read, the first of them is due again."""
    long = "word " * 1_000
    error = '[reply.error]\nkind = "context_overflow"\ntimes = 1\n' if overflows else ""
    return f"""
[[reply]]
text = "{long}"
[[reply.when]]
if_user_contains = "[assistant]"
text = "They talked about words."
[[reply.when]]
if_user_contains = "and now?"
text = "Bye."
[[reply]]
text = "{long}"
[[reply]]
text = "Bye."
{error}
[[reply]]
text = "Bye again."
"""


def talked(shell: Shell, *, overflows: bool) -> None:
    (shell.folder / "agent.toml").write_text(AGENT)
    (shell.folder / "script.toml").write_text(script(overflows=overflows))
    for text in ("hello", "go on"):
        done = shell.perdure("run", "agent.toml", text, "--session", "s1")
        assert done.status == 0, done.err


def test_by_hand(shell: Shell) -> None:
    talked(shell, overflows=False)
    asked = shell.perdure("compact", "s1")
    assert asked.status == 0, asked.err
    assert "before its model is called next" in asked.out
    again = shell.perdure("compact", "s1", "--json").lines[0]
    assert (again["session"], again["items"], again["asked"]) == ("s1", 4, True)
    done = shell.perdure("run", "agent.toml", "and now?", "--session", "s1")
    assert done.status == 0, done.err
    assert "They talked about words." not in done.out, "a summary is nothing that was said"
    shown = shell.perdure("show", "s1").out
    assert "context compacted: " in shown
    assert "→ summary of " in shown
    assert "originals stay" in shown
    context = shell.perdure("show", "s1", "--context").out
    assert "They talked about words." in context
    assert "word word" not in context
    seq = next(each["seq"] for each in shell.perdure("show", "s1", "--events", "--json").lines
               if each["payload"]["type"] == "context.compacted")  # fmt: skip
    assert "word word" in shell.perdure("show", f"s1:{seq - 1}", "--context").out
    assert "context.compacted" in shell.perdure("show", "s1", "--events").out
    assert "identical" in shell.perdure("replay", "s1").out


def test_at_an_overflow(shell: Shell) -> None:
    talked(shell, overflows=True)
    done = shell.perdure("run", "agent.toml", "and now?", "--session", "s1")
    shown = shell.perdure("show", "s1").out
    assert "E-CONTEXT-OVERFLOW" in shown
    assert "context compacted: " in shown
    assert done.status in (0, 1)


def test_a_closed_session_is_told_so(shell: Shell) -> None:
    talked(shell, overflows=False)
    assert shell.perdure("stop", "s1", "--close").status == 0
    closed = shell.perdure("compact", "s1")
    assert closed.status == 2
    assert "E-SESSION-CLOSED" in closed.err
