"""What every sandbox must do, whoever wrote it: subclass `SandboxContract` and `environments`.

    class TestMine(SandboxContract):
        def environments(self, root: Path) -> Environments:
            return Mine(root)

Real commands, real files, real kills; knows the port only. What a sandbox keeps away from the
host is the business of the probes, not of this suite.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import Forbidden, InvalidRequest, NotFound, PerdureError
from perdure.ports.sandbox import Ended, Environments, Sandbox

LIMIT_BYTES = 4096
SOON_S = 20.0


def code_of(error: pytest.ExceptionInfo[PerdureError]) -> str:
    """Return the code of a raised error."""
    return error.value.code


def alive(mark: str) -> list[int]:
    """Return the processes of this machine whose command line holds `mark`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


class SandboxContract:
    """The suite. `kind` goes into the spec."""

    kind = "bubblewrap"

    def environments(self, root: Path) -> Environments:
        """Return the environments under test, keeping everything below `root`."""
        raise NotImplementedError

    def spec(self) -> EnvironmentSpec:
        """Return a spec with small limits."""
        return EnvironmentSpec(kind=self.kind, output_bytes=LIMIT_BYTES, timeout_s=SOON_S)

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Environments:
        return self.environments(tmp_path / "environments")

    @pytest.fixture
    async def box(self, opened: Environments) -> AsyncIterator[Sandbox]:
        sandbox = await opened.open("one", self.spec(), "")
        yield sandbox
        await sandbox.close()

    async def said(self, box: Sandbox, script: str) -> str:
        """Return what a script printed, which must succeed."""
        ended = await box.run(script)
        assert ended.exit_code == 0, ended
        return ended.output.decode()

    # -- commands ---------------------------------------------------------------------------

    async def test_output_and_exit_code(self, box: Sandbox) -> None:
        ended = await box.run("echo out; echo err >&2; exit 3")
        assert (ended.output, ended.exit_code, ended.killed) == (b"out\nerr\n", 3, "")
        assert ended.duration_s >= 0

    async def test_output_arrives_while_the_command_runs(self, box: Sandbox) -> None:
        seen: list[bytes] = []
        first = asyncio.Event()

        def on_output(data: bytes) -> None:
            seen.append(data)
            first.set()

        # It ends only when the test, having seen its first words, writes the file.
        script = "echo first; until [ -e go ]; do :; done; echo second"
        running = asyncio.create_task(box.run(script, on_output=on_output))
        await asyncio.wait_for(first.wait(), SOON_S)
        await box.files.write("go", b"")
        assert (await running).output == b"first\nsecond\n"
        assert b"".join(seen) == b"first\nsecond\n"

    async def test_standard_input_is_empty(self, box: Sandbox) -> None:
        assert await self.said(box, "cat; echo done") == "done\n"

    async def test_state_survives_from_command_to_command(self, box: Sandbox) -> None:
        await box.run(
            "mkdir -p 'a b/c'; cd 'a b/c'; export E='x  y'; V=$'two\\nlines'; L=(1 '2 3')\n"
            "f() { echo f \"$1\"; }; alias hello='echo hi'; shopt -s globstar; unset LANG"
        )
        script = 'pwd; echo "$E"; echo "$V"; echo "${L[1]}"; f 1; shopt -q globstar && hello\n'
        lines = (await self.said(box, script + 'bash -c "echo $E"; echo ${LANG-none}')).splitlines()
        assert lines[0].endswith("/a b/c")
        assert lines[1:] == ["x  y", "two", "lines", "2 3", "f 1", "hi", "x y", "none"]

    @pytest.mark.parametrize(
        ("script", "code"),
        [("exit 3", 3), ("set -e; false; echo no", 1), ("echo 'open", 2), ("kill -9 $$", 137)],
    )
    async def test_the_state_outlives_a_bad_end(self, box: Sandbox, script: str, code: int) -> None:
        await box.run("mkdir d; cd d; export E=kept")
        assert (await box.run(script)).exit_code == code
        out = await self.said(box, 'basename "$PWD"; echo $E; false; echo on')
        assert out == "d\nkept\non\n"

    async def test_a_deleted_directory_leads_back_to_the_workspace(self, box: Sandbox) -> None:
        top = await self.said(box, "pwd; mkdir gone; cd gone; rmdir ../gone")
        assert await self.said(box, "pwd") == top

    async def test_a_scripts_own_traps_and_redirections_are_its_own(self, box: Sandbox) -> None:
        await box.run("export E=1; trap 'echo bye' EXIT; exec >log; echo in the log")
        assert await self.said(box, "cat log; echo $E") == "in the log\nbye\n1\n"

    async def test_long_output_is_cut_in_the_middle(self, box: Sandbox) -> None:
        ended = await box.run("echo first; seq 1 40000; echo last")
        assert len(ended.output) < LIMIT_BYTES + 100
        assert ended.output.startswith(b"first\n")
        assert ended.output.endswith(b"last\n")
        assert f"{ended.dropped_bytes} bytes left out".encode() in ended.output
        assert ended.full is not None
        assert ended.full.count(b"\n") == 40002

    async def test_a_flood_is_bounded(self, box: Sandbox) -> None:
        ended = await box.run("head -c 64000000 /dev/zero; echo last")
        assert ended.exit_code == 0
        assert ended.dropped_bytes > 60_000_000
        assert ended.full is not None
        assert len(ended.full) < 16 * 1024 * 1024 + 100
        assert ended.full.endswith(b"last\n")

    async def test_bytes_that_are_no_text(self, box: Sandbox) -> None:
        assert (await box.run("printf '\\000\\377\\n'")).output == b"\x00\xff\n"

    # -- ends ---------------------------------------------------------------------------------

    async def test_a_timeout_kills_all_of_it(self, box: Sandbox) -> None:
        mark = f"sleep 98{os.getpid() % 10000:04}.5"
        script = f"trap '' TERM; setsid {mark} & {mark} & echo started; wait"
        ended = await box.run(script, timeout_s=1.0)
        assert (ended.exit_code, ended.killed) == (None, "timeout")
        assert ended.output == b"started\n"
        assert not alive(mark.replace(" ", "\0"))

    async def test_what_a_command_leaves_running_is_killed(self, box: Sandbox) -> None:
        mark = f"sleep 97{os.getpid() % 10000:04}.5"
        ended = await box.run(f"setsid nohup {mark} >/dev/null 2>&1 & disown; echo ok")
        assert ended.exit_code == 0
        assert not alive(mark.replace(" ", "\0"))

    async def test_cancelling_kills_all_of_it_first(self, box: Sandbox) -> None:
        mark = f"sleep 96{os.getpid() % 10000:04}.5"
        started = asyncio.Event()
        script = f"trap '' TERM; setsid {mark} & echo up; {mark}"
        running = asyncio.create_task(box.run(script, on_output=lambda _: started.set()))
        await asyncio.wait_for(started.wait(), SOON_S)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not alive(mark.replace(" ", "\0"))
        assert await self.said(box, "echo next") == "next\n"

    async def test_closing_ends_what_runs(self, box: Sandbox) -> None:
        started = asyncio.Event()
        running = asyncio.create_task(
            box.run("echo up; sleep 95", on_output=lambda _: started.set())
        )
        await asyncio.wait_for(started.wait(), SOON_S)
        await box.close()
        ended: Ended = await running
        assert (ended.killed, ended.exit_code) == ("cancelled", None)
        with pytest.raises(PerdureError):
            await box.run("true")

    # -- snapshots ------------------------------------------------------------------------------

    async def test_back_and_forth(self, box: Sandbox) -> None:
        await box.run("mkdir d; echo 1 >d/f; ln -s d/f link; echo x >gone; cd d; export E=1")
        first = await box.snapshot()
        await box.run("echo 2 >f; chmod 700 f; rm ../gone ../link; mkdir -p n/w; cd n; export E=2")
        second = await box.snapshot()
        assert second != first
        going = await box.rollback(first, dry=True)
        assert await self.said(box, "cat ../f; echo $E") == "2\n2\n"
        second = await box.snapshot()
        gone = await box.rollback(first)
        assert set(going.restored) <= set(gone.restored)
        assert {"d/f", "gone", "link", "d/n"} <= set(gone.restored)
        assert gone.unsure == ()
        assert await self.said(box, "pwd | grep -o 'd$'; cat f ../link; echo $E") == "d\n1\n1\n1\n"
        await box.rollback(second)
        assert await self.said(box, "pwd | grep -o 'd/n$'; cat ../f; echo $E") == "d/n\n2\n2\n"

    async def test_the_same_content_has_the_same_id(self, box: Sandbox) -> None:
        await box.run("echo 1 >f")
        first = await box.snapshot()
        assert await box.snapshot() == first
        await box.run("echo 2 >f")
        await box.rollback(first)
        assert await box.snapshot() == first

    async def test_changes(self, box: Sandbox) -> None:
        await box.run("echo 1 >same; echo 1 >f; echo 1 >gone; chmod 644 f")
        first = await box.snapshot()
        await box.run("echo 2 >f; rm gone; mkdir d; echo new >d/n; touch same; ln -s f l")
        second = await box.snapshot()
        for changes in (await box.changes(first, second), await box.changes(first)):
            found = {c.path: (c.kind, c.before, c.after) for c in changes}
            assert found == {
                "f": ("changed", b"1\n", b"2\n"),
                "gone": ("removed", b"1\n", None),
                "d/n": ("added", None, b"new\n"),
                "l": ("added", None, b"f"),
            }
        assert await box.changes(second, second) == []

    async def test_an_unknown_snapshot(self, box: Sandbox) -> None:
        with pytest.raises(NotFound):
            await box.rollback("snap_" + "0" * 40)

    async def test_a_fork_is_its_own(self, opened: Environments, box: Sandbox) -> None:
        await box.run("echo 1 >f; mkdir d; cd d; export E=1")
        snapshot = await box.snapshot()
        fork = await opened.restore("two", self.spec(), snapshot)
        assert await self.said(fork, "cat ../f; echo $E; echo 2 >../f") == "1\n1\n"
        assert await self.said(box, "cat ../f") == "1\n"
        await fork.close()
        assert snapshot in [name async for name in opened.snapshots()]

    async def test_a_fork_has_the_files_of_its_moment(
        self, opened: Environments, box: Sandbox
    ) -> None:
        await box.run("echo 1 >f; echo 1 >gone; mkdir d; cd d; export E=1")
        then = await box.snapshot()
        await box.run("echo 2 >../f; rm ../gone; echo new >../new; cd ..; export E=2")
        now = await box.snapshot()
        fork = await opened.restore("two", self.spec(), then)
        assert await self.said(fork, 'cat ../f ../gone; echo $E; basename "$PWD"') == "1\n1\n1\nd\n"
        assert await fork.files.list() == ["f", "gone"]
        assert await fork.snapshot() == then, "shell state and all"
        assert await box.snapshot() == now, "the origin was not touched"
        await fork.run("rm ../f; echo there >../there")
        again = await opened.restore("two", self.spec(), then)
        assert await again.files.list() == ["f", "gone"], "made anew, whatever it had"
        assert await box.files.list() == ["f", "new"]
        for each in (fork, again):
            await each.close()

    async def test_what_is_here(self, tmp_path: Path) -> None:
        root = tmp_path / "environments"
        opened = self.environments(root)
        assert not await opened.has("one")
        box = await opened.open("one", self.spec(), "")
        snapshot = await box.snapshot()
        assert await opened.has("one")
        assert not await opened.has("two")
        fork = await opened.restore("two", self.spec(), snapshot)
        for each in (box, fork):
            await each.close()
        assert [await self.environments(root).has(name) for name in ("one", "two")] == [True, True]
        assert not await self.environments(tmp_path / "elsewhere").has("one")
        shutil.rmtree(box.workspace)
        assert not await opened.has("one"), "its files are gone"

    async def test_a_new_process_finds_everything(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "f").write_text("mine\n")
        root = tmp_path / "environments"
        first = await self.environments(root).open("s", self.spec(), str(source))
        assert await self.said(first, "cat f; echo changed >f; export E=1") == "mine\n"
        snapshot = await first.snapshot()
        await first.close()
        second = await self.environments(root).open("s", self.spec(), str(source))
        assert await self.said(second, "cat f; echo $E; rm f") == "changed\n1\n"
        await second.rollback(snapshot)
        assert await second.files.read("f") == b"changed\n"
        assert (source / "f").read_text() == "mine\n", "a copy was asked for"
        await second.close()

    # -- files ------------------------------------------------------------------------------------

    async def test_files_and_commands_see_the_same(self, box: Sandbox) -> None:
        await box.files.write("a/b/c.txt", b"one\n")
        assert await self.said(box, "cat a/b/c.txt; echo two >>a/b/c.txt; chmod 751 a/b/c.txt")
        assert await box.files.read("a/b/c.txt") == b"one\ntwo\n"
        await box.files.write("a/b/c.txt", b"new")
        assert await self.said(box, "cat a/b/c.txt; stat -c ' %a' a/b/c.txt") == "new 751\n"
        assert await box.files.list() == ["a/b/c.txt"]
        assert await box.files.list("a") == ["a/b/c.txt"]

    @pytest.mark.parametrize(
        "path", ["/etc/passwd", "../x", "a/../../x", "up/x", "root/etc/passwd"]
    )
    async def test_no_path_leads_outside(self, box: Sandbox, path: str) -> None:
        await box.run("mkdir a; ln -s .. up; ln -s / root")
        with pytest.raises((Forbidden, InvalidRequest)) as read:
            await box.files.read(path)
        with pytest.raises((Forbidden, InvalidRequest)) as written:
            await box.files.write(path, b"x")
        assert {code_of(read), code_of(written)} == {"E-PATH-OUTSIDE"}

    async def test_links_inside_lead_inside(self, box: Sandbox) -> None:
        await box.run("mkdir d; echo x >d/f; ln -s d/f l; ln -s d dl")
        assert await box.files.read("l") == b"x\n"
        assert await box.files.read("dl/f") == b"x\n"
        with pytest.raises(InvalidRequest) as replaced:
            await box.files.write("l", b"y")
        assert code_of(replaced) == "E-PATH-KIND", "a link is not silently replaced by a file"

    async def test_clear_errors(self, box: Sandbox) -> None:
        await box.run("mkdir d; mkfifo p; head -c 2000 /dev/zero >big")
        cases = {"no": "E-PATH-MISSING", "d": "E-PATH-KIND", "p": "E-PATH-KIND"}
        cases |= {"big": "E-PATH-TOO-BIG", "nul\0": "E-PATH-KIND", "": "E-PATH-KIND"}
        for path, code in cases.items():
            with pytest.raises(PerdureError) as raised:
                await box.files.read(path, limit_bytes=1000)
            assert code_of(raised) == code, path
        for path in ("d", "p", "", ".", "d/.."):
            with pytest.raises(PerdureError) as raised:
                await box.files.write(path, b"x")
            assert code_of(raised) == "E-PATH-KIND", path
