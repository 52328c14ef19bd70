"""Files of a workspace from the host's side, by the kernel's own containment and never by text.

Every open goes through openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS) relative to the
workspace: whatever an agent does to its directories and links meanwhile, the kernel resolves the
whole path and refuses one that leaves. A check of the path as text cannot do that: between the
check and the open the path means something else. Where the kernel has no openat2 the path is
walked one component at a time and links are refused.
"""

import asyncio
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from perdure.core.errors import Forbidden, InvalidRequest, PerdureError, StoreFull
from perdure.environments.scan import read_up_to

_OPENAT2: Final = 437  # the same number on every architecture
_NO_MAGICLINKS, _BENEATH = 0x02, 0x08
_AGAIN_MAX: Final = 64
_LIST_MAX: Final = 200_000
_DEPTH_MAX: Final = 240
_PATH_ONLY: Final = os.O_PATH | os.O_CLOEXEC if hasattr(os, "O_PATH") else os.O_RDONLY
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Open = Callable[[int, bytes, int], int]
"""Open a path below a directory: (root, path, flags) to a descriptor. Raises `OSError`."""
T = TypeVar("T")
Names = list[str]
RawNames = list[bytes]


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """Open by openat2. Raises `OSError`: EXDEV when the path leaves, ENOSYS without openat2."""
    libc = ctypes.CDLL(None, use_errno=True)
    how = _How(flags | os.O_CLOEXEC, 0, _BENEATH | _NO_MAGICLINKS)
    for _ in range(_AGAIN_MAX):
        size = ctypes.c_size_t(ctypes.sizeof(how))
        fd = libc.syscall(ctypes.c_long(_OPENAT2), root, path, ctypes.byref(how), size)
        if fd >= 0:
            return int(fd)
        # A rename somewhere made the kernel unsure about "..": it asks us to try again.
        if (code := ctypes.get_errno()) not in (errno.EAGAIN, errno.EINTR):
            raise OSError(code, os.strerror(code))
    raise OSError(errno.EXDEV, "the path would not hold still")


