"""`perdure admin gc`: what nothing refers to any more, in the store and beside it."""

import os
from pathlib import Path

from perdure.stores.system import SystemClock
from tests.cli.shell import Shell

AGENT = """
model = "scripted:script.toml"
instructions = "Write."
workspace = true
"""
SCRIPT = """
[[reply]]
[[reply.call]]
tool = "write"
arguments = { path = "notes.txt", content = "one" }

[[reply]]
text = "%s"
"""


def age(folder: Path, hours: float) -> None:
    """Let all files below a folder be older."""
    then_s = SystemClock().now_us() / 1e6 - hours * 3600
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then_s, then_s))


def test_what_a_purged_session_left_is_removed(shell: Shell) -> None:
    (shell.folder / "a.toml").write_text(AGENT)
    (shell.folder / "script.toml").write_text(SCRIPT % ("long " * 20_000))
    ran = shell.perdure("run", "a.toml", "go", "--session", "s", "--unsandboxed", "--json")
    assert ran.status == 0, ran.err
    store = shell.folder / ".perdure"
    blobs, packs = store / "perdure.db.blobs", store / "perdure.db.work" / "snapshots"
    assert list(blobs.glob("??/*"))
    assert list(packs.glob("*.pack"))
    assert shell.perdure("admin", "gc").out.startswith("Removed 0 blobs, 0 bytes")
    assert shell.perdure("admin", "purge", "s", "--yes").status == 0
    young = shell.perdure("admin", "gc", "--json").lines[0]
    assert (young["blobs"], young["packs"]) == (0, 0)
    age(store, 25)
    would = shell.perdure("admin", "gc", "--dry-run", "--json").lines[0]
    assert would["blobs"] >= 1
    assert would["packs"] >= 1
    assert list(packs.glob("*.pack"))
    assert shell.perdure("admin", "gc", "--grace", "26").out.startswith("Removed 0 blobs")
    done = shell.perdure("admin", "gc", "--json").lines[0]
    assert done == {**would, "dry_run": False}
    assert not list(blobs.glob("??/*"))
    assert not list(packs.glob("*.pack"))
    refused = shell.perdure("admin", "gc", "--grace", "1")
    assert (refused.status, "E-GC-GRACE" in refused.err) == (2, True)
