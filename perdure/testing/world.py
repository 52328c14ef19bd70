"""The world around the simulated processes: what no crash of theirs can take back.

It records every effect that tools had, what models were paid, what workspaces hold and what was
acknowledged to whom. The invariants are checked against this record, not against the word of the
program under test.
"""

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from perdure.core import events as e, journal as records
from perdure.core.content import ContextItem
from perdure.core.events import Event
from perdure.core.journal import Record
from perdure.ports.store import ErrorRow
from perdure.stores.blobs import MemoryBlobs
from perdure.testing.simloop import Owner, SimLoop

T = TypeVar("T")

START_US: Final = 1_700_000_000_000_000


class Records(Protocol):
    """What lies on the disk right now, read past the program under test."""

    blobs: MemoryBlobs

    def records(self, session: str, after: int) -> list[Record]: ...

    def errors(self, session: str) -> list[ErrorRow]: ...

    def sessions(self) -> list[str]: ...


class Entered(msgspec.Struct, frozen=True):
    """A tool was entered: the moment from which an effect is possible."""

    tool: str
    attempt: int
    key: str
    arguments: str
    process: str
    progress: int  # how much had come of anything in this session by then


class Posted(msgspec.Struct, frozen=True):
    """A letter whose acceptance was acknowledged to a client."""

    session: str
    key: str
    kind: str
    text: str = ""


@dataclass
class World:
    """Everything outside of the crash domain."""

    loop: SimLoop
    dice: Random
    entered: dict[tuple[str, str], list[Entered]] = field(default_factory=dict)
    performed: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)  # by idempotency key
    denied_probes: Counter[tuple[str, str]] = field(default_factory=Counter)
    billed_tokens: Counter[str] = field(default_factory=Counter)
    billed_micro_usd: Counter[str] = field(default_factory=Counter)
    model_calls: Counter[str] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)
    workspaces: dict[str, dict[str, str]] = field(default_factory=dict)
    snapshots: dict[str, Mapping[str, str]] = field(default_factory=dict)
    openings: Counter[str] = field(default_factory=Counter)
    decided: set[tuple[str, str, str]] = field(default_factory=set)
    answers: set[tuple[str, str, str]] = field(default_factory=set)
    signalled: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # by key
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)
    acked: list[Posted] = field(default_factory=list)
    seen: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    violations: list[str] = field(default_factory=list)
    story: list[tuple[float, str]] = field(default_factory=list)
    order: dict[str, int] = field(default_factory=dict)  # of events, as they were made
    kills: int = 0
    in_doubt: int = 0
    killed: set[str] = field(default_factory=set)
    disk: Records | None = None
    reading: Callable[[str, Sequence[ContextItem]], list[str]] = lambda _session, _items: []
    fatal: Callable[[Owner, str], bool] = lambda _owner, _point: False
    clock_offset_us: int = 0
    fencing: bool = False  # owners lose their leases unawares: what they run goes on for a while
    _decoded: dict[str, list[Event]] = field(default_factory=dict)

    def now_us(self) -> int:
        """Return wall time as the machine shows it, jumps included."""
        return START_US + self.clock_offset_us + int(self.loop.time() * 1_000_000)

    def note(self, text: str) -> None:
        """Add a line to the story of this run."""
        self.story.append((self.loop.time(), text))

    def violated(self, invariant: str, text: str) -> None:
        """Write down that an invariant does not hold. The run fails, but goes on to its end."""
        self.violations.append(f"{invariant}: {text}")
        self.note(f"!! {invariant}: {text}")

    def snapshot(self, content: Mapping[str, str]) -> str:
        """Keep a copy of a workspace; the same content has the same name."""
        listed = sorted(content.items())
        name = hashlib.sha256(msgspec.json.encode(listed)).hexdigest()[:16]
        self.snapshots[name] = dict(content)
        return name

    async def point(self, owner: Owner, name: str) -> None:
        """A place where other things may happen first, and where the process may die."""
        if not owner.alive or self.fatal(owner, name):
            await asyncio.get_running_loop().create_future()  # nothing after this ever runs
        draw = self.dice.random()
        if draw < 0.3:
            await asyncio.sleep(0 if draw < 0.2 else draw)

    def progress(self, session: str) -> int:
        """Count what has come of something: a process that dies after it was not there in vain."""
        return sum(_is_progress(event.payload) for event in self.events(session))

    def enter(self, session: str, call_id: str, entered: Entered, *, hurts: bool) -> None:
        """Record that a tool was entered, and check that this was on disk before."""
        self.entered.setdefault((session, call_id), []).append(entered)
        self.note(f"{entered.process}: enters {session}:{call_id} attempt {entered.attempt}")
        if hurts and not self._started(session, call_id, entered.attempt):
            self.violated(
                "write-ahead",
                f"{session}:{call_id} attempt {entered.attempt} left before tool.started was on "
                "disk",
            )

    def acting(self, session: str, call_id: str) -> None:
        """A tool is about to act on the world: its call must not have been declared over."""
        for event in reversed(self.events(session)):
            match event.payload:
                case e.ToolFinished(call_id=name, status=status) if name == call_id:
                    if status != "unknown" and not self.fencing:
                        self.violated("still running", f"{session}:{call_id} acts after its end")
                    return
                case e.ToolStarted(call_id=name) if name == call_id:
                    return
                case e.SessionRewound() | e.SessionForked():
                    return  # how it ended there was taken back
                case _:
                    pass

    def events(self, session: str) -> list[Event]:
        """Return the durable events of a session, decoded once each."""
        assert self.disk is not None
        known = self._decoded.setdefault(session, [])
        for record in self.disk.records(session, len(known)):
            aside = records.aside(record)
            blob = at_once(self.disk.blobs.get(aside.blob)) if aside else None
            known.append(records.read(record, blob))
        return known

    def read(self, session: str) -> list[Event]:
        """Return the events of a session as far as they were read; for after the end."""
        return list(self._decoded.get(session, ()))

    def _started(self, session: str, call_id: str, attempt: int) -> bool:
        for event in reversed(self.events(session)):
            match event.payload:
                case e.ToolStarted(call_id=name, attempt=number) if name == call_id:
                    return number == attempt
                case e.SessionRewound() | e.SessionForked():
                    return False
                case _:
                    pass
        return False

    def bill(self, session: str, tokens: int, price: float) -> None:
        """A provider has read or written tokens; `price` is micro-dollars for one."""
        self.billed_tokens[session] += tokens
        self.billed_micro_usd[session] += int(tokens * price)


def _is_progress(payload: e.Payload) -> bool:
    match payload:
        case e.ModelResponded(status=status) | e.ToolFinished(status=status):
            return status not in ("lost", "unknown")
        case e.InputAccepted(kind=kind):
            return kind in ("resume", "message")  # a person's word that it shall go on
        case _:
            return isinstance(payload, e.ActionResolved | e.TimerFired)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; it must not wait for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise AssertionError("it waits for something")
