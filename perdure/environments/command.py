"""One command: started, watched, read, killed, and not left before all of it is dead.

The launched program (bwrap, or our supervisor) writes JSON lines to a status pipe: first
`{"child-pid": n}`, at the end `{"exit-code": n}`. The shell inside waits for one byte on the go
pipe, which is sent when somebody outside knows that child and will kill it if we die. If we die
before, the byte never comes and nothing is run. Knows nothing of what isolates the command.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, Protocol

import msgspec

from perdure.core.errors import Unavailable
from perdure.environments.output import Clip
from perdure.environments.watch import Bounds, Cgroup, Watch
from perdure.ports.clock import Clock
from perdure.ports.sandbox import Ended

FULL_BYTES_MAX: Final = 16 * 1024 * 1024
_CHECK_EVERY_S: Final = 0.05
_LAST_RESORT_S: Final = 5.0
_PIPE_CLOSES_WITHIN_S: Final = 2.0
_READ_BYTES: Final = 1 << 16


class Guard(Protocol):
    """Kills the processes it was told of when we die."""

    def add(self, pid: int) -> None: ...

    def remove(self, pid: int) -> None: ...


class Launch(msgspec.Struct, frozen=True):
    """What to start. `descriptors` are passed on. `kill_child` says how the whole is killed: by
    SIGKILL to the child named in the status (the first process of a pid namespace), or by
    SIGTERM to the started process itself, which then kills what it started.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    descriptors: tuple[int, ...] = ()
    kill_child: bool = True


class Order(msgspec.Struct, frozen=True):
    """What the caller wants of one command."""

    timeout_s: float
    output_bytes: int
    bounds: Bounds
    workspace: str
    on_output: Callable[[bytes], None] | None = None
    alive: Callable[[], None] = lambda: None
    cgroup: Cgroup | None = None
    guard: Guard | None = None


class Pipes(msgspec.Struct):
    """Our ends and their ends of the two pipes; -1 once closed."""

    status_read: int
    status_write: int
    go_read: int
    go_write: int

    def close(self, *names: str) -> None:
        """Close these ends, or all."""
        for name in names or ("status_read", "status_write", "go_read", "go_write"):
            if (fd := getattr(self, name)) >= 0:
                os.close(fd)
                setattr(self, name, -1)


@contextlib.asynccontextmanager
async def pipes() -> AsyncIterator[Pipes]:
    """Make the pipes of one command; whatever is still open at the end is closed."""
    status_read, status_write = os.pipe()
    go_read, go_write = os.pipe()
    made = Pipes(status_read, status_write, go_read, go_write)
    try:
        yield made
    finally:
        made.close()


