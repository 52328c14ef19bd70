"""Paths: nothing that a workspace does to its links leads a read or a write outside."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from perdure.core.errors import Forbidden, PerdureError
from perdure.environments.beneath import Beneath, Open, open_beneath, open_by_steps

FLIPPER = Path(__file__).with_name("flipper.py")
RACE_S = 2.0
OPENERS = [open_beneath, open_by_steps]


class Ground:
    """A workspace and something outside it that nobody may touch."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.outside = folder / "outside"
        self.work.mkdir()
        self.outside.mkdir()
        (self.outside / "f").write_text("secret")

    def files(self, opener: Open | None = None) -> Beneath:
        return Beneath(lambda: os.open(self.work, os.O_RDONLY), opener=opener)

    def touched(self) -> bool:
        names = [path.name for path in self.outside.iterdir()]
        return names != ["f"] or not self.leaked((self.outside / "f").read_bytes())

    @staticmethod
    def leaked(data: bytes) -> bool:
        return data == b"secret"

    @contextmanager
    def flipping(self, seconds: float = RACE_S) -> Iterator["subprocess.Popen[bytes]"]:
        words = [sys.executable, "-S", str(FLIPPER), str(self.work), str(self.outside)]
        with subprocess.Popen([*words, str(seconds)], stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            agent.stdout.readline()
            yield agent
            agent.kill()


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def naive(work: Path) -> tuple[Callable[[], bytes], Callable[[], None]]:
    """The check that looks right and is not: resolve, compare, then open by name."""

    def inside(path: Path) -> Path:
        if not path.resolve().is_relative_to(work.resolve()):
            raise OSError("outside")
        return path

    def read() -> bytes:
        return inside(work / "d" / "f").read_bytes()

    def write() -> None:
        inside(work / "d").joinpath("new").write_bytes(b"x")

    return read, write


def test_the_naive_check_escapes(ground: Ground) -> None:
    """The control: if this stops failing, the race below proves nothing any more."""
    read, write = naive(ground.work)
    with ground.flipping(10.0) as agent:
        escaped = False
        while not escaped and agent.poll() is None:
            for work in (read, write):
                with suppress(OSError):
                    escaped |= ground.leaked(work() or b"")
            escaped |= (ground.outside / "new").exists()
    assert escaped


@pytest.mark.parametrize("opener", OPENERS)
async def test_no_race_leads_outside(ground: Ground, opener: Open) -> None:
    files = ground.files(opener)
    tries, fine = 0, 0
    with ground.flipping() as agent:
        while agent.poll() is None:
            for work in (files.read("d/f"), files.write("d/new", b"x"), files.write("d/f", b"x")):
                tries += 1
                fine += await attempt(ground, work)
    assert not ground.touched()
    assert tries > 500
    assert fine > 20, "it must also work now and then, or nothing was tried"


async def attempt(ground: Ground, work: Awaitable[bytes | None]) -> bool:
    try:
        data = await work
    except PerdureError as error:
        if not error.code.startswith("E-PATH-"):
            raise
        return False
    assert not ground.leaked(data or b"")
    return True


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "..",
        "../outside/f",
        "a/../../outside/f",
        "out/f",
        "a/out/f",
        "proc/self/root",
    ],
)
async def test_plain_ways_out(ground: Ground, opener: Open, path: str) -> None:
    (ground.work / "a").mkdir()
    (ground.work / "out").symlink_to(ground.outside)
    (ground.work / "a" / "out").symlink_to("../../outside")
    (ground.work / "proc").symlink_to("/proc")
    files = ground.files(opener)
    for work in (files.read(path), files.write(path, b"x"), files.list(path)):
        with pytest.raises(PerdureError) as raised:
            await work
        assert raised.value.code in ("E-PATH-OUTSIDE", "E-PATH-KIND")
    assert not ground.touched()


async def test_a_fifo_does_not_hang(ground: Ground) -> None:
    os.mkfifo(ground.work / "p")
    with pytest.raises(PerdureError, match="E-PATH-KIND"):
        await asyncio.wait_for(ground.files().read("p"), 5)


async def test_hidden_and_read_only_directories(ground: Ground) -> None:
    for name in ("store", "venv", "own"):
        (ground.work / name).mkdir()
        (ground.work / name / "f").write_text("x")
    (ground.work / "own" / "l").symlink_to("../store/f")
    files = Beneath(
        lambda: os.open(ground.work, os.O_RDONLY),
        hidden=(ground.work / "store",),
        read_only=(ground.work / "venv",),
    )
    assert await files.list() == ["own/f", "own/l", "venv/f"]
    assert await files.read("venv/f") == b"x"
    for path in ("store/f", "own/l", "own/../store/f"):
        with pytest.raises(Forbidden, match="E-PATH-DENIED"):
            await files.read(path)
    for path in ("store/new", "venv/f", "venv/new/f", "own/../venv/f"):
        with pytest.raises(Forbidden, match="E-PATH-DENIED"):
            await files.write(path, b"y")


async def test_absolute_paths_of_the_mount_are_understood(ground: Ground) -> None:
    files = Beneath(lambda: os.open(ground.work, os.O_RDONLY), mount="/workspace")
    await files.write("/workspace/a/f", b"1")
    assert await files.read("/workspace/a/f") == b"1"
    assert await files.list("/workspace") == ["a/f"]
    for path in ("/workspace/../etc/passwd", "/workspaces/f", "/workspace//etc/../../etc"):
        with pytest.raises(PerdureError):
            await files.read(path)


async def test_a_failed_write_leaves_the_old_file(ground: Ground) -> None:
    files = ground.files()
    await files.write("f", b"old")
    (ground.work / "d").mkdir()
    with pytest.raises(PerdureError):
        await files.write("d", b"new")
    assert await files.read("f") == b"old"
    assert await files.list() == ["f"], "no temporary file is left"
