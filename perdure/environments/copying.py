"""Copying a user's directory into a workspace: everything that is state, following nothing.

Links stay links, FIFOs are made anew, sockets and devices are passed over, setuid and setgid are
dropped, times of files are kept (so that make and pytest see nothing new). Blocking.
"""

import errno
import os
import stat
from typing import Final

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES: Final = 1 << 20
_DEPTH_MAX: Final = 240

Owner = tuple[int, int] | None
Skip = frozenset[tuple[int, int]]
"""Directories not to enter, by device and inode: the store may lie inside what is copied."""


def copy_tree(source: int, target: int, owner: Owner, skip: Skip, depth: int = 0) -> None:
    """Copy what is in the directory `source` into the empty directory `target`."""
    if depth > _DEPTH_MAX:
        raise OSError(errno.ELOOP, f"nested deeper than {_DEPTH_MAX} directories")
    with os.scandir(source) as listing:
        found = [(os.fsencode(e.name), e.stat(follow_symlinks=False)) for e in listing]
    for name, info in found:
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFDIR:
            if (info.st_dev, info.st_ino) not in skip:
                _copy_folder(source, target, name, info, owner, skip, depth)
        elif kind == stat.S_IFREG:
            _copy_file(source, target, name, owner)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            _give(target, name, owner)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, stat.S_IMODE(info.st_mode) & 0o777, dir_fd=target)
            _give(target, name, owner)


def _copy_folder(
    source: int,
    target: int,
    name: bytes,
    info: os.stat_result,
    owner: Owner,
    skip: Skip,
    depth: int,
) -> None:
    os.mkdir(name, 0o700, dir_fd=target)
    inner_source = os.open(name, _FOLDER, dir_fd=source)
    try:
        inner_target = os.open(name, _FOLDER, dir_fd=target)
        try:
            copy_tree(inner_source, inner_target, owner, skip, depth + 1)
            if owner:
                os.fchown(inner_target, *owner)
            os.fchmod(inner_target, stat.S_IMODE(info.st_mode) & 0o1777)
        finally:
            os.close(inner_target)
    finally:
        os.close(inner_source)


def _copy_file(source: int, target: int, name: bytes, owner: Owner) -> None:
    old = os.open(name, _READ, dir_fd=source)
    try:
        new = os.open(name, _NEW, 0o600, dir_fd=target)
        try:
            _copy_bytes(old, new)
            info = os.fstat(old)
            if owner:
                os.fchown(new, *owner)
            os.fchmod(new, stat.S_IMODE(info.st_mode) & 0o777)
            os.utime(new, ns=(info.st_mtime_ns, info.st_mtime_ns))
        finally:
            os.close(new)
    finally:
        os.close(old)


def _copy_bytes(old: int, new: int) -> None:
    """Let the kernel copy (and share the blocks where it can), else do it ourselves."""
    try:
        while os.copy_file_range(old, new, 1 << 30):
            pass
    except (OSError, AttributeError):
        os.lseek(old, 0, os.SEEK_SET)
        os.lseek(new, 0, os.SEEK_SET)
        os.ftruncate(new, 0)
    else:
        if os.fstat(old).st_size == os.fstat(new).st_size:
            return
        os.lseek(old, 0, os.SEEK_SET)
        os.lseek(new, 0, os.SEEK_SET)
    while data := os.read(old, _PIECE_BYTES):
        view = memoryview(data)
        while view:
            view = view[os.write(new, view) :]


def _give(folder: int, name: bytes, owner: Owner) -> None:
    if owner:
        os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)