def open_by_steps(root: int, path: bytes, flags: int) -> int:
    """Open component by component, refusing every link and "..". Raises `OSError`."""
    fd = os.dup(root)
    names = [n for n in path.split(b"/") if n not in (b"", b".")]
    if path.startswith(b"/") or b".." in names:
        os.close(fd)
        raise OSError(errno.EXDEV, "not a plain relative path")
    try:
        for i, name in enumerate(names or [b"."]):
            last = i >= len(names) - 1
            inner = os.open(name, (flags if last else _FOLDER) | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
            if stat.S_ISLNK(os.fstat(fd).st_mode):  # O_PATH opens the link itself
                raise OSError(errno.EXDEV, "a link")
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OSError(errno.EXDEV, "a link, or no directory") from error
        raise
    return fd


def best_open(root: int) -> Open:
    """Return `open_beneath` where this kernel has it, else `open_by_steps`."""
    try:
        os.close(open_beneath(root, b".", _FOLDER))
    except OSError:
        return open_by_steps
    return open_beneath


class Beneath:
    """The `Files` of one workspace.

    `root` returns a new descriptor of the workspace. `mount` is where commands see it: an
    absolute path below `mount` is taken as relative, since that is what tools print. What is
    made belongs to `owner` (uid, gid). Nothing below a directory of `hidden` can be opened, or
    of `read_only` written: they lie in an in-place workspace but are not the agent's. `touching`
    is called before each write, `touched` after it.
    """

    def __init__(
        self,
        root: Callable[[], int],
        *,
        mount: str = "",
        owner: tuple[int, int] | None = None,
        hidden: tuple[Path, ...] = (),
        read_only: tuple[Path, ...] = (),
        touching: Callable[[], None] = lambda: None,
        touched: Callable[[], None] = lambda: None,
        opener: Open | None = None,
    ) -> None:
        self._root = root
        self._mount = mount
        self._owner = owner
        self._hidden = tuple(str(p) for p in hidden)
        self._closed = self._hidden + tuple(str(p) for p in read_only)
        self._touching = touching
        self._touched = touched
        self._opener = opener

    async def read(self, path: str, *, limit_bytes: int = 10 * 1024 * 1024) -> bytes:
        """Return the content. Raises E-PATH-OUTSIDE, -MISSING, -KIND, -TOO-BIG, -DENIED."""
        return await asyncio.to_thread(self._guarded, path, partial(self._read, limit_bytes))

    async def write(self, path: str, data: bytes) -> None:
        """Write the whole file atomically. Raises the same, and `StoreFull`."""
        self._touching()
        await asyncio.to_thread(self._guarded, path, partial(self._write, data))
        self._touched()

    async def list(self, path: str = ".") -> Names:
        """Return every file below `path`. Raises the same; E-PATH-TOO-BIG for too many."""
        return await asyncio.to_thread(self._guarded, path, self._list)

    def _guarded(self, path: str, work: Callable[[int, bytes], T]) -> T:
        try:
            relative = self._relative(path)
            root = self._root()
        except OSError as error:
            _refuse(path, error)
        try:
            return work(root, relative)
        except OSError as error:
            _refuse(path, error)
        finally:
            os.close(root)

    def _relative(self, path: str) -> bytes:
        try:
            raw = os.fsencode(path)
        except UnicodeEncodeError:
            raise OSError(errno.ENOENT, "no file can have this name") from None
        if not raw or b"\0" in raw:
            raise OSError(errno.EINVAL, "not a path")
        mount = os.fsencode(self._mount)
        if mount and (raw == mount or raw.startswith(mount + b"/")):
            raw = raw[len(mount) :].lstrip(b"/") or b"."
        return raw

    def _open(self, root: int, path: bytes, flags: int, closed: tuple[str, ...]) -> int:
        opener = self._opener or best_open(root)
        fd = opener(root, path, flags)
        if closed:
            # Where the descriptor really leads, whatever the path said.
            real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
            if any(real == c or real.startswith(c + "/") for c in closed):
                os.close(fd)
                raise OSError(errno.EACCES, "not part of the workspace")
        return fd

    def _read(self, limit_bytes: int, root: int, path: bytes) -> bytes:
        fd = self._open(root, path, _READ, self._hidden)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.EISDIR, "not a regular file")
            if info.st_size > limit_bytes:
                raise OSError(errno.EFBIG, f"{info.st_size} bytes, {limit_bytes} are allowed")
            data = read_up_to(fd, limit_bytes + 1)
        finally:
            os.close(fd)
        if len(data) > limit_bytes:
            raise OSError(errno.EFBIG, f"more than {limit_bytes} bytes")
        return data

    def _write(self, data: bytes, root: int, path: bytes) -> None:
        folder, _, name = path.rpartition(b"/")
        if path.startswith(b"/"):
            raise OSError(errno.EXDEV, "an absolute path")
        if name in (b"", b".", b".."):
            raise OSError(errno.EISDIR, "not the name of a file")
        parent = self._folder(root, folder)
        try:
            mode = _mode_of(parent, name)
            self._replace(parent, name, data, mode)
        finally:
            os.close(parent)

    def _folder(self, root: int, path: bytes) -> int:
        """Open a directory, making what is missing; each step is resolved from the root anew."""
        flags = _PATH_ONLY | os.O_DIRECTORY
        at = b"."
        fd = self._open(root, at, flags, self._closed)
        for name in (n for n in path.split(b"/") if n not in (b"", b".")):
            at += b"/" + name
            try:
                inner = self._step(root, fd, at, name)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def _step(self, root: int, parent: int, path: bytes, name: bytes) -> int:
        flags = _PATH_ONLY | os.O_DIRECTORY
        try:
            return self._open(root, path, flags, self._closed)
        except FileNotFoundError:
            if name == b"..":
                raise
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            pass  # made meanwhile, or a link to nowhere: opening it will tell
        else:
            if self._owner:
                os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
        return self._open(root, path, flags, self._closed)

    def _replace(self, parent: int, name: bytes, data: bytes, mode: int) -> None:
        temporary = b".perdure-" + secrets.token_hex(8).encode()
        fd = os.open(temporary, _NEW, 0o600, dir_fd=parent)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                if self._owner:
                    os.fchown(fd, *self._owner)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(temporary, dir_fd=parent)
            raise

    def _list(self, root: int, path: bytes) -> Names:
        fd = self._open(root, path, _FOLDER, self._hidden)
        at = b"" if path == b"." else os.path.normpath(path)
        at = b"" if at == b"." else at
        try:
            found: RawNames = []
            self._collect(fd, at, found, 0)
        finally:
            os.close(fd)
        return sorted(os.fsdecode(p) for p in found)

    def _collect(self, fd: int, path: bytes, found: RawNames, depth: int) -> None:
        if self._is_hidden(fd):
            return
        if depth > _DEPTH_MAX or len(found) > _LIST_MAX:
            raise OSError(errno.EFBIG, "too many files, or too deep")
        with os.scandir(fd) as listing:
            entries = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in listing]
        for name, is_folder in entries:
            here = path + b"/" + name if path else name
            if not is_folder:
                found.append(here)
                continue
            try:
                inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            except OSError:
                continue  # gone, swapped for a link, or locked by its mode
            try:
                self._collect(inner, here, found, depth + 1)
            finally:
                os.close(inner)

    def _is_hidden(self, fd: int) -> bool:
        if not self._hidden:
            return False
        return os.readlink(f"/proc/self/fd/{fd}") in self._hidden  # noqa: PTH115


def _mode_of(parent: int, name: bytes) -> int:
    """Return the mode a rewritten file keeps. Raises `OSError` for what must not be replaced."""
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    if stat.S_ISLNK(info.st_mode):
        raise OSError(errno.ELOOP, "a link; write to what it points to instead")
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EISDIR, "not a regular file")
    return stat.S_IMODE(info.st_mode) & 0o777


def _refuse(path: str, error: OSError) -> NoReturn:
    """Translate what the kernel said. Raises always."""
    shown = ascii(path)[:200]
    why = error.strerror or ""
    found: PerdureError
    match error.errno:
        case errno.EXDEV:
            found = Forbidden(
                "E-PATH-OUTSIDE",
                f"{shown} leads out of the workspace.",
                "Use a path relative to the workspace.",
            )
        case errno.ENOENT | errno.ENAMETOOLONG:
            found = InvalidRequest("E-PATH-MISSING", f"There is no {shown} in the workspace.")
        case errno.EFBIG:
            found = InvalidRequest(
                "E-PATH-TOO-BIG", f"{shown} is too big: {why}.", "Read a part of it with a command."
            )
        case errno.EACCES | errno.EPERM | errno.EROFS | errno.EBUSY:
            found = Forbidden("E-PATH-DENIED", f"{shown} may not be opened: {why}.")
        case errno.ENOSPC | errno.EDQUOT:
            found = StoreFull("E-WORKSPACE-FULL", f"No room to write {shown}.", "Free some space.")
        case _:
            found = InvalidRequest("E-PATH-KIND", f"{shown} is not a file to use here: {why}.")
    raise found from error
