"""What differs between two trees, and making a directory equal to one.

A restore touches only what differs. Paths are walked component by component with O_NOFOLLOW, new
content goes to a temporary file that is renamed into place, setuid and setgid are never given.
Directories get their modes last, since a read-only directory cannot be filled. Blocking: call
from a thread.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from perdure.environments import trees
from perdure.environments.packs import Reader
from perdure.environments.trees import EMPTY, Entry, Tree

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Load = Callable[[bytes], Tree]
"""Return the tree with a digest."""


class Difference(msgspec.Struct, frozen=True):
    """One path that is not the same: as it is, as it should be; None where there is nothing."""

    path: bytes
    now: Entry | None
    then: Entry | None


def differences(now: Tree, then: Tree, load: Load, path: bytes = b"") -> Iterator[Difference]:
    """Yield what must be done, in an order in which it can be done one by one.

    What goes from a directory comes before the directory itself, what comes into one after it.
    """
    for name in sorted(now.keys() | then.keys()):
        old, new = now.get(name), then.get(name)
        if old == new:
            continue
        here = path + b"/" + name if path else name
        before = load(old.parts[0]) if old and old.kind == trees.DIRECTORY else EMPTY
        after = load(new.parts[0]) if new and new.kind == trees.DIRECTORY else EMPTY
        if old and new and old.kind == new.kind == trees.DIRECTORY:
            if old.mode != new.mode:
                yield Difference(here, old, new)
            yield from differences(before, after, load, here)
            continue
        yield from differences(before, EMPTY, load, here)
        yield Difference(here, old, new)
        yield from differences(EMPTY, after, load, here)


class Restorer:
    """Applies differences below `root_fd`.

    `owner` (uid, gid) is given to whatever is made, where the one who runs us is root. With
    `gently`, nothing is removed that the trees do not know (a person's own directory).
    """

    def __init__(
        self, root_fd: int, reader: Reader, *, owner: tuple[int, int] | None, gently: bool
    ) -> None:
        self._root_fd = root_fd
        self._reader = reader
        self._owner = owner
        self._gently = gently
        self._modes: dict[bytes, int] = {}

    def apply(self, todo: Iterable[Difference]) -> list[bytes]:
        """Make each path what it should be; return the paths that are so now."""
        done = [d.path for d in todo if self._one(d)]
        for path, mode in sorted(self._modes.items(), reverse=True):
            with contextlib.suppress(FileNotFoundError), self._folder(path) as fd:
                os.fchmod(fd, mode)
        return done

    def _one(self, difference: Difference) -> bool:
        folder, _, name = difference.path.rpartition(b"/")
        try:
            with self._folder(folder) as parent:
                return self._change(parent, name, difference)
        except (FileNotFoundError, NotADirectoryError):
            # Its directory was left alone because a person removed or replaced it.
            if self._gently:
                return False
            raise

    def _change(self, parent: int, name: bytes, difference: Difference) -> bool:
        now, then = difference.now, difference.then
        if now is None and self._gently and _exists(parent, name):
            return False  # something a scan passes over, a socket perhaps; not ours to replace
        if now is not None and (then is None or trees.DIRECTORY in (now.kind, then.kind)):
            if then is not None and now.kind == then.kind:
                self._modes[difference.path] = then.mode
                return True
            if not self._remove(parent, name, now):
                return False
        if then is None:
            return True
        if now is not None and now.kind == then.kind == trees.FILE and _same_bytes(now, then):
            self._dress(parent, name, then)
        elif then.kind == trees.DIRECTORY:
            self._make_folder(parent, name)
            self._modes[difference.path] = then.mode
        else:
            self._replace(parent, name, then)
        return True

    def _remove(self, parent: int, name: bytes, now: Entry) -> bool:
        try:
            if now.kind != trees.DIRECTORY:
                os.unlink(name, dir_fd=parent)
            elif self._gently:
                os.rmdir(name, dir_fd=parent)
            else:
                remove_tree(parent, name)
        except FileNotFoundError:
            return True
        except OSError as error:
            if self._gently and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                return False
            raise
        return True

    def _make_folder(self, parent: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if _exists(parent, name, stat.S_IFDIR):
                return
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
        if self._owner:
            os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)

    def _replace(self, parent: int, name: bytes, then: Entry) -> None:
        """Make the thing beside its place and move it in, so that it is old or new, never half."""
        temporary = b".perdure-" + secrets.token_hex(8).encode()
        try:
            self._make(parent, temporary, then)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            raise

    def _make(self, parent: int, name: bytes, then: Entry) -> None:
        match then.kind:
            case trees.LINK:
                os.symlink(then.target, name, dir_fd=parent)
                if self._owner:
                    os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
            case trees.FIFO:
                os.mkfifo(name, 0o600, dir_fd=parent)
                self._dress(parent, name, then)
            case _:
                fd = os.open(name, _NEW, 0o600, dir_fd=parent)
                try:
                    self._fill(fd, then)
                finally:
                    os.close(fd)

    def _fill(self, fd: int, then: Entry) -> None:
        for part in then.parts:
            view = memoryview(self._reader.read(part, trees.blob_digest))
            while view:
                view = view[os.write(fd, view) :]
        if self._owner:
            os.fchown(fd, *self._owner)
        os.fchmod(fd, then.mode)
        os.utime(fd, ns=(then.mtime_ns, then.mtime_ns))

    def _dress(self, parent: int, name: bytes, then: Entry) -> None:
        """Give what is there already its mode and time. Through /proc: that very inode."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.ELOOP, "became a link while it was restored")
            itself = f"/proc/self/fd/{fd}"
            if self._owner:
                os.chown(itself, *self._owner)
            os.chmod(itself, then.mode)  # noqa: PTH101
            if then.kind == trees.FILE:
                os.utime(itself, ns=(then.mtime_ns, then.mtime_ns))
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _folder(self, path: bytes) -> Iterator[int]:
        """Open a directory below the root, making it writable for us until the end."""
        fd = os.open(".", _FOLDER, dir_fd=self._root_fd)
        try:
            at = b""
            for name in path.split(b"/") if path else ():
                at = at + b"/" + name if at else name
                inner = self._step(fd, name, at)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _step(self, fd: int, name: bytes, path: bytes) -> int:
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode) and mode & 0o700 != 0o700 and os.geteuid() != 0:
            self._modes.setdefault(path, mode & 0o1777)
            make_passable(fd, name)
        return os.open(name, _FOLDER, dir_fd=fd)


def make_passable(parent: int, name: bytes) -> None:
    """Let the owner of a directory list, enter and change it."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)  # noqa: PTH101
    finally:
        os.close(fd)


def remove_tree(parent: int, name: bytes) -> None:
    """Remove a directory and all below it, following nothing. Missing is fine."""
    with contextlib.suppress(FileNotFoundError):
        if os.geteuid() != 0:
            make_passable(parent, name)
        fd = os.open(name, _FOLDER, dir_fd=parent)
        try:
            with os.scandir(fd) as listing:
                found = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in listing]
            for inner, is_folder in found:
                if is_folder:
                    remove_tree(fd, inner)
                else:
                    os.unlink(inner, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)


def _exists(parent: int, name: bytes, kind: int = 0) -> bool:
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return not kind or stat.S_IFMT(info.st_mode) == kind


def _same_bytes(now: Entry, then: Entry) -> bool:
    return now.parts == then.parts and now.size == then.size
