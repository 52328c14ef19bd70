"""Snapshots: whatever a tree holds comes back equal, and damage is named, never restored."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from perdure.core.errors import InvalidRequest, NotFound
from perdure.environments.scan import Cache
from perdure.environments.snapshots import Snapshots, Target
from perdure.ports.sandbox import CorruptSnapshot
from tests.environments.trees import Node, clear, describe, plant, trees

MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Place:
    """A store and a workspace, without any sandbox."""

    def __init__(self, folder: Path, exclude: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()
        self.store = Snapshots(folder / "store")
        self.exclude = exclude
        self.cache: Cache = {}

    @contextmanager
    def target(self, limit_bytes: int = 2**40) -> Iterator[Target]:
        fd = os.open(self.work, os.O_RDONLY)
        try:
            yield Target(fd, self.cache, self.exclude, limit_bytes)
        finally:
            os.close(fd)

    def take(self, shell: bytes = b"") -> str:
        with self.target() as target:
            name, self.cache, _ = self.store.take(target, shell)
        return name

    def back(self, name: str) -> list[bytes]:
        with self.target() as target:
            restored, unsure, _ = self.store.restore(target, name, sure=lambda _: True, dry=False)
        assert not unsure
        return restored

    def packs(self) -> list[Path]:
        return sorted((self.folder / "store").glob("*.pack"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@MANY
@given(first=trees, second=trees)
def test_any_tree_comes_back(first: dict[bytes, Node], second: dict[bytes, Node]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        plant(os.fsencode(place.work), first)
        before = describe(place.work)
        name = place.take(b"shell")
        assert place.take(b"shell") == name
        plant(os.fsencode(place.work), second)
        after = describe(place.work)
        later = place.take()
        place.back(name)
        assert describe(place.work) == before
        assert place.take(b"shell") == name, "what was restored is the same snapshot"
        place.back(later)
        assert describe(place.work) == after
        assert place.store.verify() == []
        clear(os.fsencode(place.work))


@MANY
@given(tree=trees)
def test_any_tree_is_made_anew(tree: dict[bytes, Node]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        plant(os.fsencode(place.work), tree)
        name, before = place.take(), describe(place.work)
        clear(os.fsencode(place.work))
        place.work.mkdir()
        place.cache = {}
        place.store = Snapshots(Path(folder) / "store")
        place.back(name)
        assert describe(place.work) == before
        clear(os.fsencode(place.work))


def test_only_what_differs_is_touched(place: Place) -> None:
    for i in range(20):
        (place.work / f"f{i}").write_text(str(i))
    name = place.take()
    times = {p.name: p.stat().st_ctime_ns for p in place.work.iterdir()}
    (place.work / "f3").write_text("else")
    assert place.back(name) == [b"f3"]
    touched = [p.name for p in place.work.iterdir() if p.stat().st_ctime_ns != times[p.name]]
    assert touched == ["f3"]


def test_an_edit_within_the_same_instant_is_seen(place: Place) -> None:
    """Same size, same inode, perhaps the same time stamp: only reading it again can tell."""
    path = place.work / "f"
    for i in range(300):
        path.write_text(f"{i:05}")
        name = place.take()
        time_ns = path.stat().st_mtime_ns
        path.write_text(f"{i:05}"[::-1] + "")
        os.utime(path, ns=(time_ns, time_ns))
        place.back(name)
        assert path.read_text() == f"{i:05}"


def test_a_tree_with_git_and_ignored_files_is_kept_whole(place: Place) -> None:
    (place.work / ".gitignore").write_text("build/\n.env\n")
    (place.work / "build").mkdir()
    (place.work / "build" / "out").write_text("derived")
    (place.work / ".env").write_text("SECRET=1")
    hooks = place.work / "nested" / ".git"
    hooks.mkdir(parents=True)
    (hooks / "config").write_text('[core]\n\tfsmonitor = "touch PWNED"\n')
    name, before = place.take(), describe(place.work)
    clear(os.fsencode(place.work))
    place.work.mkdir()
    place.back(name)
    assert describe(place.work) == before
    assert not list(place.folder.rglob("PWNED"))


def test_big_files_share_their_pieces(place: Place) -> None:
    path = place.work / "big"
    path.write_bytes(os.urandom(20 * 1024 * 1024))
    first = place.take()
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(10_000_000)
        file.write(b"!")
    second = place.take()
    pack = place.folder / "store" / f"{second}.pack"
    assert pack.stat().st_size < 9 * 1024 * 1024
    place.back(first)
    assert path.read_bytes() == content


def test_excluded_paths_are_left_alone(tmp_path: Path) -> None:
    place = Place(tmp_path, exclude=("node_modules", "out/*.o"))
    (place.work / "node_modules").mkdir()
    (place.work / "node_modules" / "m").write_text("1")
    (place.work / "out").mkdir()
    (place.work / "out" / "x.o").write_text("1")
    (place.work / "out" / "x.c").write_text("1")
    name = place.take()
    (place.work / "node_modules" / "m").write_text("2")
    (place.work / "out" / "x.o").unlink()
    (place.work / "out" / "x.c").write_text("2")
    place.exclude = ()  # the snapshot itself remembers what it did not look at
    assert place.back(name) == [b"out/x.c"]
    assert (place.work / "node_modules" / "m").read_text() == "2"


def test_setuid_is_dropped_and_sockets_are_passed_over(place: Place) -> None:
    tool = place.work / "tool"
    tool.write_text("x")
    tool.chmod(0o4755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.work / "socket"))
        name = place.take()
        tool.unlink()
        place.back(name)
    assert stat.S_IMODE(tool.stat().st_mode) == 0o755
    assert (place.work / "socket").is_socket()


def test_a_link_to_outside_is_not_followed(place: Place) -> None:
    outside = place.folder / "outside"
    outside.mkdir()
    (outside / "f").write_text("theirs")
    (place.work / "d").mkdir()
    (place.work / "d" / "f").write_text("mine")
    name = place.take()
    clear(os.fsencode(place.work / "d"))
    (place.work / "d").symlink_to(outside)
    place.back(name)
    assert not (place.work / "d").is_symlink()
    assert (place.work / "d" / "f").read_text() == "mine"
    assert (outside / "f").read_text() == "theirs"


def test_limits_are_said_clearly(place: Place) -> None:
    (place.work / "f").write_bytes(b"x" * 2000)
    with place.target(limit_bytes=1000) as target, pytest.raises(InvalidRequest, match="SIZE"):
        place.store.take(target, b"")
    deep = place.work
    for _ in range(300):
        deep /= "d"
    deep.mkdir(parents=True)
    with place.target() as target, pytest.raises(InvalidRequest, match="DEPTH"):
        place.store.take(target, b"")
    assert place.packs() == []
    assert not list((place.folder / "store").iterdir()), "a failed snapshot leaves nothing"


def test_every_flipped_byte_is_found(place: Place) -> None:
    """One snapshot, damaged at each byte in turn: restored right or refused, never wrong."""
    (place.work / "d").mkdir()
    (place.work / "d" / "f").write_bytes(bytes(range(256)))
    name, before = place.take(b"state"), describe(place.work)
    (pack,) = place.packs()
    good = pack.read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x10
        pack.write_bytes(bad)
        place.store = Snapshots(place.folder / "store")
        place.cache = {}
        assert place.store.verify(), at
        (place.work / "d" / "f").write_bytes(b"now")
        with pytest.raises(CorruptSnapshot) as raised:
            place.back(name)
        assert "snap_" in raised.value.message
        assert (place.work / "d" / "f").read_bytes() == b"now", "nothing was touched"
    pack.write_bytes(good)
    place.store = Snapshots(place.folder / "store")
    place.back(name)
    assert describe(place.work).keys() == before.keys()


def test_every_torn_pack_is_found_and_healed(place: Place) -> None:
    (place.work / "f").write_text("1")
    name = place.take()
    (pack,) = place.packs()
    good = pack.read_bytes()
    for length in range(len(good)):
        pack.write_bytes(good[:length])
        place.store = Snapshots(place.folder / "store")
        assert any(pack.name in line for line in place.store.verify())
        with pytest.raises(CorruptSnapshot, match=name):
            place.back(name)
    place.cache = {}
    assert place.take() == name, "taking it again replaces the torn pack"
    assert Snapshots(place.folder / "store").verify() == []


def test_a_missing_snapshot_and_foreign_files(place: Place) -> None:
    (place.folder / "store" / "snap_zz.pack").write_bytes(b"")
    (place.folder / "store" / "notes.txt").write_text("hello")
    place.store = Snapshots(place.folder / "store")
    with pytest.raises(NotFound):
        place.back("snap_" + "ab" * 20)
    with pytest.raises(NotFound):
        place.back("../../etc")
    assert "snap_zz" in place.store.verify()[0]


KILLED = """
import os, sys
from pathlib import Path
from tests.environments.test_snapshots import Place
place = Place(Path(sys.argv[1]))
print("ready", flush=True)
for i in range(100_000):
    for j in range(30):
        (place.work / f"f{j}").write_bytes(os.urandom(20_000))
    print(place.take(b"%d" % i), flush=True)
"""


@pytest.mark.parametrize("lines", range(2, 12))
def test_killed_at_any_moment_the_store_is_whole(tmp_path: Path, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        seen = [victim.stdout.readline().strip() for _ in range(lines)]
        victim.send_signal(signal.SIGKILL)
        seen += victim.stdout.read().split()
    store = Snapshots(tmp_path / "store")
    assert store.verify() == []
    told = [line for line in seen if line.startswith("snap_") and len(line) == 45]
    assert len(told) >= lines - 1
    assert set(told) <= set(store.ids()), "what was told is durable"
