"""What is installed is what is written: the lock is complete, and the wheel carries every file."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

PINNED = re.compile(r"^([a-z0-9._-]+)==\S+( ; .+)? \\$", re.MULTILINE)
NAME = re.compile(r"[A-Za-z0-9._-]+")


def lock_findings(lock: str, wanted: set[str]) -> list[str]:
    """What is wrong with a lock that should pin `wanted`."""
    blocks = re.split(r"\n(?=[a-z0-9])", "\n" + re.sub(r"(?m)^ *#.*\n", "", lock))
    pinned = {found[1] for block in blocks if (found := PINNED.match(block))}
    unhashed = [b for b in blocks if b.strip() and "--hash=sha256:" not in b]
    options = re.findall(r"(?m)^--?\w.*$|\w+://.*$", lock)
    return [*sorted(wanted - pinned), *unhashed, *options]


def wanted_packages() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    return {found[0].lower() for line in lines if (found := NAME.match(line))}


def test_the_lock_pins_and_hashes_everything() -> None:
    lock = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    assert not lock_findings(lock, wanted_packages())


@pytest.mark.parametrize(
    ("lock", "finding"),
    [
        ("a==1 \\\n    --hash=sha256:00\n", "b"),
        ("a==1\nb==1 \\\n    --hash=sha256:00\n", "a"),
        (
            "--index-url x\na==1 \\\n    --hash=sha256:00\nb==1 \\\n    --hash=sha256:00\n",
            "--index",
        ),
        ("a @ git+https://x/y \\\n    --hash=sha256:00\nb==1 \\\n    --hash=sha256:00\n", "a"),
    ],
)
def test_a_hole_in_the_lock_is_found(lock: str, finding: str) -> None:
    assert any(each.startswith(finding) for each in lock_findings(lock, {"a", "b"}))


@pytest.mark.slow
def test_the_wheel_carries_every_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    written = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "perdure").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as carried:
        assert not written - set(carried.namelist())
