"""Workspaces on the node that takes over: what one machine stored, another makes anew."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import CorruptJournal, NotFound, PerdureError, Unavailable
from perdure.environments.depot import FRESH_US, PARTED, Depot
from perdure.environments.packing import PACKS_MAX
from perdure.environments.process import Process
from perdure.ports.sandbox import CorruptSnapshot, Sandbox
from perdure.stores.memory_docs import Docs
from perdure.stores.system import SystemClock
from perdure.testing.broken_depots import PushesWhatIsNew, TrustsNotes
from perdure.testing.store_harness import refused
from tests.environments.nodes import SPEC, Shared, taken_over
from tests.environments.trees import Node, clear, describe, plant, trees

MANY = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


async def did(box: Sandbox, script: str) -> str:
    ended = await box.run(script)
    assert ended.exit_code == 0, ended.output
    return await box.snapshot()


async def said(box: Sandbox, script: str) -> str:
    return (await box.run(script)).output.decode()


@MANY
@given(tree=trees)
def test_any_tree_is_the_same_on_another_machine(tree: dict[bytes, Node]) -> None:
    async def there(folder: Path) -> None:
        shared = Shared(folder)
        first = await shared.node("a").open("s", SPEC, "")
        plant(os.fsencode(first.workspace), tree)
        snapshot = await first.snapshot()
        second = await taken_over(shared.node("b"), snapshot)
        assert describe(Path(second.workspace)) == describe(Path(first.workspace))
        assert await second.snapshot() == snapshot
        clear(os.fsencode(first.workspace))
        clear(os.fsencode(second.workspace))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(there(Path(folder)))


async def test_many_files_are_few_requests_and_a_change_is_one(shared: Shared) -> None:
    box = await shared.node("a").open("s", SPEC, "")
    for i in range(7000):
        path = Path(box.workspace, f"d{i % 70}", f"f{i}.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"print({i})\n" * 20)
    first = await box.snapshot()
    assert len(shared.blobs.put_bytes) == 1
    shared.blobs.put_bytes.clear()
    second = await did(box, "echo changed >d3/f3.py")
    assert len(shared.blobs.put_bytes) == 1
    assert shared.blobs.put_bytes[0] < 10_000
    assert await box.snapshot() == second
    assert len(shared.blobs.put_bytes) == 1, "what is there is not pushed again"
    node = shared.node("b")
    there = await taken_over(node, second)
    assert shared.blobs.gets == 2
    assert describe(Path(there.workspace)) == describe(Path(box.workspace))
    await there.rollback(first)
    assert await there.files.read("d3/f3.py") == b"print(3)\n" * 20
    assert shared.blobs.gets == 2, "what was fetched once is here"


async def test_a_big_file_goes_in_parts(shared: Shared) -> None:
    box = await shared.node("a").open("s", SPEC, "")
    big = Random(0).randbytes(20 * 1024 * 1024)
    Path(box.workspace, "big").write_bytes(big)
    snapshot = await box.snapshot()
    assert max(shared.blobs.put_bytes) <= 8 * 1024 * 1024
    [kept] = shared.manifest(snapshot).packs
    assert kept.parts == 3
    there = await taken_over(shared.node("b"), snapshot)
    assert await there.files.read("big", limit_bytes=2**30) == big
    other = await taken_over(shared.node("b"), snapshot, "another")
    assert await other.files.read("big", limit_bytes=2**30) == big


async def test_after_many_steps_a_snapshot_lies_in_few_packs(shared: Shared) -> None:
    node = shared.node("a")
    box = await node.open("s", SPEC, "")
    Path(box.workspace, "ballast").write_bytes(Random(0).randbytes(200_000))
    snapshot = ""
    for step in range(PACKS_MAX * 3):
        Path(box.workspace, f"f{step}").write_bytes(Random(step).randbytes(2000))
        snapshot = await box.snapshot()
        assert len(shared.manifest(snapshot).packs) <= PACKS_MAX + 1, step
    content = 200_000 + 2000 * PACKS_MAX * 3
    assert sum(shared.blobs.put_bytes) < 4 * content, "what is brought together again is bounded"
    there = await taken_over(shared.node("b"), snapshot)
    assert describe(Path(there.workspace)) == describe(Path(box.workspace))
    assert shared.blobs.gets <= PACKS_MAX + 1
    again = await shared.node("a").open("s", SPEC, "")
    Path(again.workspace, "last").write_text("x")
    shared.blobs.put_bytes.clear()
    await again.snapshot()
    assert sum(shared.blobs.put_bytes) < 20_000, "a new process knows what is there"


async def test_little_of_another_session_is_fetched(shared: Shared) -> None:
    node = shared.node("a")
    theirs = await node.open("theirs", SPEC, "")
    Path(theirs.workspace, "secret").write_bytes(Random(1).randbytes(1_000_000))
    Path(theirs.workspace, "same").write_bytes(Random(2).randbytes(1000))
    await theirs.snapshot()
    ours = await node.open("ours", SPEC, "")
    Path(ours.workspace, "same").write_bytes(Random(2).randbytes(1000))
    snapshot = await ours.snapshot()
    assert sum(kept.size for kept in shared.manifest(snapshot).packs) < 10_000


async def test_shell_state_comes_along(shared: Shared) -> None:
    box = await shared.node("a").open("s", SPEC, "")
    snapshot = await did(box, "mkdir deep; cd deep; export WORD='two words'")
    there = await taken_over(shared.node("b"), snapshot)
    assert await said(there, 'basename "$PWD"; echo "$WORD"') == "deep\ntwo words\n"


async def test_who_comes_back_does_not_go_on_with_what_it_left(shared: Shared) -> None:
    a, b = shared.node("a"), shared.node("b")
    one = await did(await a.open("s", SPEC, ""), "echo 1 >f; echo gone >g")
    there = await taken_over(b, one)
    two = await did(there, "echo 2 >f; rm g; echo new >n")
    back = await taken_over(shared.node("a"), two)
    assert await back.files.list() == ["f", "n"]
    assert await back.files.read("f") == b"2\n"
    assert await back.snapshot() == two


async def test_what_was_begun_and_never_finished_is_taken_back(shared: Shared) -> None:
    """Also where the journal has come back to the very snapshot that was left."""
    box = await shared.node("a").open("s", SPEC, "")
    one = await did(box, "echo 1 >f")
    await box.run("echo half >f; echo more >g")  # and here its process died
    assert not await shared.node("a").has("s", one)
    back = await taken_over(shared.node("a"), one)
    assert await back.files.list() == ["f"]
    await back.files.write("f", b"by hand")
    assert not await shared.node("a").has("s", one)


async def test_what_is_whole_is_not_made_anew(shared: Shared) -> None:
    spec = msgspec.structs.replace(SPEC, exclude=("cache",))
    box = await shared.node("a").open("s", spec, "")
    one = await did(box, "echo 1 >f; mkdir cache; echo dear >cache/c")
    node = shared.node("a")
    assert await node.has("s", one)
    two = await did(await node.open("s", spec, ""), "echo 2 >f")
    await box.close()
    back = await shared.node("a").restore("s", spec, one)
    assert await back.files.read("f") == b"1\n"
    assert await back.files.read("cache/c") == b"dear\n", "what is excluded is left alone"
    assert await taken_over(shared.node("b"), two) is not None


async def test_a_copy_begins_where_its_source_is(shared: Shared, tmp_path: Path) -> None:
    source = tmp_path / "project"
    source.mkdir()
    (source / "f").write_text("from afar")
    box = await shared.node("a").open("s", SPEC, str(source))
    snapshot = await box.snapshot()
    shutil.rmtree(source)
    there = await taken_over(shared.node("b"), snapshot)
    assert await there.files.read("f") == b"from afar"
    error = await refused(Unavailable, shared.node("b").open("new", SPEC, str(source)))
    assert error.code == "E-SANDBOX-ELSEWHERE"
    assert str(source) in error.message


async def test_a_directory_worked_on_itself_is_not_left(shared: Shared, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    spec = EnvironmentSpec(kind="process", in_place=True, timeout_s=20.0)
    box = await shared.node("a").open("s", spec, str(project))
    snapshot = await did(box, "echo mine >f")
    b = shared.node("b")
    assert not await b.has("s", snapshot)
    error = await refused(Unavailable, b.restore("s", spec, snapshot))
    assert error.code == "E-SANDBOX-ELSEWHERE"
    assert "perdure fork s" in error.hint
    assert await shared.node("a").has("s", snapshot), "where it is, it goes on"
    fork = await b.restore("fork", msgspec.structs.replace(spec, in_place=False), snapshot)
    assert await fork.files.read("f") == b"mine\n"


async def test_files_and_changes_are_shown_where_they_were_not_made(shared: Shared) -> None:
    box = await shared.node("a").open("s", SPEC, "")
    one = await did(box, "echo 1 >f")
    two = await did(box, "echo 2 >f")
    b = shared.node("b")
    assert [file.path for file in await b.stored(one)] == ["f"]
    assert [piece async for piece in b.stored_file(two, "f")] == [b"2\n"]
    there = await taken_over(shared.node("c"), two)
    [change] = await there.changes(one, two)
    assert (change.before, change.after) == (b"1\n", b"2\n")


async def test_what_is_nowhere_is_named(shared: Shared) -> None:
    error = await refused(NotFound, shared.node("b").restore("s", SPEC, "snap_" + "0" * 40))
    assert error.code == "E-SNAPSHOT-MISSING"
    box = await shared.node("a").open("s", SPEC, "")
    snapshot = await did(box, "echo 1 >f")
    shared.blobs.forget()
    lost = await refused(CorruptJournal, shared.node("b").restore("s", SPEC, snapshot))
    assert lost.code == "E-BLOB-MISSING"
    assert not list((shared.folder / "b" / "snapshots").glob("tmp-*"))


async def test_a_depot_that_cannot_be_written_gives_no_snapshot(shared: Shared) -> None:
    box = await shared.node("a").open("s", SPEC, "")
    await box.run("echo 1 >f")
    shared.blobs.away = True
    await refused(Unavailable, box.snapshot())
    assert shared.disk.docs.kept == {}
    shared.blobs.away = False
    there = await taken_over(shared.node("b"), await box.snapshot())
    assert await there.files.read("f") == b"1\n"


async def test_snapshots_of_one_machine_are_brought_along_by_copying_them(shared: Shared) -> None:
    alone = Process(shared.folder / "alone", SystemClock(), allow=True)
    old = await did(await alone.open("s", SPEC, ""), "echo old >f")
    await refused(NotFound, shared.node("b").restore("s", SPEC, old))
    shutil.copytree(
        shared.folder / "alone/snapshots", shared.folder / "a/snapshots", dirs_exist_ok=True
    )
    box = await taken_over(shared.node("a"), old)
    assert await box.files.read("f") == b"old\n"
    new = await did(box, "echo new >g")
    assert await shown(shared, new) is None, "from here on every node has it"


async def shown(shared: Shared, snapshot: str) -> PerdureError | None:
    """Return what a machine meets that has nothing of its own."""
    try:
        box = await shared.node("fresh").restore("s", SPEC, snapshot)
    except (CorruptSnapshot, CorruptJournal, NotFound) as error:
        return error
    assert await box.files.list() == ["f", "g"]
    return None


@pytest.mark.parametrize("depot", [Depot, PushesWhatIsNew])
async def test_what_a_snapshot_builds_on_is_there_too(tmp_path: Path, depot: type[Depot]) -> None:
    shared = Shared(tmp_path, depot)
    box = await shared.node("a").open("s", SPEC, "")
    await did(box, "echo old >f")
    snapshot = await did(box, "echo new >g")
    assert (await shown(shared, snapshot) is None) == (depot is Depot)


@pytest.mark.parametrize("depot", [Depot, TrustsNotes])
async def test_what_was_collected_meanwhile_is_put_again(
    tmp_path: Path, depot: type[Depot]
) -> None:
    """A session was deleted and collected, and another one here holds the same files."""
    shared = Shared(tmp_path, depot)
    node = shared.node("a")
    old = await node.open("old", SPEC, "")
    await did(old, "echo old >f")
    shared.blobs.forget()
    shared.disk.docs = Docs()
    shared.clock.us += FRESH_US + 1
    box = await node.open("s", SPEC, "")
    snapshot = await did(box, "echo old >f; echo new >g")
    assert (await shown(shared, snapshot) is None) == (depot is Depot)


async def test_a_store_from_a_backup_is_not_taken_for_what_it_was(shared: Shared) -> None:
    box = await shared.node("a").open("s", SPEC, "")
    await did(box, "echo old >f")
    shared.blobs.forget()
    shared.disk.docs = Docs()
    box = await shared.node("a").open("s", SPEC, "")
    assert await shown(shared, await did(box, "echo new >g")) is None


async def test_the_parts_of_a_large_pack_are_named_where_a_copy_finds_them(shared: Shared) -> None:
    """Whoever copies a store follows the digests in its documents, and no others."""
    box = await shared.node("a").open("s", SPEC, "")
    Path(box.workspace, "big").write_bytes(Random(0).randbytes(9 * 1024 * 1024))
    Path(box.workspace, "small").write_bytes(b"x")
    await did(box, "echo new >g")
    texts = b"".join(data or b"" for _, data in shared.disk.docs.kept.values())
    assert all(f'"{digest}"'.encode() in texts for digest in shared.blobs.digests())
    assert [kind for kind, _ in shared.disk.docs.kept].count(PARTED) == 1
