"""A session being worked on: its journal, its tools, its place in the file system."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.errors import ErrorInfo, NotFound, PerdureError, Unavailable, error_info
from perdure.core.grants import Grant
from perdure.core.inbox import Late
from perdure.core.state import CallState, State
from perdure.core.step import resting
from perdure.engine.hub import Hub, Progress
from perdure.engine.journal import Journal
from perdure.engine.kit import Kit
from perdure.engine.ledger import Ledger
from perdure.engine.trees import Trees
from perdure.ports.sandbox import Rollback, Sandbox
from perdure.ports.tool import Tool, ToolOutput

Rules = Callable[[str], Awaitable[Sequence[Grant]]]  # for the call of that id


class Place:
    """The sandbox of one session, opened when it is first needed."""

    def __init__(self, kit: Kit, journal: Journal) -> None:
        self._kit = kit
        self._journal = journal
        self._sandbox: Sandbox | None = None
        self._opening = asyncio.Lock()

    @property
    def open_sandbox(self) -> Sandbox | None:
        """The sandbox if it is open."""
        return self._sandbox

    async def sandbox(self) -> Sandbox:
        """Return the sandbox, opening it first. What is really in force is journaled.

        Raises `Unavailable` (E-NO-ENVIRONMENT, E-SANDBOX-…).
        """
        async with self._opening:
            if self._sandbox is None:
                try:
                    self._sandbox = await self._open()
                except PerdureError as error:
                    self._journal.append(e.EnvironmentLost(_lost(error)))
                    raise
            return self._sandbox

    async def _open(self) -> Sandbox:
        state = self._journal.state
        spec = state.spec.environment
        environments = self._kit.environments.get(spec.kind)
        if environments is None:
            raise Unavailable(
                "E-NO-ENVIRONMENT",
                f"Agent {state.spec.name} has no environment {spec.kind!r} here, "
                "and the tool needs one.",
                "Give the agent workspace=True.",
            )
        if state.snapshot and not await environments.has(state.id, state.snapshot):
            # A fork, a workspace that somebody deleted or that another node has: made anew from
            # what is stored.
            with _parking():
                sandbox = await environments.restore(state.id, spec, state.snapshot)
            self._journal.append(_opened(sandbox), e.EnvironmentRestored(state.snapshot))
            return sandbox
        sandbox = await environments.open(state.id, spec, state.source)
        self._journal.append(_opened(sandbox))
        if not state.snapshot:
            snapshot = await self._journal.patiently(sandbox.snapshot)
            self._journal.append(e.EnvironmentSnapshotted(snapshot))
        return sandbox

    async def restore(self, snapshot: str) -> None:
        """Bring the workspace to `snapshot`, making it if there is none."""
        await self.sandbox()
        if self._journal.state.restore_due:
            await self.back_to(snapshot, "")

    async def snapshot(self, call_id: str) -> tuple[e.EnvironmentSnapshotted, ...]:
        """Store the workspace as it is; return the event, or nothing when nothing changed."""
        if self._sandbox is None:
            return ()
        snapshot = await self._journal.patiently(self._sandbox.snapshot)
        if snapshot == self._journal.state.snapshot:
            return ()
        return (e.EnvironmentSnapshotted(snapshot, call_id),)

    async def plan(self, snapshot: str) -> Rollback:
        """Say what going back to `snapshot` would do."""
        sandbox = await self.sandbox()
        with _parking():
            return await sandbox.rollback(snapshot, dry=True)

    async def back_to(self, snapshot: str, call_id: str) -> None:
        """Take the workspace back to `snapshot` and journal what that changed."""
        sandbox = await self.sandbox()
        with _parking():
            done = await sandbox.rollback(snapshot)
        self._journal.append(
            e.EnvironmentRestored(
                snapshot, call_id, len(done.restored), done.restored[:50], done.unsure[:50]
            )
        )

    async def close(self) -> None:
        """Kill what runs in the sandbox."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            await sandbox.close()


