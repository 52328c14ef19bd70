"""What is particular to bubblewrap and to environments of this machine."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import Forbidden, InvalidRequest
from perdure.environments.local import LocalSandbox
from perdure.environments.process import Process
from perdure.ports.sandbox import Environments
from perdure.stores.system import SystemClock
from perdure.testing.sandbox_contract import alive
from tests.environments.doubles import bubblewrap, needs_sandbox, process

pytestmark = needs_sandbox()
SPEC = EnvironmentSpec(kind="bubblewrap", timeout_s=20.0)
IN_PLACE = EnvironmentSpec(kind="bubblewrap", in_place=True, timeout_s=20.0)
MIB = 1024 * 1024


async def said(box: LocalSandbox, script: str) -> str:
    ended = await box.run(script)
    assert ended.exit_code == 0, ended
    return ended.output.decode()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "f").write_text("theirs\n")
    return folder


def later(*paths: Path) -> None:
    """Let a change be one of five seconds from now: only a time stamp can tell a person's hand."""
    for path in paths:
        at_ns = path.stat().st_mtime_ns + 5_000_000_000
        os.utime(path, ns=(at_ns, at_ns))


# -- what a command finds ---------------------------------------------------------------------


async def test_isolation_is_what_was_seen(tmp_path: Path) -> None:
    box = await bubblewrap(tmp_path / "root").open("s", SPEC, "")
    seen = box.isolation
    assert (seen.level, seen.filesystem, seen.network, seen.processes) == (
        "bubblewrap",
        *[True] * 3,
    )
    assert seen.memory in ("watchdog", "cgroup")


async def test_the_python_that_runs_us_is_there_with_its_packages(tmp_path: Path) -> None:
    box = await bubblewrap(tmp_path / "root").open("s", SPEC, "")
    script = "python3 -c 'import sys; print(sys.base_prefix)'; python3 -m pytest --version"
    out = await said(box, script)
    assert out.splitlines()[0] == sys.base_prefix
    assert "pytest" in out
    await box.files.write("test_it.py", b"def test_one():\n    assert 1\n")
    assert "1 passed" in await said(box, "pytest -q test_it.py -p no:cacheprovider")


async def test_a_command_cannot_see_paths_or_names_of_the_host(tmp_path: Path) -> None:
    box = await bubblewrap(tmp_path / "root").open("s", SPEC, "")
    out = await said(
        box, "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'; cat /etc/passwd; env; hostname"
    )
    assert str(tmp_path) not in out
    assert str(Path.home()) not in out.replace(sys.base_prefix, "").replace(sys.prefix, "")
    assert await said(box, "whoami; pwd; echo $HOME") == "agent\n/workspace\n/workspace\n"


