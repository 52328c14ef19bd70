"""A session's own directory on the host: its workspace and what belongs to it but is not in it.

    workspace/   the files (for an in-place session the user's own directory is used instead)
    state        the shell state the last command left
    next         what the running one leaves
    command      the script being run
    alive        its time is the last sign of life of a command
    seen         what the last scan saw, a hint only
    meta         where the workspace is
    at           the snapshot that the workspace surely is: only where nodes share snapshots

What a command can write (`next`) is data of an agent: read with a limit, following nothing.
Blocking.
"""

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from perdure.core.errors import InvalidRequest, StoreFull
from perdure.environments.copying import copy_tree
from perdure.environments.restore import Difference, remove_tree
from perdure.environments.scan import Cache, read_up_to
from perdure.environments.snapshots import SHELL_BYTES_MAX

SLACK_NS: Final = 1_000_000_000
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MARK: Final = b"# end\n"
_SYSTEM: Final = ("/proc", "/sys", "/dev", "/etc", "/boot", "/usr", "/bin", "/sbin", "/lib", "/run")

Owner = tuple[int, int] | None


class Meta(msgspec.Struct, frozen=True):
    """Where a session's workspace is."""

    workspace: str
    in_place: bool


class Home:
    """One session's directory. `owner` (uid, gid) is given what commands must be able to change."""

    def __init__(self, folder: Path, meta: Meta, owner: Owner) -> None:
        self.folder = folder
        self.workspace = Path(meta.workspace)
        self.in_place = meta.in_place
        self.owner = owner

    def root_fd(self) -> int:
        """Return a new descriptor of the workspace."""
        flags = _FOLDER | (0 if self.in_place else os.O_NOFOLLOW)
        try:
            return os.open(self.workspace, flags)
        except PermissionError:
            # The agent may have locked the directory that it owns; so do we.
            self.workspace.chmod(0o700)
            return os.open(self.workspace, flags)

    def begin(self, script: str) -> None:
        """Lay out what a command needs."""
        self.touch_alive()
        _write(self.folder / "command", script.encode("utf-8", "surrogateescape"), 0o644)
        _write(self.folder / "next", b"", 0o666)

    def finish(self) -> None:
        """Take over the shell state a command left, if it left a whole one."""
        with contextlib.suppress(OSError):
            state = _read_own(self.folder / "next", SHELL_BYTES_MAX + 1)
            if len(state) <= SHELL_BYTES_MAX and state.endswith(_MARK):
                self.write_state(state)
        self.touch_alive()

    def read_state(self) -> bytes:
        """Return the shell state, or b""."""
        try:
            return _read_own(self.folder / "state", SHELL_BYTES_MAX)
        except FileNotFoundError:
            return b""

    def write_state(self, state: bytes) -> None:
        """Replace the shell state; b"" removes it."""
        if state:
            _write(self.folder / "state", state, 0o644)
        else:
            (self.folder / "state").unlink(missing_ok=True)

    def mark(self, snapshot: str) -> None:
        """Note that the workspace is as in `snapshot`; "" when something begins to change it."""
        if snapshot:
            _write(self.folder / "at", snapshot.encode(), 0o600)
        else:
            (self.folder / "at").unlink(missing_ok=True)

    def touch_alive(self) -> None:
        """Note that the session's commands were alive just now."""
        path = self.folder / "alive"
        try:
            os.utime(path)
        except FileNotFoundError:
            path.touch(mode=0o600)

    def sure(self, root_fd: int) -> Callable[[Difference], bool]:
        """Return a function that says whether a difference is the last command's doing.

        What changed after the last sign of life, plus a second, may be a person's. A removed
        path leaves no time of its own, but it changes that of its directory.
        """
        if not self.in_place:
            return lambda _: True
        try:
            limit_ns = (self.folder / "alive").stat().st_mtime_ns + SLACK_NS
        except FileNotFoundError:
            limit_ns = 0

        def sure(d: Difference) -> bool:
            info = _nearest(root_fd, d.path)
            exists = d.now is not None
            return (max(info.st_mtime_ns, info.st_ctime_ns if exists else 0)) <= limit_ns

        return sure

    def load_seen(self) -> Cache:
        """Return what the last scan saw; nothing when the note is missing or torn."""
        try:
            data = (self.folder / "seen").read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                return {}
            return msgspec.msgpack.decode(data[32:], type=Cache)
        except (OSError, msgspec.DecodeError):
            return {}

    def save_seen(self, cache: Cache) -> None:
        """Keep what the last scan saw for the next process."""
        data = msgspec.msgpack.encode(cache)
        with contextlib.suppress(OSError):
            _write(self.folder / "seen", hashlib.sha256(data).digest() + data, 0o600)

    def accounts(self, uid: int, gid: int) -> Path:
        """Return a directory with the few files that name users and hosts in the sandbox."""
        folder = self.folder / "accounts"
        folder.mkdir(mode=0o755, exist_ok=True)
        texts = {
            "passwd": f"root:x:0:0::/:/usr/sbin/nologin\nagent:x:{uid}:{gid}::/tmp:/bin/bash\n"
            "nobody:x:65534:65534::/:/usr/sbin/nologin\n",
            "group": f"root:x:0:\nagent:x:{gid}:\nnogroup:x:65534:\n",
            "hosts": "127.0.0.1 localhost perdure\n::1 localhost\n",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        }
        for name, text in texts.items():
            if not (folder / name).is_file():
                _write(folder / name, text.encode(), 0o644)
        return folder


