"""One session's sandbox on this machine, whatever isolates it.

Commands, snapshots and rollbacks take turns: while a command runs nobody scans, while somebody
scans nothing runs. Work in threads is always waited for, also when the caller is cancelled, so
that the next turn never overlaps the last. Knows neither bwrap nor the lack of it.
"""

import asyncio
import contextlib
import glob
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import Unavailable
from perdure.environments.beneath import Beneath
from perdure.environments.command import Command, Guard, Launch, Order, Pipes, pipes
from perdure.environments.depot import Depot
from perdure.environments.egress.gate import Gate
from perdure.environments.homes import Home
from perdure.environments.scan import Cache
from perdure.environments.snapshots import Snapshots, Taken, Target
from perdure.environments.watch import Bounds, Cgroup
from perdure.ports.clock import Clock
from perdure.ports.sandbox import Change, Ended, Isolation, Rollback

T = TypeVar("T")


class Launcher(Protocol):
    """Says how to start a command of one session."""

    def launch(self, pipes: Pipes, stack: contextlib.ExitStack) -> Launch:
        """Return what to start; what must stay open while it starts goes on the `stack`."""
        ...


class Means(msgspec.Struct, frozen=True):
    """What a sandbox is made of."""

    home: Home
    launcher: Launcher
    isolation: Isolation
    snapshots: Snapshots
    spec: EnvironmentSpec
    bounds: Bounds
    workspace_bytes: int
    mount: str
    hidden: tuple[Path, ...] = ()
    read_only: tuple[Path, ...] = ()
    cgroup_parent: Path | None = None
    guard: Guard | None = None
    gate: Gate | None = None
    depot: Depot | None = None


