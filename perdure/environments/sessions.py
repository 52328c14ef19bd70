"""Opening a session's home: find it, make it by copying, or make it anew from a snapshot.

Common to all environments on this machine.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import InvalidRequest, Unavailable
from perdure.environments.depot import Depot
from perdure.environments.homes import (
    Home,
    Meta,
    Owner,
    discard,
    in_place_directory,
    load_meta,
    make_workspace,
    marked,
    new_workspace,
    save_meta,
    session_folder,
)
from perdure.environments.snapshots import Snapshots, Target
from perdure.environments.watch import Bounds
from perdure.ports.sandbox import StoredFile

OwnerOf = Callable[[Path | None], Owner]
"""Return who owns what is made in a workspace: one of ours (None) or the user's own directory."""


class Sessions:
    """The homes of all sessions below one root, and their common store of snapshots."""

    def __init__(
        self, root: Path, *, workspace_bytes: int, free_bytes: int, depot: Depot | None = None
    ) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root = root.resolve()
        self.workspace_bytes = workspace_bytes
        self.depot = depot
        self._free_bytes = free_bytes
        self._store: Snapshots | None = None
        self._turn = asyncio.Lock()

    async def store(self) -> Snapshots:
        """Return the store of snapshots; its indexes are read the first time."""
        async with self._turn:
            if self._store is None:
                self._store = await asyncio.to_thread(Snapshots, self.root / "snapshots")
            return self._store

    async def open(
        self, session: str, spec: EnvironmentSpec, source: str, owner_of: OwnerOf
    ) -> Home:
        """See `open_home`. Raises `Unavailable` (E-SANDBOX-ELSEWHERE) where nodes share sessions
        and the directory is not on this one.
        """
        if self.depot is not None and not await self.has(session):
            await asyncio.to_thread(_check_source, session, source, in_place=spec.in_place)
        return await asyncio.to_thread(open_home, self.root, session, spec, source, owner_of)

    async def has(self, session: str, at: str = "") -> bool:
        """See `Environments.has`."""
        return await asyncio.to_thread(has_home, self.root, session, at if self.depot else "")

    async def restore(
        self, session: str, spec: EnvironmentSpec, snapshot: str, owner_of: OwnerOf
    ) -> Home:
        """See `restore_home`; the snapshot is fetched first where it is not here.

        Raises `Unavailable` (E-SANDBOX-ELSEWHERE) for a session that works in place elsewhere.
        """
        if self.depot is not None and spec.in_place and not await self.has(session):
            raise _elsewhere(session, "works on a directory itself", "that is not changed here")
        store = await self.at_hand(snapshot)
        work = bring_home if self.depot is not None else restore_home
        return await asyncio.to_thread(work, self.root, session, store, snapshot, owner_of)

    async def at_hand(self, *snapshots: str) -> Snapshots:
        """Return the store of snapshots, with those from other nodes that are named."""
        store = await self.store()
        if self.depot is not None:
            for snapshot in snapshots:
                await self.depot.fetch(store, snapshot)
        return store

    async def snapshots(self) -> list[str]:
        """Return the ids of all stored snapshots."""
        return await asyncio.to_thread((await self.store()).ids)

    async def stored(self, snapshot: str, below: str) -> list[StoredFile]:
        """See `Environments.stored`."""
        store = await self.at_hand(snapshot)
        return await asyncio.to_thread(store.files, snapshot, os.fsencode(below))

    async def stored_file(self, snapshot: str, path: str) -> AsyncIterator[bytes]:
        """See `Environments.stored_file`."""
        store = await self.at_hand(snapshot)
        for piece in await asyncio.to_thread(store.pieces, snapshot, os.fsencode(path)):
            yield await asyncio.to_thread(store.piece, piece)

    async def verify(self) -> list[str]:
        """Read every stored object; return a sentence for each thing that is damaged."""
        return await asyncio.to_thread((await self.store()).verify)

    def bounds(self, spec: EnvironmentSpec) -> Bounds:
        """Return what one command may use."""
        return Bounds(spec.memory_bytes, spec.processes, self._free_bytes, self.workspace_bytes)