def session_folder(root: Path, session: str) -> Path:
    """Return a session's directory; an id that is no plain name is hashed."""
    plain = session.replace("-", "").replace("_", "").isalnum() and session.isascii()
    name = session if plain and len(session) <= 80 else hashlib.sha256(session.encode()).hexdigest()
    return root / "sessions" / name


def load_meta(folder: Path) -> Meta | None:
    """Return where an existing session's workspace is, or None for a new session."""
    try:
        return msgspec.json.decode((folder / "meta").read_bytes(), type=Meta)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def marked(folder: Path) -> str:
    """Return the snapshot that the workspace of a home surely is, or ""."""
    try:
        return (folder / "at").read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def save_meta(folder: Path, meta: Meta) -> None:
    """Note where the workspace is: only when it is complete."""
    _write(folder / "meta", msgspec.json.encode(meta), 0o600)


def in_place_directory(source: str, root: Path) -> Path:
    """Return the real directory to work on. Raises `InvalidRequest` (E-SANDBOX-WORKSPACE)."""
    path = Path(source).expanduser().resolve()
    why = ""
    if not source or not path.is_dir():
        why = "it is not a directory"
    elif Path.home().resolve().is_relative_to(path):
        why = "it holds your whole home directory"
    elif path == Path("/") or str(path) in _SYSTEM or str(path).startswith(_SYSTEM[:5]):
        why = "it belongs to the system"
    elif path.is_relative_to(root):
        why = "it lies in Perdure's own store"
    if why:
        raise InvalidRequest(
            "E-SANDBOX-WORKSPACE",
            f"{source!r} cannot be worked on in place: {why}.",
            "Give a project directory, or work on a copy.",
        )
    return path


def make_workspace(folder: Path, source: str, owner: Owner, root: Path) -> Path:
    """Copy `source` ("" for nothing) to the session's workspace; a half copy is never taken."""
    final = folder / "workspace"
    if final.is_dir():
        return final
    fresh = new_workspace(folder, owner)
    if source:
        own = root.stat()
        skip = frozenset({(own.st_dev, own.st_ino)})
        try:
            old, new = os.open(Path(source).expanduser(), _FOLDER), os.open(fresh, _FOLDER)
        except OSError as error:
            raise InvalidRequest(
                "E-SANDBOX-WORKSPACE", f"{source!r} cannot be copied: {error.strerror}."
            ) from error
        try:
            copy_tree(old, new, owner, skip)
        except OSError as error:
            raise StoreFull(
                "E-SANDBOX-COPY", f"{source!r} could not be copied: {error}.", "Free some space."
            ) from error
        finally:
            os.close(old)
            os.close(new)
    fresh.rename(final)
    return final


def new_workspace(folder: Path, owner: Owner) -> Path:
    """Make an empty directory beside the place of the workspace; sweep up what crashes left."""
    for left in folder.glob("new-*"):
        discard(left)
    fresh = folder / f"new-{secrets.token_hex(6)}"
    fresh.mkdir(mode=0o755)
    if owner:
        os.chown(fresh, *owner)
    return fresh


def discard(path: Path) -> None:
    """Remove a directory and all in it."""
    fd = os.open(path.parent, _FOLDER)
    try:
        remove_tree(fd, os.fsencode(path.name))
    finally:
        os.close(fd)


def _nearest(root_fd: int, path: bytes) -> os.stat_result:
    """Return the stat of a path below the root, or of its nearest directory that exists."""
    fd = os.dup(root_fd)
    try:
        for name in path.split(b"/"):
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                break
            if not stat.S_ISDIR(info.st_mode):
                return info
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        return os.fstat(fd)
    finally:
        os.close(fd)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file of ours in one step."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)  # whatever the umask says
        file.write(data)
    temporary.replace(path)


def _read_own(path: Path, limit: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a file")
        return read_up_to(fd, limit)
    finally:
        os.close(fd)