@dataclass
class Work:
    """Everything that performing a step may touch."""

    kit: Kit
    hub: Hub
    journal: Journal
    place: Place
    tools: Callable[[], Awaitable[Mapping[str, Tool]]]
    wake: Callable[[str], None]
    trees: Trees | None = None  # None: one session by itself, without subagents
    ledger: Ledger = field(default_factory=Ledger)
    rules: Rules | None = None  # what is allowed beyond one session; None: what the store says
    interrupting: bool = False
    running: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ledger.note(self.state)
        self.journal.noted = self.ledger.note

    @property
    def state(self) -> State:
        """The state now."""
        return self.journal.state

    @property
    def stopping(self) -> bool:
        """Whether nothing more may be started: paused, parked, or the turn interrupted."""
        turn = self.state.turn
        return bool(resting(self.state)) or (turn is not None and turn.interrupted)


@dataclass
class CallContext:
    """What a tool learns about its call; see `ports.tool.ToolContext`."""

    session_id: str
    call_id: str
    attempt: int
    idempotency_key: str
    _work: Work
    _sandbox: Sandbox | None

    @property
    def sandbox(self) -> Sandbox:
        """The session's sandbox."""
        if self._sandbox is None:
            raise Unavailable(
                "E-NO-ENVIRONMENT",
                "This tool did not say that it works in the environment.",
                "Declare it with environment=True.",
            )
        return self._sandbox

    @property
    def work(self) -> Work:
        """The session being worked on: for tools that are part of the engine."""
        return self._work

    def note(self, text: str) -> None:
        """Write a remark for people into the session's journal."""
        self._work.journal.append(e.NoteRecorded(text))

    def progress(self, text: str) -> None:
        """Show a piece of output while the call runs."""
        self._work.hub.live(self.session_id, Progress(self.call_id, text))

    def late(self, output: ToolOutput) -> None:
        """File a result that came when nobody waited any more."""
        status: e.ToolStatus = "error" if output.error else "ok"
        letter = encode(Late(self.call_id, self.attempt, status, output.text))
        key = f"late:{self.call_id}:{self.attempt}"
        asyncio.ensure_future(self._file(key, letter)).add_done_callback(_seen)

    async def _file(self, key: str, letter: bytes) -> None:
        await self._work.kit.store.post(self.session_id, key, letter)
        self._work.wake(self.session_id)


def _seen(posted: "asyncio.Future[None]") -> None:
    """Take note of how filing a late result ended; there is nobody left to tell."""
    if not posted.cancelled():
        posted.exception()


def context_of(work: Work, call: CallState, attempt: int, sandbox: Sandbox | None) -> CallContext:
    """Return the context of an attempt of `call`."""
    return CallContext(
        work.state.id, call.call.id, attempt, key_of(work.state.id, call), work, sandbox
    )


def key_of(session: str, call: CallState) -> str:
    """Return the idempotency key: the same on every attempt, and in every fork that took the
    open call over; never used for another call, nor for other arguments that a person put in.
    """
    name = f"{call.session or session}\0{call.call.id}\0{call.call.arguments}"
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]


@contextlib.contextmanager
def _parking() -> Iterator[None]:
    """Let a snapshot that is nowhere park the session, with the reason, and not end its work as if
    the session itself were gone.
    """
    try:
        yield
    except NotFound as error:
        raise Unavailable(error.code, error.message, error.hint) from error


def _lost(error: PerdureError) -> ErrorInfo:
    return error_info(
        error.code, "environment", error.message, hint=error.hint, retryable=error.retryable
    )


def _opened(sandbox: Sandbox) -> e.EnvironmentOpened:
    seen = sandbox.isolation
    flags = ("filesystem", "network", "processes", "seccomp")
    force = [name for name in flags if getattr(seen, name)]
    if seen.memory:
        force.append(f"memory:{seen.memory}")
    return e.EnvironmentOpened(seen.level, tuple(force), seen.notes, sandbox.workspace)
