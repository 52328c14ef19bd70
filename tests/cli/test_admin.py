"""`perdure admin`: keys that are shown once, projects, and sessions that are gone for good."""

import apsw

from tests.cli.shell import Shell


def test_a_key_is_shown_once_and_kept_nowhere(shell: Shell) -> None:
    made = shell.perdure("admin", "keys", "new", "--role", "admin", "--name", "ci", "--json").lines
    key = made[0].pop("key")
    assert key.startswith("pdk_") and len(key) > 40
    listed = shell.perdure("admin", "keys", "ls", "--json").lines
    assert listed == made
    assert (listed[0]["project"], listed[0]["role"], listed[0]["name"]) == (
        "default",
        "admin",
        "ci",
    )
    files = [path for path in shell.folder.rglob("*") if path.is_file()]
    assert files and not any(key.encode() in path.read_bytes() for path in files)
    plain = shell.perdure("admin", "keys", "ls").out
    assert listed[0]["id"] in plain and "valid" in plain and "pdk_" not in plain


def test_a_key_expires_and_is_revoked(shell: Shell) -> None:
    new = ("admin", "keys", "new", "--project", "shop")
    assert (
        "viewer in shop, until" in shell.perdure(*new, "--role", "viewer", "--expires", "30d").out
    )
    name = shell.perdure(*new, "--json").lines[0]["id"]
    assert "revoked" in shell.perdure("admin", "keys", "revoke", name[:12]).out
    again = shell.perdure("admin", "keys", "revoke", name, "--json").lines[0]
    assert again["revoked_at_us"]
    standing = [
        row["revoked_at_us"] for row in shell.perdure("admin", "keys", "ls", "--json").lines
    ]
    assert [bool(each) for each in standing] == [False, True]
    assert shell.perdure("admin", "keys", "ls", "--project", "other", "--json").lines == []


def test_what_cannot_be_a_key(shell: Shell) -> None:
    for words, code in (
        (("--role", "god"), "E-ROLE"),
        (("--project", "No Such"), "E-PROJECT"),
        (("--expires", "2001-01-01"), "E-EXPIRES"),
        (("--expires", "soon"), "E-EXPIRES"),
    ):
        done = shell.perdure("admin", "keys", "new", *words)
        assert (done.status, code in done.err) == (2, True), done
    missing = shell.perdure("admin", "keys", "revoke", "key_never")
    assert (missing.status, "E-KEY-UNKNOWN" in missing.err) == (3, True)
    assert shell.perdure("admin", "keys", "ls", "--json").out == ""
    elsewhere = shell.perdure("admin", "keys", "ls", PERDURE_STORE="memory:")
    assert (elsewhere.status, "E-ADMIN-STORE" in elsewhere.err) == (2, True)


def test_projects_are_those_with_sessions_or_keys(shell: Shell) -> None:
    shell.agent("Hello.")
    shell.perdure("run", "agent.py", "hi")
    shell.perdure("admin", "keys", "new", "--project", "shop")
    assert shell.perdure("admin", "projects", "ls", "--json").lines == [
        {"project": "default", "sessions": 1, "keys": 0},
        {"project": "shop", "sessions": 0, "keys": 1},
    ]


def test_a_session_is_purged_with_all_that_belongs_to_it(shell: Shell) -> None:
    shell.agent("Hello, secret pineapple.", "Again.")
    shell.perdure("run", "agent.py", "hi", "--session", "ses_gone")
    shell.perdure("run", "agent.py", "hi", "--session", "ses_kept")
    asked = shell.perdure("admin", "purge", "gone")
    assert (asked.status, "perdure admin purge ses_gone --yes" in asked.out) == (4, True)
    assert shell.perdure("admin", "purge", "ses_gone", "--project", "shop", "--yes").status == 3
    done = shell.perdure("admin", "purge", "gone", "--yes", "--json")
    assert done.lines == [{"deleted": ["ses_gone"], "project": "default"}]
    assert [row["id"] for row in shell.perdure("ls", "--json").lines[0]] == ["ses_kept"]
    assert shell.perdure("show", "ses_gone").status == 3
    connection = apsw.Connection(str(shell.folder / ".perdure" / "perdure.db"))
    assert connection.execute("SELECT count(DISTINCT session) FROM events").get == 1
    connection.close()
    assert len(list((shell.folder / ".perdure").glob("*.cli/refs/*.json"))) == 1
