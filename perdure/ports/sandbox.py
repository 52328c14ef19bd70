"""Where tools touch files and processes: a sandbox around one workspace.

A `Sandbox` belongs to one session. Commands run in it one at a time; between commands its whole
state is the workspace and a small file of shell state, so that a snapshot of both is complete.
"""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import PerdureError


class CorruptSnapshot(PerdureError):
    """A stored snapshot is damaged: its pack is torn or its bytes do not match their digest.

    The message names the pack and the object. Nothing was restored from it.
    """


class Isolation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What really stands between a command and the host; journaled with every environment.

    `level` is "bubblewrap" or "process"; each flag is true when it was seen to be in force,
    not when it was asked for. `notes` are sentences for people.
    """

    level: str
    filesystem: bool = False
    network: bool = False
    processes: bool = False
    seccomp: bool = False
    memory: str = ""
    notes: tuple[str, ...] = ()


class Ended(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a command ended.

    `output` is standard output and error as they came, cut in the middle when it was longer
    than the limit; then `full` holds what was read, up to a hard cap, and `dropped_bytes` says
    how much is not in `output`. `exit_code` is None when the command was killed; `killed` says
    why: "timeout", "memory", "processes", "disk" or "cancelled".
    """

    output: bytes
    exit_code: int | None
    duration_s: float
    killed: str = ""
    dropped_bytes: int = 0
    full: bytes | None = None


class Rollback(msgspec.Struct, frozen=True):
    """What going back to a snapshot means: paths relative to the workspace.

    `restored` were (or would be) taken back. `unsure` changed after the interrupted command was
    dead, so a person may have changed them: they were left alone. Only an in-place workspace
    has unsure paths.
    """

    restored: tuple[str, ...]
    unsure: tuple[str, ...]


class Change(msgspec.Struct, frozen=True):
    """One path that differs between two snapshots. `kind` is added, changed or removed."""

    path: str
    kind: str
    before: bytes | None
    after: bytes | None


class StoredFile(msgspec.Struct, frozen=True):
    """A file in a snapshot. `path` is relative to the workspace; files of one `digest` have the
    same content.
    """

    path: str
    size_bytes: int
    digest: str


class Files(Protocol):
    """Files of a workspace, by paths relative to it. No path, link or race leads outside.

    Every method raises `Forbidden` (E-PATH-OUTSIDE) for a path that would leave the workspace
    and `InvalidRequest` (E-PATH-…) for one that is missing or of the wrong kind.
    """

    async def read(self, path: str, *, limit_bytes: int = 10 * 1024 * 1024) -> bytes: ...

    async def write(self, path: str, data: bytes) -> None:
        """Write the whole file atomically, making directories; keeps the mode of an old file."""
        ...

    async def list(self, path: str = ".") -> list[str]:
        """Return every file below `path`, relative to the workspace, sorted; links not followed."""
        ...


class Sandbox(Protocol):
    """One session's workspace and the place where its commands run."""

    @property
    def isolation(self) -> Isolation: ...

    @property
    def workspace(self) -> str:
        """The directory on the host. For showing to people, not for opening files."""
        ...

    @property
    def files(self) -> Files: ...

    async def run(
        self,
        script: str,
        *,
        timeout_s: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Ended:
        """Run a bash script with the shell state that the last one left; wait until all is dead.

        Cancelling the awaiting task kills every process of the command before the cancellation
        goes on: when it returns or raises, nothing of the command runs any more.
        Raises `Unavailable` when the sandbox cannot be started at all.
        """
        ...

    async def snapshot(self) -> str:
        """Store the workspace and shell state durably; return the snapshot's id.

        The same content gives the same id. Raises `StoreFull`, and `InvalidRequest`
        (E-WORKSPACE-…) when the workspace is larger or deeper than allowed.
        """
        ...

    async def rollback(self, snapshot: str, *, dry: bool = False) -> Rollback:
        """Take the workspace and shell state back to `snapshot`; with `dry`, only say what would
        happen. Raises `NotFound` when the snapshot is not in the store and `CorruptSnapshot`
        when it is damaged; a snapshot is read through before the first file is touched.
        """
        ...

    async def changes(self, before: str, after: str | None = None) -> list[Change]:
        """Return what differs between two snapshots (`after` None: the workspace as it is).

        Files, links and FIFOs; a link's content is its target. Content longer than 16 MiB is
        None. Raises `NotFound` and `CorruptSnapshot`.
        """
        ...

    async def close(self) -> None:
        """Kill what runs and let go. The workspace and its snapshots stay."""
        ...


class Environments(Protocol):
    """Opens sandboxes. One implementation a kind of isolation."""

    async def open(self, session: str, spec: EnvironmentSpec, source: str) -> Sandbox:
        """Open the sandbox of `session`, making its workspace when there is none yet.

        `source` is the user's directory ("" for an empty workspace): copied once, or worked on
        itself when `spec.in_place`. Raises `Unavailable` (E-SANDBOX-…) with the fix as a hint.
        """
        ...

    async def has(self, session: str, at: str = "") -> bool:
        """True when the session's workspace is here, so that `open` finds it as it was.

        Where nodes share snapshots, false as well when it is not surely as in the snapshot `at`:
        another node may have worked on its own copy since.
        """
        ...

    async def restore(self, session: str, spec: EnvironmentSpec, snapshot: str) -> Sandbox:
        """Open the sandbox of `session` with its workspace made anew from `snapshot`.

        Raises `NotFound` (E-SNAPSHOT-MISSING), `CorruptSnapshot`, and `Unavailable`
        (E-SANDBOX-ELSEWHERE) where the session works on a directory of another machine itself.
        """
        ...

    def snapshots(self) -> AsyncIterator[str]:
        """Yield the ids of all stored snapshots."""
        ...

    async def stored(self, snapshot: str, below: str = "") -> list[StoredFile]:
        """Return the files of a snapshot in the directory `below` and beneath it, by path; links
        are left out. Raises `NotFound` and `CorruptSnapshot`.
        """
        ...

    def stored_file(self, snapshot: str, path: str) -> AsyncIterator[bytes]:
        """Yield the content of a file in a snapshot, piece by piece. Raises `NotFound`
        (E-PATH-MISSING, E-SNAPSHOT-MISSING) and `CorruptSnapshot`.
        """
        ...