def open_home(
    root: Path, session: str, spec: EnvironmentSpec, source: str, owner_of: OwnerOf
) -> Home:
    """Return the home of a session, made when there is none. Raises `InvalidRequest`."""
    folder = session_folder(root, session)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    meta = load_meta(folder)
    if meta is None:
        if spec.in_place:
            meta = Meta(str(in_place_directory(source, root)), in_place=True)
        else:
            meta = Meta(str(make_workspace(folder, source, owner_of(None), root)), in_place=False)
        save_meta(folder, meta)
    elif meta.in_place:
        _check_same(meta, source, root)
    elif not Path(meta.workspace).is_dir():
        meta = Meta(str(make_workspace(folder, "", owner_of(None), root)), in_place=False)
    return Home(folder, meta, owner_of(Path(meta.workspace) if meta.in_place else None))


def has_home(root: Path, session: str, at: str = "") -> bool:
    """Whether the session's home is here and complete, with its workspace; with `at`, whether
    that surely is as in this snapshot, if it is a directory of ours.
    """
    folder = session_folder(root, session)
    meta = load_meta(folder)
    if meta is None or not Path(meta.workspace).is_dir():
        return False
    return not at or meta.in_place or marked(folder) == at


def restore_home(
    root: Path, session: str, snapshots: Snapshots, snapshot: str, owner_of: OwnerOf
) -> Home:
    """Return the home of a session with a workspace made from `snapshot`, whatever it had.

    Always a directory of ours: a fork of an in-place session never gets the user's directory.
    Raises `NotFound`, `CorruptSnapshot`, and `InvalidRequest` for a session that works in place.
    """
    folder = session_folder(root, session)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    meta = load_meta(folder)
    if meta is not None and meta.in_place:
        raise InvalidRequest(
            "E-SANDBOX-IN-PLACE",
            f"Session {session} works in {meta.workspace} itself; that is not made anew.",
            "Roll back instead, or fork the session.",
        )
    owner = owner_of(None)
    fresh = new_workspace(folder, owner)
    shell = _fill(fresh, snapshots, snapshot, owner)
    final = folder / "workspace"
    if final.is_dir():
        final.rename(folder / f"new-old-{fresh.name}")
    fresh.rename(final)
    for left in folder.glob("new-*"):
        discard(left)
    meta = Meta(str(final), in_place=False)
    home = Home(folder, meta, owner)
    home.write_state(shell)
    save_meta(folder, meta)
    return home


def bring_home(
    root: Path, session: str, snapshots: Snapshots, snapshot: str, owner_of: OwnerOf
) -> Home:
    """Like `restore_home`, where nodes share sessions: a workspace that was left here some time
    ago is taken to `snapshot` file by file, and what is excluded from snapshots stays in it.
    """
    folder = session_folder(root, session)
    meta = load_meta(folder)
    if meta is None or meta.in_place or not Path(meta.workspace).is_dir():
        home = restore_home(root, session, snapshots, snapshot, owner_of)
    else:
        home = Home(folder, meta, owner_of(None))
        home.mark("")
        fd = home.root_fd()
        try:
            target = Target(fd, home.load_seen(), (), limit_bytes=2**62, owner=home.owner)
            _, _, shell = snapshots.restore(target, snapshot, sure=lambda _: True, dry=False)
        finally:
            os.close(fd)
        home.write_state(shell)
    home.mark(snapshot)
    return home


def _fill(fresh: Path, snapshots: Snapshots, snapshot: str, owner: Owner) -> bytes:
    fd = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        target = Target(root_fd=fd, cache={}, exclude=(), limit_bytes=2**62, owner=owner)
        _, _, shell = snapshots.restore(target, snapshot, sure=lambda _: True, dry=False)
    except BaseException:
        discard(fresh)
        raise
    finally:
        os.close(fd)
    return shell


def _check_source(session: str, source: str, *, in_place: bool) -> None:
    if source and not Path(source).expanduser().is_dir():
        how = "works on" if in_place else "begins with a copy of"
        raise _elsewhere(session, f"{how} {source}", "there is no such directory here")


def _elsewhere(session: str, what: str, why: str) -> Unavailable:
    return Unavailable(
        "E-SANDBOX-ELSEWHERE",
        f"Session {session} {what}, on the machine where it began; {why}. Nothing was changed.",
        f"On that machine: perdure resume {session}. Anywhere: perdure fork {session} goes on in a "
        "copy of its last snapshot, if it has one.",
    )


def _check_same(meta: Meta, source: str, root: Path) -> None:
    known = in_place_directory(meta.workspace, root)
    if source and in_place_directory(source, root) != known:
        raise InvalidRequest(
            "E-SANDBOX-WORKSPACE",
            f"This session works in {meta.workspace}, not in {source!r}.",
            "Start a new session for another directory.",
        )
