"""Commands without isolation, for development where no sandbox can be had.

The same interface, the same workspaces, snapshots and shell state; limits on memory, time and
output hold as far as a watchdog can make them. But a command is this user: it can read its files,
use its network, see its processes. So it opens only for a caller that says so, each time, and
its `Isolation` says what it is. Nothing here may be mistaken for a sandbox.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import Forbidden, Unavailable
from perdure.environments.command import Launch, Pipes
from perdure.environments.depot import Depot
from perdure.environments.homes import Home
from perdure.environments.local import LocalSandbox, Means
from perdure.environments.sessions import Sessions
from perdure.environments.toolchain import running_python
from perdure.ports.clock import Clock
from perdure.ports.sandbox import Isolation, StoredFile

_HERE: Final = Path(__file__).parent
_ISOLATION: Final = Isolation(
    level="process",
    memory="watchdog",
    notes=("NO ISOLATION: commands can do all that you can do, with all your files and network",),
)


class Process:
    """Opens unsandboxed environments below `root`. `allow` must be True, said by a person. With a
    `depot`, other nodes find the snapshots.
    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        allow: bool = False,
        workspace_bytes: int = 8 * 1024**3,
        free_bytes: int = 256 * 1024**2,
        depot: Depot | None = None,
    ) -> None:
        self._sessions = Sessions(
            root, workspace_bytes=workspace_bytes, free_bytes=free_bytes, depot=depot
        )
        self._clock = clock
        self._allow = allow

    async def open(self, session: str, spec: EnvironmentSpec, source: str) -> LocalSandbox:
        """See `Environments.open`. Raises `Forbidden` (E-SANDBOX-PROCESS) unless allowed."""
        self._check_allowed()
        home = await self._sessions.open(session, spec, source, lambda _: None)
        return await self._sandbox(home, spec)

    async def has(self, session: str, at: str = "") -> bool:
        """See `Environments.has`."""
        return await self._sessions.has(session, at)

    async def restore(self, session: str, spec: EnvironmentSpec, snapshot: str) -> LocalSandbox:
        """See `Environments.restore`. Raises `Forbidden` (E-SANDBOX-PROCESS) unless allowed."""
        self._check_allowed()
        home = await self._sessions.restore(session, spec, snapshot, lambda _: None)
        return await self._sandbox(home, spec)

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

    async def _sandbox(self, home: Home, spec: EnvironmentSpec) -> LocalSandbox:
        root = self._sessions.root
        means = Means(
            home=home,
            launcher=_ProcessLauncher(home, spec),
            isolation=_ISOLATION,
            snapshots=await self._sessions.store(),
            spec=spec,
            bounds=self._sessions.bounds(spec),
            workspace_bytes=self._sessions.workspace_bytes,
            mount=str(home.workspace),
            hidden=(root,) if root.is_relative_to(home.workspace) else (),
            depot=self._sessions.depot,
        )
        return LocalSandbox(means, self._clock)

    def _check_allowed(self) -> None:
        if not self._allow:
            raise Forbidden(
                "E-SANDBOX-PROCESS",
                "Commands would run without any isolation; nothing was started.",
                "Use the bubblewrap environment (perdure doctor says what it needs), "
                "or set PERDURE_ALLOW_UNSANDBOXED=1 if you accept that.",
            )


class _ProcessLauncher:
    """Starts the shell below a small supervisor. A `Launcher`."""

    def __init__(self, home: Home, spec: EnvironmentSpec) -> None:
        self._home = home
        self._spec = spec
        self._search = ":".join((*(f"{p}/bin" for p in spec.read_only), *running_python().search))

    def launch(self, pipes: Pipes, stack: contextlib.ExitStack) -> Launch:
        """Return the command line. Raises `Unavailable` where there is no bash."""
        bash = shutil.which("bash", path=self._search)
        if bash is None:
            raise Unavailable("E-SANDBOX-START", "There is no bash on this machine.")
        folder = self._home.folder
        workspace = str(self._home.workspace)
        words = [sys.executable, "-I", "-S", str(_HERE / "supervise.py")]
        words += [str(os.getpid()), str(pipes.status_write), str(pipes.go_read), workspace]
        words += [bash, "--noprofile", "--norc", str(_HERE / "data" / "shell.bash"), workspace]
        words += [str(folder / name) for name in ("state", "next", "command")]
        # The kernel counts all of a user's processes: only the watchdog can count a command's.
        data, file = self._spec.memory_bytes // 1024, self._spec.file_bytes // 1024
        words += [str(pipes.go_read), str(pipes.status_read), "0", str(data), str(file)]
        return Launch(
            argv=tuple(words),
            environment=self._environment(workspace),
            descriptors=(pipes.status_write, pipes.status_read, pipes.go_read),
            kill_child=False,
        )

    def _environment(self, workspace: str) -> dict[str, str]:
        """Not the caller's own environment: its secrets are not for commands."""
        return {
            "PATH": self._search,
            "HOME": workspace,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PAGER": "cat",
            "GIT_PAGER": "cat",
        }