class LocalSandbox:
    """A `Sandbox`. Made by an `Environments`, not by hand."""

    def __init__(self, means: Means, clock: Clock) -> None:
        self._means = means
        self._home = means.home
        self._clock = clock
        self._turn = asyncio.Lock()
        self._running: Command | None = None
        self._closed = False
        self._seen: Cache | None = None
        self._changes_begun = 0
        self._exclude = means.spec.exclude + _hidden_globs(means)
        self._files = Beneath(
            means.home.root_fd,
            mount=means.mount,
            owner=means.home.owner,
            hidden=means.hidden,
            read_only=means.read_only,
            touching=self._begin_change,
            touched=means.home.touch_alive,
        )

    @property
    def isolation(self) -> Isolation:
        return self._means.isolation

    @property
    def workspace(self) -> str:
        return str(self._home.workspace)

    @property
    def mount(self) -> str:
        """The directory as commands see it: what `pwd` prints at the start."""
        return self._means.mount

    @property
    def files(self) -> Beneath:
        return self._files

    async def run(
        self,
        script: str,
        *,
        timeout_s: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Ended:
        """See `Sandbox.run`."""
        async with self._turn:
            if self._closed:
                raise Unavailable("E-SANDBOX-CLOSED", "This sandbox was closed.")
            self._begin_change()
            await _settled(partial(self._home.begin, script))
            ended = await self._connected(timeout_s, on_output)
            await _settled(self._home.finish)
            return ended

    async def _connected(
        self, timeout_s: float | None, on_output: Callable[[bytes], None] | None
    ) -> Ended:
        """Run the command with its way out, if it has one; say below what was refused."""
        if (gate := self._means.gate) is None:
            return await self._command(timeout_s, on_output)
        async with gate.open():
            ended = await self._command(timeout_s, on_output)
        if not (said := gate.notices()):
            return ended
        if on_output is not None:
            on_output(said)
        full = None if ended.full is None else ended.full + said
        return msgspec.structs.replace(ended, output=ended.output + said, full=full)

    async def _command(
        self, timeout_s: float | None, on_output: Callable[[bytes], None] | None
    ) -> Ended:
        spec, parent = self._means.spec, self._means.cgroup_parent
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(Cgroup(parent, self._means.bounds)) if parent else None
            order = Order(
                timeout_s=spec.timeout_s if timeout_s is None else timeout_s,
                output_bytes=spec.output_bytes,
                bounds=self._means.bounds,
                workspace=self.workspace,
                on_output=on_output,
                alive=self._home.touch_alive,
                cgroup=group,
                guard=self._means.guard,
            )
            async with pipes() as ends:
                launch = self._means.launcher.launch(ends, stack)
                if group is not None:
                    launch = _joining(launch, group)
                self._running = Command(launch, order, ends, self._clock)
                try:
                    return await self._running.run()
                finally:
                    self._running = None

    async def snapshot(self) -> str:
        """See `Sandbox.snapshot`."""
        async with self._turn:
            begun = self._changes_begun
            taken = await _settled(self._snapshot)
            if self._means.depot is not None:
                # Whoever is told the name may write it down: from then on every node may need it.
                await self._means.depot.push(self._means.snapshots.packs, taken)
                if begun == self._changes_begun:
                    self._home.mark(taken.name)
            return taken.name

    async def rollback(self, snapshot: str, *, dry: bool = False) -> Rollback:
        """See `Sandbox.rollback`."""
        async with self._turn:
            await self._at_hand(snapshot)
            return await _settled(partial(self._rollback, snapshot, dry))

    async def changes(self, before: str, after: str | None = None) -> list[Change]:
        """See `Sandbox.changes`."""
        await self._at_hand(before)
        if after is not None:
            await self._at_hand(after)
            return await _settled(partial(self._means.snapshots.changes, before, after))
        async with self._turn:
            return await _settled(partial(self._changes, before))

    async def _at_hand(self, snapshot: str) -> None:
        if self._means.depot is not None:
            await self._means.depot.fetch(self._means.snapshots, snapshot)

    def _begin_change(self) -> None:
        """Note that the workspace is no snapshot's any more, before it is so."""
        self._changes_begun += 1
        if self._means.depot is not None:
            self._home.mark("")

    async def close(self) -> None:
        """See `Sandbox.close`."""
        self._closed = True
        if self._running is not None:
            self._running.kill("cancelled")
        async with self._turn:
            if self._seen is not None:
                await _settled(partial(self._home.save_seen, self._seen))
                self._seen = None

    def _target(self, root_fd: int) -> Target:
        if self._seen is None:
            self._seen = self._home.load_seen()
        return Target(
            root_fd=root_fd,
            cache=self._seen,
            exclude=self._exclude,
            limit_bytes=self._means.workspace_bytes,
            owner=self._home.owner,
            gently=self._home.in_place,
        )

    def _snapshot(self) -> Taken:
        root_fd = self._home.root_fd()
        try:
            snapshots = self._means.snapshots
            take = snapshots.take_to_share if self._means.depot else snapshots.take
            taken = take(self._target(root_fd), self._home.read_state())
        finally:
            os.close(root_fd)
        self._seen = taken.cache
        return taken

    def _rollback(self, snapshot: str, dry: bool) -> Rollback:
        if not dry:
            self._begin_change()
        root_fd = self._home.root_fd()
        try:
            restored, unsure, shell = self._means.snapshots.restore(
                self._target(root_fd), snapshot, sure=self._home.sure(root_fd), dry=dry
            )
        finally:
            os.close(root_fd)
        if not dry:
            self._home.write_state(shell)
            self._home.touch_alive()  # what we just wrote is ours, not a person's
            if self._means.depot is not None and not unsure:
                self._home.mark(snapshot)
        return Rollback(tuple(map(os.fsdecode, restored)), tuple(map(os.fsdecode, unsure)))

    def _changes(self, before: str) -> list[Change]:
        root_fd = self._home.root_fd()
        try:
            return self._means.snapshots.changes(before, self._target(root_fd))
        finally:
            os.close(root_fd)


def _hidden_globs(means: Means) -> tuple[str, ...]:
    """Return what a scan must pass over: our own store, where it lies in the workspace."""
    root = means.home.workspace
    inside = (p.relative_to(root) for p in means.hidden if p.is_relative_to(root))
    return tuple(glob.escape(str(p)) for p in inside)


def _joining(launch: Launch, group: Cgroup) -> Launch:
    """Let the started process join its group before it becomes what it is to be."""
    words = ("/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', group.members, *launch.argv)
    return msgspec.structs.replace(launch, argv=words)


async def _settled(work: Callable[[], T]) -> T:
    """Run blocking work in a thread and wait until it is over, even if we are cancelled."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
