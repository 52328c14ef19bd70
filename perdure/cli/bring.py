"""Bringing an agent's changes back to the directory that its workspace was copied from.

Every path is opened below that directory by the kernel's own containment: whatever the agent called
its files and whatever links lie there, nothing is read or written outside. A file that somebody
changed since the copy is left alone.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from perdure.cli.changes import changes_of
from perdure.cli.elsewhere import only_here
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.text import clean, plural
from perdure.core.codec import encode
from perdure.core.errors import Conflict, InvalidRequest
from perdure.engine.session import Session
from perdure.environments.beneath import Beneath, best_open
from perdure.ports.sandbox import Change

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SIGNS: Final = {"added": "+", "changed": "~", "removed": "-"}


def apply(typed: str, *, force: bool, json: bool) -> int:
    """Carry out `perdure show ID --apply`."""
    only_here("show --apply")
    return opened(lambda place: _apply(place, typed, force=force, json=json))


async def _apply(place: Opened, typed: str, *, force: bool, json: bool) -> int:
    screen = Screen(json=json)
    session = await place.session(typed)
    source, done = await bring_back(place, session, force=force)
    if json:
        screen.line(encode({"session": session.id, "directory": source, "applied": done}).decode())
        return 0
    for line in done:
        screen.line(f"  {line}")
    what = f"{plural(len(done), 'file')} brought to" if done else "Nothing to bring to"
    screen.line(f"{what} {source}")
    return 0


async def bring_back(place: Opened, session: Session, *, force: bool) -> tuple[str, list[str]]:
    """Apply a session's changes; return where, and what was done.

    Raises `Conflict` (E-WORKSPACE-CHANGED) when a file there is not what was copied, and then
    nothing is written; `InvalidRequest` where there is no directory to bring anything to.
    """
    state = await session.state()
    found = await changes_of(place, session)
    if not state.source:
        raise InvalidRequest(
            "E-WORKSPACE-EMPTY",
            f"The workspace of {session.id} began empty, so there is nowhere to bring its files.",
            f"They are in {found.workspace}",
        )
    if state.spec.environment.in_place:
        raise InvalidRequest(
            "E-WORKSPACE-IN-PLACE", f"{session.id} works in {state.source} itself: it is all there."
        )
    if not found.workspace or state.restore_due:
        raise Conflict(
            "E-WORKSPACE-LATER",
            f"The files of {session.id} are not brought back yet: nobody has worked on it since.",
            f"perdure resume {session.id}",
        )
    target = Target(Path(state.source), Path(found.workspace))
    todo = [change for change in found.changes if not target.has(change)]
    refused = [clean(change.path) for change in todo if not target.is_as_copied(change)]
    if refused and not force:
        shown = ", ".join(refused[:5]) + (" …" if len(refused) > 5 else "")
        raise Conflict(
            "E-WORKSPACE-CHANGED",
            f"{plural(len(refused), 'file')} in {state.source} changed since the copy was made: "
            f"{shown}. Nothing was written.",
            f"perdure show {session.id} --apply --force    writes over them",
        )
    for change in todo:
        target.check(change)
    for change in todo:
        await target.take(change)
    return state.source, [f"{_SIGNS[c.kind]} {clean(c.path)}" for c in todo]


class Target:
    """The directory that changes are brought to, and the workspace they come from."""

    def __init__(self, root: Path, workspace: Path) -> None:
        self._root = root
        self._workspace = workspace
        self._files = Beneath(lambda: os.open(root, _FOLDER))

    def has(self, change: Change) -> bool:
        """Whether the directory holds the result already."""
        return self._content(change.path) == change.after

    def is_as_copied(self, change: Change) -> bool:
        """Whether the path is still what the workspace was copied from."""
        return self._content(change.path) == change.before

    def check(self, change: Change) -> None:
        """Raise `InvalidRequest` for what cannot be brought, before anything is."""
        if change.kind == "removed":
            return
        made = self._workspace / change.path
        name = clean(change.path)
        if change.after is None:
            fix = f"cp {made} {self._root / change.path}"
            raise InvalidRequest("E-WORKSPACE-BIG", f"{name} is too big for this.", fix)
        if made.is_symlink():
            fix = f"ln -s {clean(os.fsdecode(change.after))} {self._root / change.path}"
            raise InvalidRequest("E-WORKSPACE-LINK", f"{name} is a link; do it by hand.", fix)

    async def take(self, change: Change) -> None:
        """Make the path what it is in the workspace. Raises `Forbidden`, `StoreFull`."""
        if change.after is None:
            self._remove(change.path)
            return
        await self._files.write(change.path, change.after)
        made = self._workspace / change.path
        if change.kind == "added" and made.is_file() and made.stat().st_mode & stat.S_IXUSR:
            self._make_executable(change.path)

    def _content(self, path: str) -> bytes | None:
        """Return what lies at a path: a file's bytes, a link's target, None for nothing."""
        try:
            with self._parent(path) as (folder, name):
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    return os.fsencode(os.readlink(name, dir_fd=folder))
                if not stat.S_ISREG(info.st_mode):
                    return b""  # something else took the place
                with open(os.open(name, _FILE, dir_fd=folder), "rb") as file:  # noqa: PTH123
                    return file.read()
        except OSError:
            return None

    def _remove(self, path: str) -> None:
        """Remove a file, and the folders above it that the agent removed as well."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (folder, name):
            os.unlink(name, dir_fd=folder)
        for above in PurePosixPath(path).parents:
            if str(above) == "." or (self._workspace / above).exists():
                return
            with contextlib.suppress(OSError), self._parent(str(above)) as (folder, name):
                os.rmdir(name, dir_fd=folder)

    def _make_executable(self, path: str) -> None:
        with self._parent(path) as (folder, name):
            fd = os.open(name, _FILE, dir_fd=folder)
            try:
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o111)
            finally:
                os.close(fd)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, bytes]]:
        """Open the folder that holds a path, below our root, and yield it with the last name."""
        above, _, name = os.fsencode(path).rpartition(b"/")
        root = os.open(self._root, _FOLDER)
        try:
            folder = best_open(root)(root, above or b".", _FOLDER)
            try:
                yield folder, name
            finally:
                os.close(folder)
        finally:
            os.close(root)
