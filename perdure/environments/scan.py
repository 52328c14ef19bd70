"""Reading a workspace into tree objects, without ever following a link.

Every directory is opened relative to its parent with O_NOFOLLOW, so whoever swaps a directory for
a link while we look gains nothing. A file that has not changed since the last scan (same time of
change, size and inode) is not read again; one that changed less than 20 ms before the scan began
is, because a later write could leave the same time stamp. Sockets and devices are passed over.
Blocking: call from a thread.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Final, Protocol

from perdure.core.errors import InvalidRequest
from perdure.environments import trees
from perdure.environments.trees import Entry

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_RACY_NS: Final = 20_000_000
_DEPTH_MAX: Final = 240
_READ_TRIES: Final = 3

Seen = tuple[int, int, int, int]
"""What tells that a file is the one seen before: mtime, ctime, size, inode."""
Cache = dict[bytes, tuple[Seen, tuple[bytes, ...]]]
"""Path to what was seen and the digests of its pieces."""


class Objects(Protocol):
    """Where the objects of a scan go."""

    def has(self, digest: bytes) -> bool: ...

    def put(self, digest: bytes, data: bytes) -> None: ...


class Notes:
    """Keeps trees in memory and forgets file content: for a scan that is not to be stored."""

    def __init__(self) -> None:
        self.trees: dict[bytes, bytes] = {}

    def has(self, digest: bytes) -> bool:
        return True

    def put(self, digest: bytes, data: bytes) -> None:
        if trees.tree_digest(data) == digest:
            self.trees[digest] = data


class Scan:
    """One walk over one workspace.

    `exclude` are globs over names and over paths relative to the workspace; what they match is
    neither read nor, later, restored. `limit_bytes` bounds the sum of all file sizes.
    """

    def __init__(
        self, into: Objects, cache: Cache, *, exclude: tuple[str, ...] = (), limit_bytes: int
    ) -> None:
        self._into = into
        self._old = cache
        self._exclude = exclude
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._started_ns = 0
        self.cache: Cache = {}

    def run(self, root_fd: int) -> bytes:
        """Return the digest of the tree below `root_fd`; `self.cache` is for the next scan.

        Raises `InvalidRequest` (E-WORKSPACE-SIZE, E-WORKSPACE-DEPTH).
        """
        # The file system's own clock is the wall clock; an injected one would not match it.
        self._started_ns = time.time_ns()
        fd = os.open(".", _FOLDER, dir_fd=root_fd)
        try:
            return self._folder(fd, b"", 0)
        finally:
            os.close(fd)

    def _folder(self, fd: int, path: bytes, depth: int) -> bytes:
        if depth > _DEPTH_MAX:
            raise InvalidRequest(
                "E-WORKSPACE-DEPTH",
                f"The workspace is nested deeper than {_DEPTH_MAX} directories.",
                "Remove the deep directory, or exclude it from snapshots.",
            )
        with os.scandir(fd) as listing:
            found = [(os.fsencode(e.name), e.stat(follow_symlinks=False)) for e in listing]
        entries: list[Entry] = []
        for name, info in found:  # a plain loop: each frame counts in a deep tree
            entry = self._entry(fd, name, info, path, depth)
            if entry is not None:
                entries.append(entry)
        data = trees.encode_tree(entries)
        digest = trees.tree_digest(data)
        self._into.put(digest, data)
        return digest

    def _entry(
        self, fd: int, name: bytes, info: os.stat_result, parent: bytes, depth: int
    ) -> Entry | None:
        path = parent + b"/" + name if parent else name
        if self._exclude and is_excluded(path, self._exclude):
            return None
        mode = stat.S_IMODE(info.st_mode) & 0o1777
        try:
            match stat.S_IFMT(info.st_mode):
                case stat.S_IFREG:
                    return self._file(fd, name, info, path)
                case stat.S_IFDIR:
                    with opened(fd, name, _FOLDER, 0o700) as inner:
                        tree = self._folder(inner, path, depth + 1)
                    return Entry(name, trees.DIRECTORY, mode, parts=(tree,))
                case stat.S_IFLNK:
                    target = os.readlink(name, dir_fd=fd)
                    return Entry(name, trees.LINK, 0o777, target=target)
                case stat.S_IFIFO:
                    return Entry(name, trees.FIFO, mode)
                case _:
                    return None
        except OSError as error:
            # It vanished, or became something else, between the listing and now.
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ENXIO):
                return None
            raise

    def _file(self, fd: int, name: bytes, info: os.stat_result, path: bytes) -> Entry | None:
        self._bytes += info.st_size
        if self._bytes > self._limit_bytes:
            raise InvalidRequest(
                "E-WORKSPACE-SIZE",
                f"The workspace holds more than {self._limit_bytes} bytes.",
                "Delete what is not needed, or exclude derived directories from snapshots.",
            )
        mode = stat.S_IMODE(info.st_mode) & 0o1777  # now: to read it we may have to lend it more
        seen = (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino)
        old = self._old.get(path)
        if old is not None and old[0] == seen and all(map(self._into.has, old[1])):
            parts = old[1]
        else:
            with opened(fd, name, _READ, 0o400) as file:
                info, parts = self._read(file)
            if not stat.S_ISREG(info.st_mode):
                return None
            seen = (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino)
        if max(seen[0], seen[1]) < self._started_ns - _RACY_NS:
            self.cache[path] = (seen, parts)
        return Entry(name, trees.FILE, mode, info.st_mtime_ns, info.st_size, parts)

    def _read(self, fd: int) -> tuple[os.stat_result, tuple[bytes, ...]]:
        """Read a file that somebody may be writing: again, while it changes under our hands."""
        info = os.fstat(fd)
        parts: tuple[bytes, ...] = ()
        for _ in range(_READ_TRIES):
            if not stat.S_ISREG(info.st_mode):
                return info, ()
            os.lseek(fd, 0, os.SEEK_SET)
            parts, size = self._pieces(fd)
            after = os.fstat(fd)
            steady = after.st_mtime_ns == info.st_mtime_ns and after.st_size == size
            info = after
            if steady:
                break
        return info, parts

    def _pieces(self, fd: int) -> tuple[tuple[bytes, ...], int]:
        parts: list[bytes] = []
        size = 0
        while piece := read_up_to(fd, trees.CHUNK_BYTES):
            digest = trees.blob_digest(piece)
            self._into.put(digest, piece)
            parts.append(digest)
            size += len(piece)
        return tuple(parts), size


def is_excluded(path: bytes, globs: tuple[str, ...]) -> bool:
    """Say whether a path, or its last component, matches one of the globs."""
    whole = os.fsdecode(path)
    name = whole.rpartition("/")[2]
    return any(fnmatch(whole, glob) or fnmatch(name, glob) for glob in globs)


def read_up_to(fd: int, limit: int) -> bytes:
    """Read until `limit` bytes are there or the file ends."""
    data = os.read(fd, limit)
    if not data or len(data) == limit:
        return data
    pieces = [data]
    left = limit - len(data)
    while left and (data := os.read(fd, left)):
        pieces.append(data)
        left -= len(data)
    return b"".join(pieces)


@contextlib.contextmanager
def opened(parent: int, name: bytes, flags: int, needed: int) -> Iterator[int]:
    """Open `name` in `parent`, lending ourselves the permission `needed` where it is missing.

    An agent may chmod 000 what it owns; its owner on the host is us, or root.
    """
    try:
        fd = os.open(name, flags, dir_fd=parent)
        mode = None
    except PermissionError:
        fd, mode = _open_locked(parent, name, flags, needed)
    try:
        yield fd
    finally:
        if mode is not None:
            with contextlib.suppress(OSError):
                os.fchmod(fd, mode)
        os.close(fd)


def _open_locked(parent: int, name: bytes, flags: int, needed: int) -> tuple[int, int]:
    """Open through /proc, which names this very inode: a link swapped in is not followed."""
    path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        info = os.fstat(path_fd)
        if stat.S_ISLNK(info.st_mode):
            raise OSError(errno.ELOOP, "a link")
        itself = f"/proc/self/fd/{path_fd}"
        mode = stat.S_IMODE(info.st_mode)
        os.chmod(itself, mode | needed)  # noqa: PTH101
        return os.open(itself, flags & ~os.O_NOFOLLOW), mode
    finally:
        os.close(path_fd)
