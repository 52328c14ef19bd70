"""Random directory trees with every nasty case, and a description that makes two comparable."""

# Paths are bytes here, which pathlib cannot hold: names need not be text.
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH112, PTH114, PTH115, PTH123, PTH208, PTH211

import os
import stat
from pathlib import Path

from hypothesis import strategies as st

Leaf = tuple[str, bytes, int, int]
"""kind ("f", "l", "p"), content or target, mode, modification time in seconds."""
Node = Leaf | dict[bytes, "Node"]
Description = dict[bytes, tuple[str, int, bytes, int]]

NASTY_NAMES = (
    b"plain.txt",
    b"two words",
    b"new\nline",
    b"\xff\xfe not utf-8",
    b"-rf",
    b"*?[a]",
    b"'\"$(touch x)`",
    b".git",
    b".hidden",
    "grüße-世界".encode(),
    b"x" * 200,
)
names = st.sampled_from(NASTY_NAMES) | st.binary(min_size=1, max_size=12).filter(
    lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name
)
files = st.tuples(
    st.just("f"),
    st.sampled_from([b"", b"a", b"a\r\nb\0\xff", b"same"]) | st.binary(max_size=300),
    st.sampled_from([0o644, 0o600, 0o755, 0o444, 0o000]),
    st.integers(0, 2**31),
)
links = st.tuples(
    st.just("l"),
    st.sampled_from([b"plain.txt", b"/etc/passwd", b"..", b"nowhere", b"\xff", b"."]),
    st.just(0o777),
    st.just(0),
)
fifos = st.tuples(st.just("p"), st.just(b""), st.sampled_from([0o600, 0o644]), st.just(0))
leaves = files | links | fifos
trees: st.SearchStrategy[dict[bytes, Node]] = st.dictionaries(
    names,
    st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=8),
    max_size=6,
)


def plant(folder: bytes, tree: dict[bytes, Node]) -> None:
    """Make what `tree` says in a directory, replacing what is in the way."""
    for name, node in tree.items():
        path = folder + b"/" + name
        clear(path)
        if isinstance(node, dict):
            os.mkdir(path)
            plant(path, node)
            continue
        kind, data, mode, mtime = node
        if kind == "l":
            os.symlink(data, path)
        elif kind == "p":
            os.mkfifo(path, mode)
            os.chmod(path, mode)
        else:
            with open(path, "wb") as file:
                file.write(data)
            os.chmod(path, mode)
            os.utime(path, (mtime, mtime))


def clear(path: bytes) -> None:
    """Remove whatever is at a path."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
        for name in os.listdir(path):
            clear(path + b"/" + name)
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def describe(root: Path) -> Description:
    """Return everything that a snapshot keeps: kinds, modes, contents, times of files."""
    found: Description = {}
    _describe(os.fsencode(root), b"", found)
    return found


def _describe(folder: bytes, path: bytes, found: Description) -> None:
    for name in sorted(os.listdir(folder)):
        here, shown = folder + b"/" + name, path + b"/" + name
        info = os.lstat(here)
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            found[shown] = ("d", mode, b"", 0)
            _describe(here, shown, found)
        elif stat.S_ISLNK(info.st_mode):
            found[shown] = ("l", 0, os.readlink(here), 0)
        elif stat.S_ISREG(info.st_mode):
            found[shown] = ("f", mode, _content(here, mode), info.st_mtime_ns)
        elif stat.S_ISFIFO(info.st_mode):
            found[shown] = ("p", mode, b"", 0)


def _content(path: bytes, mode: int) -> bytes:
    if not mode & 0o400 and os.geteuid() != 0:
        return b"unreadable"
    with open(path, "rb") as file:
        return file.read()