class Command:
    """One running command. `run` once."""

    def __init__(self, launch: Launch, order: Order, pipes: Pipes, clock: Clock) -> None:
        self._launch = launch
        self._order = order
        self._pipes = pipes
        self._clock = clock
        self._shown = Clip(order.output_bytes)
        self._full = Clip(FULL_BYTES_MAX)
        self._killed = ""
        self._exit_code: int | None = None
        self._child = -1
        self._child_fd = -1
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> Ended:
        """Run to the end. When this returns or raises, nothing of the command is alive.

        Raises `Unavailable` (E-SANDBOX-START) when it could not be started at all.
        """
        started = self._clock.monotonic()
        work = asyncio.create_task(self._work())
        try:
            done, _ = await asyncio.wait({work}, timeout=self._order.timeout_s)
            if not done:
                self.kill("timeout")
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self.kill("cancelled")
            await _outlast(work)
            raise
        return self._ended(self._clock.monotonic() - started)

    def kill(self, why: str) -> None:
        """Kill every process of the command; the first reason counts."""
        if self._exit_code is not None:
            return  # it ended by itself; the rest of it is going already
        self._killed = self._killed or why
        # Without this no script begins; bwrap is not killed before it has a child to kill.
        self._pipes.close("go_write")
        if self._process is not None and self._process.returncode is None:
            self._strike()
            asyncio.get_running_loop().call_later(_LAST_RESORT_S, _kill_hard, self._process)

    def _strike(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            if self._child_fd >= 0 and self._launch.kill_child:
                # The first process of the namespace: the kernel reaps all others before it.
                signal.pidfd_send_signal(self._child_fd, signal.SIGKILL)
            elif self._child_fd >= 0:
                self._process.terminate()

    async def _work(self) -> None:
        await self._start()
        process = self._process
        assert process is not None
        tasks = [asyncio.create_task(t) for t in (self._status(), self._read(), self._watch())]
        status, reading, watching = tasks
        for task in (status, reading):
            task.add_done_callback(self._on_failure)
        try:
            await process.wait()
            watching.cancel()
            await self._child_dead()
            await asyncio.wait({status, reading}, timeout=_PIPE_CLOSES_WITHIN_S)
        except asyncio.CancelledError:
            # The loop itself is being taken down: nothing may be left behind even so.
            self.kill("cancelled")
            await process.wait()
            await self._child_dead()
            raise
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            if self._child_fd >= 0:
                if self._order.guard is not None:
                    self._order.guard.remove(self._child)
                os.close(self._child_fd)
                self._child_fd = -1
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _child_dead(self) -> None:
        """Wait for the first process of the namespace: it ends when all others have.

        bwrap itself leaves as soon as it knows the exit code; what the command left running is
        then still being killed.
        """
        if self._child_fd < 0:
            return
        loop = asyncio.get_running_loop()
        dead = asyncio.Event()
        loop.add_reader(self._child_fd, dead.set)
        try:
            if self._launch.kill_child:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._child_fd, signal.SIGKILL)
            async with asyncio.timeout(_LAST_RESORT_S):
                await dead.wait()
        except TimeoutError:
            raise Unavailable(
                "E-SANDBOX-STUCK",
                "A killed command does not die: the kernel holds one of its processes.",
                "Look for processes in state D; a network file system may hang.",
            ) from None
        finally:
            loop.remove_reader(self._child_fd)

    async def _start(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._launch.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._launch.environment,
                pass_fds=self._launch.descriptors,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise Unavailable(
                "E-SANDBOX-START", f"{self._launch.argv[0]} cannot be started: {error}"
            ) from error
        self._pipes.close("status_write", "go_read")

    async def _status(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        pipe = os.fdopen(self._pipes.status_read, "rb", buffering=0)
        self._pipes.status_read = -1
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while line := await reader.readline():
                self._heard(line)
            if self._launch.kill_child:
                # bwrap has said all and goes. What the command left running it leaves running.
                self._strike()
        finally:
            transport.close()

    def _heard(self, line: bytes) -> None:
        try:
            fact = json.loads(line)
        except ValueError:
            return
        if "exit-code" in fact:
            self._exit_code = int(fact["exit-code"])
        if "child-pid" in fact and self._child < 0:
            self._child = int(fact["child-pid"])
            with contextlib.suppress(ProcessLookupError, AttributeError):
                self._child_fd = os.pidfd_open(self._child)
            if self._killed:
                self._strike()
            else:
                self._let_go()

    def _let_go(self) -> None:
        """Let the shell run its script: from now on somebody will kill it if we die."""
        if self._order.guard is not None:
            self._order.guard.add(self._child)
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipes.go_write, b"g")
        self._pipes.close("go_write")

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(_READ_BYTES):
            self._shown.add(data)
            self._full.add(data)
            if self._order.on_output is not None:
                self._order.on_output(data)

    async def _watch(self) -> None:
        watch: Watch | None = None
        count = 0
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            if self._child < 0:
                continue
            if watch is None:
                watch = Watch(self._child, self._order.workspace, self._order.bounds)
            why = await asyncio.to_thread(watch.check)
            if count % 2 == 0:
                self._order.alive()
            count += 1
            if why:
                self.kill(why)

    def _on_failure(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.kill("cancelled")

    def _ended(self, duration_s: float) -> Ended:
        assert self._process is not None
        killed = self._killed
        cgroup = self._order.cgroup
        if cgroup is not None and cgroup.out_of_memory():
            killed = killed or "memory"
        if not killed and self._exit_code is None:
            if self._process.returncode != -signal.SIGKILL:
                raise self._not_started()
            killed = "memory"  # nobody else kills it: the kernel's out-of-memory killer
        dropped = self._shown.dropped_bytes
        return Ended(
            output=self._shown.text(),
            exit_code=None if killed else self._exit_code,
            duration_s=duration_s,
            killed=killed,
            dropped_bytes=dropped,
            full=self._full.text() if dropped else None,
        )

    def _not_started(self) -> Unavailable:
        said = self._shown.text()[-500:].decode("utf-8", "replace").strip()
        return Unavailable(
            "E-SANDBOX-START",
            f"The sandbox could not be set up: {said or 'it said nothing'}",
            "Run `perdure doctor` to see what is missing.",
        )


def _kill_hard(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _outlast(task: "asyncio.Task[None]") -> None:
    """Wait for a task that is about to end, however often we are cancelled meanwhile."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