async def test_extra_read_only_paths(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin" / "mytool").write_text("#!/bin/sh\necho mine\n")
    (tools / "bin" / "mytool").chmod(0o755)
    spec = EnvironmentSpec(kind="bubblewrap", read_only=(str(tools),))
    environments = bubblewrap(tmp_path / "root")
    box = await environments.open("s", spec, "")
    assert await said(box, "mytool") == "mine\n"
    assert (await box.run(f"touch {tools}/x")).exit_code == 1
    for bad in ("relative", "/does/not/exist", str(tmp_path)):
        with pytest.raises(InvalidRequest, match="READ-ONLY"):
            await environments.open("t", EnvironmentSpec(read_only=(bad,)), "")


async def test_multiprocessing_and_node_sized_address_spaces_work(tmp_path: Path) -> None:
    box = await bubblewrap(tmp_path / "root").open("s", SPEC, "")
    script = "python3 -c 'import mmap; mmap.mmap(-1, 8 << 30, prot=0x1); print(1)'"
    assert await said(box, script) == "1\n"
    pool = "from multiprocessing import Pool\nif __name__ == '__main__':\n"
    pool += "    print(Pool(2).map(abs, [-1]))\n"
    await box.files.write("pool.py", pool.encode())
    assert await said(box, "python3 pool.py") == "[1]\n"


# -- limits --------------------------------------------------------------------------------------


async def test_many_processes_cannot_share_out_a_hog(tmp_path: Path) -> None:
    spec = EnvironmentSpec(kind="bubblewrap", memory_bytes=200 * MIB, timeout_s=20.0)
    box = await bubblewrap(tmp_path / "root").open("s", spec, "")
    one = "head -c 90m /dev/zero | tail -c 90m | (read -t 15 -d x; true)"
    ended = await box.run(f"for i in 1 2 3 4; do setsid bash -c '{one}' & done; wait")
    assert (ended.killed, ended.exit_code) == ("memory", None)
    assert ended.duration_s < 10


async def test_a_workspace_has_a_size(tmp_path: Path) -> None:
    box = await bubblewrap(tmp_path / "root", workspace_bytes=50 * MIB).open("s", SPEC, "")
    ended = await box.run("for i in $(seq 6); do head -c 20m /dev/zero >f$i; done; read -t 15 <>p")
    assert ended.killed in ("disk", "")
    with pytest.raises(InvalidRequest, match="E-WORKSPACE-SIZE"):
        await box.snapshot()
    await said(box, "rm -f f*")
    assert await box.snapshot()


# -- in place --------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [0, 1500])
async def test_in_place_works_on_the_directory_itself(project: Path, owner: int) -> None:
    if os.geteuid() == 0:
        os.chown(project, owner, owner)
        os.chown(project / "f", owner, owner)
    environments = bubblewrap(project / ".perdure")
    box = await environments.open("s", IN_PLACE, str(project))
    assert await said(box, "pwd; cat f; echo mine >new; ls -A .perdure") == f"{project}\ntheirs\n"
    assert (project / "new").stat().st_uid == project.stat().st_uid
    assert (await box.run("touch .perdure/x")).exit_code != 0
    assert await box.files.list() == ["f", "new"]
    with pytest.raises(Forbidden):
        await box.files.read(".perdure/sessions/s/meta")
    again = await environments.open("s", IN_PLACE, "")
    assert again.workspace == str(project)
    with pytest.raises(InvalidRequest, match="E-SANDBOX-WORKSPACE"):
        await environments.open("s", IN_PLACE, str(project.parent))


async def test_rollback_in_place_leaves_what_a_person_changed(project: Path) -> None:
    box = await bubblewrap(project.parent / "root").open("s", IN_PLACE, str(project))
    await said(box, "mkdir d e; echo 1 >a; echo 1 >b; echo 1 >d/gone; echo 1 >e/gone; chmod 600 a")
    before = await box.snapshot()
    await said(box, "echo 2 >a; echo 2 >b; rm d/gone e/gone; echo 2 >d/new")
    (project / "b").write_text("a person's\n")
    (project / "person").write_text("a person's\n")
    later(project / "b", project / "person", project / "e")
    dry = await box.rollback(before, dry=True)
    assert (project / "a").read_text() == "2\n", "dry"
    done = await box.rollback(before)
    assert done == dry
    assert set(done.restored) == {"a", "d/gone", "d/new"}
    assert set(done.unsure) == {"b", "person", "e/gone"}
    assert [(project / n).read_text() for n in ("a", "b", "person")] == [
        "1\n",
        "a person's\n",
        "a person's\n",
    ]


@pytest.mark.parametrize("bad", ["/", "/etc", "/proc/self", "~", "/does/not/exist", ""])
async def test_what_is_not_worked_on_in_place(tmp_path: Path, bad: str) -> None:
    with pytest.raises(InvalidRequest, match="E-SANDBOX-WORKSPACE"):
        await bubblewrap(tmp_path / "root").open("s", IN_PLACE, bad)


async def test_a_fork_of_an_in_place_session_is_a_copy(project: Path) -> None:
    environments = bubblewrap(project.parent / "root")
    box = await environments.open("s", IN_PLACE, str(project))
    snapshot = await box.snapshot()
    fork = await environments.restore("t", IN_PLACE, snapshot)
    assert await said(fork, "cat f; rm f") == "theirs\n"
    assert (project / "f").exists()
    with pytest.raises(InvalidRequest, match="E-SANDBOX-IN-PLACE"):
        await environments.restore("s", IN_PLACE, snapshot)


async def test_our_own_store_inside_the_source_is_not_copied(project: Path) -> None:
    box = await bubblewrap(project / ".perdure").open("s", SPEC, str(project))
    assert await said(box, "ls -A; ls -A .perdure 2>/dev/null; true") == "f\n"


# -- dying -----------------------------------------------------------------------------------------


def all_die(mark: str) -> bool:
    """Wait for the end of every process that has `mark` on its command line."""
    while pids := alive(mark):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                ended = select.select([fd], [], [], 10.0)[0]
                os.close(fd)
                if not ended:
                    return False
    return True


@pytest.mark.parametrize("kind", ["bubblewrap", "process"])
def test_nothing_survives_an_owner_that_is_killed(tmp_path: Path, kind: str) -> None:
    for round_ in range(3):
        mark = f"77{os.getpid() % 100000:05}.{round_}"
        words = [sys.executable, "-m", "tests.environments.owner", kind, str(tmp_path / "r"), mark]
        owner = subprocess.Popen(words, stdout=subprocess.PIPE)
        with owner:
            assert owner.stdout is not None
            owner.stdout.readline()
            assert alive(f"sleep\0{mark}")
            owner.send_signal(signal.SIGKILL)
        assert all_die(mark), "a process outlived its owner"


@pytest.mark.parametrize("moment", range(12))
def test_killed_at_any_moment_of_a_start_nothing_is_left(tmp_path: Path, moment: int) -> None:
    """Also what has no command yet: a bwrap that waits for ever for one that died."""
    mark = f"75{os.getpid() % 100000:05}.{moment}"
    before = set(orphans())
    words = [sys.executable, "-m", "tests.environments.owner", "starts", str(tmp_path / "r"), mark]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        # Each line is a start; a little computing moves the kill through the next one.
        sum(range(moment * 40_000))
        owner.send_signal(signal.SIGKILL)
    assert all_die(mark)
    assert all(died(pid) for pid in set(orphans()) - before)


def died(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        ended = select.select([fd], [], [], 10.0)[0]
        os.close(fd)
        return bool(ended)
    return True


def orphans() -> list[int]:
    """Return what belongs to a sandbox of ours and has no parent any more."""
    found = []
    for pid in alive("/run/perdure/shell.bash"):
        with contextlib.suppress(OSError):
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            if Path(f"/proc/{parent}/comm").read_text().strip() in (
                "init",
                "systemd",
                "bash",
                "sh",
            ):
                found.append(pid)
    return found


async def test_process_needs_to_be_allowed(tmp_path: Path) -> None:
    refused = Process(tmp_path / "root", SystemClock())
    with pytest.raises(Forbidden) as raised:
        await refused.open("s", EnvironmentSpec(kind="process"), "")
    assert raised.value.code == "E-SANDBOX-PROCESS"
    assert "PERDURE_ALLOW_UNSANDBOXED" in raised.value.hint
    box = await process(tmp_path / "root").open("s", EnvironmentSpec(kind="process"), "")
    assert "NO ISOLATION" in box.isolation.notes[0]
    assert not (box.isolation.filesystem or box.isolation.network or box.isolation.processes)


@pytest.mark.parametrize("make", [bubblewrap, process])
async def test_cancelled_at_any_moment_nothing_is_left(
    tmp_path: Path, make: Callable[[Path], Environments]
) -> None:
    """Cancel after ever more turns of the loop: before the start, in the middle, near the end."""
    box = await make(tmp_path / "root").open("s", EnvironmentSpec(kind="process"), "")
    mark = f"76{os.getpid() % 100000:05}.5"
    for turns in range(0, 120, 4):
        task = asyncio.create_task(box.run(f"setsid sleep {mark} & sleep {mark}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    ended = await box.run("echo fine")
    assert (ended.output, ended.exit_code) == (b"fine\n", 0)
    assert not alive(f"sleep\0{mark}")
