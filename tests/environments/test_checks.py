"""The doctor's part on sandboxes: every finding says something, every failure says what to type."""

from pathlib import Path

import pytest

from perdure.environments import hints
from perdure.environments.checks import describe
from perdure.environments.watch import delegated_cgroup
from perdure.stores.system import SystemClock
from tests.environments.doubles import needs_sandbox

in_sandbox = needs_sandbox()


async def test_findings_are_complete() -> None:
    findings = await describe(SystemClock())
    names = {f.name for f in findings}
    wanted = {"bwrap", "user namespaces", "AppArmor", "Landlock", "system call filter"}
    assert wanted | {"cgroup v2", "user", "sandbox"} <= names
    assert all(f.detail for f in findings)
    assert all(f.fix for f in findings if f.ok is False)


@pytest.mark.sandbox
@in_sandbox[1]
async def test_a_working_sandbox_is_reported() -> None:
    tried = [f for f in await describe(SystemClock()) if f.name.startswith("sandbox")]
    assert tried
    assert all(f.ok for f in tried), tried
    assert all("filesystem, network, processes" in f.detail for f in tried)


SAID = [
    ("bwrap: setting up uid map: Permission denied", True, False, hints.APPARMOR),
    ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", True, True, hints.APPARMOR),
    ("bwrap: Creating new namespace failed: Operation not permitted", False, True, hints.CONTAINER),
    ("bwrap: No permissions to create a new namespace", False, False, hints.SYSCTL),
    ("bwrap cannot be started: [Errno 2] No such file or directory", False, False, hints.MISSING),
    ("something else", True, True, ""),
]


@pytest.mark.parametrize(("said", "apparmor", "container", "fix"), SAID)
def test_the_fix_fits(said: str, apparmor: bool, container: bool, fix: str) -> None:
    assert hints.fix_for(said, apparmor=apparmor, in_container=container) == fix


def test_where_a_cgroup_is_delegated(tmp_path: Path) -> None:
    own = "9:name=systemd:/\n0::/user.slice/app.slice/run.scope\n"
    assert delegated_cgroup(tmp_path, own) is None
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    leaf = tmp_path / "user.slice" / "app.slice" / "run.scope"
    leaf.mkdir(parents=True)
    for folder in (leaf, leaf.parent):
        (folder / "cgroup.procs").touch()
        (folder / "cgroup.subtree_control").write_text("")
    assert delegated_cgroup(tmp_path, own) is None
    (leaf.parent / "cgroup.subtree_control").write_text("memory")
    assert delegated_cgroup(tmp_path, own) is None, "both are needed"
    (leaf.parent / "cgroup.subtree_control").write_text("cpu memory pids")
    assert delegated_cgroup(tmp_path, own) == leaf.parent
    assert delegated_cgroup(tmp_path, "0::/../../etc") is None
