"""The world of a replay: a model, tools and a workspace that say again what they said then.

Whoever asks the world for something waits at a `Gate` until the record has come to the answer, so
that everything happens in the recorded order. No tool is run, no file is touched.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar, cast

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Effect, ToolSpec
from perdure.core.errors import ErrorInfo, InvalidRequest, Unavailable, error_info
from perdure.core.grants import Grant
from perdure.core.state import State
from perdure.engine.journal import Journal
from perdure.engine.kit import Kit
from perdure.engine.recording import Recording, Retold
from perdure.engine.waits import Held
from perdure.engine.work import Place, Work
from perdure.ports.clock import Clock
from perdure.ports.sandbox import Rollback, Sandbox
from perdure.ports.store import Store
from perdure.ports.tool import OutcomeUnknown, Tool, ToolContext, ToolFailed, ToolOutput, Waiting

T = TypeVar("T")
Answer = Callable[[], T]  # gives the value, or raises what was raised then
Finder = Callable[[], Answer[Any] | None]

_NEVER_S: Final = 1e9
_UNSURE: Final = re.compile(r" interrupted, and (\d+) files changed after it died: (.*)\. They ")


class Gate:
    """One question to the world. `find` looks whether the event that is due answers it."""

    def __init__(self, find: Finder, *, patient: bool) -> None:
        self.find = find
        self.patient = patient  # opened only when nobody else can make use of the event
        self.abandoned = False
        self._answer: Answer[Any] | None = None
        self._opened = asyncio.Event()

    def open(self, answer: Answer[Any]) -> None:
        """Let the one who waits go on."""
        self._answer = answer
        self._opened.set()

    def abandon(self) -> None:
        """Send the one who waits away. A cancelled group does not pass on that it is cancelled
        again, so this is told to each.
        """
        self.abandoned = True
        self._opened.set()

    async def wait(self) -> Answer[Any]:
        """Wait for the answer. When a cancelled effect ends is a matter of record too."""
        while self._answer is None:
            try:
                await self._opened.wait()
            except asyncio.CancelledError:
                if self.abandoned:
                    raise
            if self.abandoned:
                raise asyncio.CancelledError
        return self._answer


class Stage:
    """Everything that waits for the world to answer."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.journal: Retold | None = None
        self.work: Work | None = None
        self.leaving = False  # what is in progress is abandoned: nobody waits here any more
        self._gates: list[Gate] = []

    @property
    def state(self) -> State:
        """The state of what is accounted for."""
        assert self.journal is not None
        return self.journal.kept

    async def ask(self, find: Callable[[], Answer[T] | None], *, patient: bool = False) -> T:
        """Wait until the record has the answer; return it or raise it."""
        assert self.journal is not None
        if self.leaving:
            raise asyncio.CancelledError
        gate = Gate(find, patient=patient)
        self._gates.append(gate)
        self.journal.activity += 1
        try:
            answer: Answer[T] = await gate.wait()
        finally:
            self._gates.remove(gate)
        return answer()

    def open(self, *, patience: bool = False) -> bool:
        """Open the gate whose answer is due; the patient ones only when `patience` is at an end."""
        for gate in sorted(self._gates, key=lambda gate: gate.patient):
            answer = gate.find() if patience or not gate.patient else None
            if answer is not None:
                gate.find = lambda: None
                gate.open(answer)
                return True
        return False

    def abandon(self) -> None:
        """Nobody who waits here will get an answer."""
        self.leaving = True
        for gate in self._gates:
            gate.abandon()

    def cut(self) -> NoReturn:
        """End an effect as the interrupt of a person did."""
        assert self.work is not None
        self.work.interrupting = True
        raise asyncio.CancelledError

    @property
    def interrupted(self) -> bool:
        """Whether a person has interrupted the turn."""
        return self.state.turn is not None and self.state.turn.interrupted

    def concerning(self, call_id: str) -> e.Payload | None:
        """Return the event that is due if it is about that call."""
        payload = self.recording.due
        return payload if getattr(payload, "call_id", None) == call_id else None


class ToldTool:
    """A tool that gives its recorded results, in the order of the record."""

    def __init__(self, stage: Stage, spec: ToolSpec) -> None:
        self._stage = stage
        # Whether a call took too long is recorded; how long this replay takes says nothing.
        self.spec = replace(spec, timeout_s=_NEVER_S)

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Return what was recorded of this call."""
        return await self._stage.ask(lambda: self._result(context.call_id))

    def wait(
        self, arguments: Mapping[str, Any], now_us: int, context: ToolContext
    ) -> Waiting | None:
        """Return what the call was said to wait for, if it did. Raises what it raised."""
        match self._stage.recording.next_of(context.call_id):
            case e.TimerSet(due_us=due_us, signal=signal):
                return Waiting(due_us, signal)
            case e.ToolFinished(status="error", error=ErrorInfo() as error):
                raise InvalidRequest(error.code, error.message, error.hint)
            case _:
                return None

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Return what the probe must have said, by what the engine did then."""
        return await self._stage.ask(lambda: self._probed(context.call_id))

    def _result(self, call_id: str) -> Answer[ToolOutput] | None:
        stage = self._stage
        match stage.concerning(call_id):
            case e.ToolFinished(status="ok" | "error") as done:
                return self._ended(done)
            case e.ToolFinished(status="retry" | "held") as done:
                return self._failed(done)
            case e.EnvironmentRestored() if not stage.interrupted:
                return self._taken_back(call_id)
            case e.ToolFinished(status="unknown", error=error):
                after = stage.recording.ahead(1)
                asks = after is not None and isinstance(after.payload, e.ActionRequested)
                if stage.interrupted and not asks:
                    return stage.cut
                return _raising(OutcomeUnknown(error.message if error else ""))
            case e.ToolFinished(status="cancelled") | e.EnvironmentRestored() if stage.interrupted:
                return stage.cut
            case _:
                return None

    def _ended(self, done: e.ToolFinished) -> Answer[ToolOutput]:
        """Return what a call ended with. Where errors go to others than the model, one that went
        to the model was a mistake of the model's own.
        """
        error = done.error
        if error is None or done.fatal or self.spec.on_error == "model":
            return lambda: _output(done)
        if done.text == f"{error.code}: {error.message}":
            return _raising(InvalidRequest(error.code, error.message, error.hint))
        return lambda: _output(done)

    def _taken_back(self, call_id: str) -> Answer[ToolOutput] | None:
        """Return what the attempt failed with whose changes the event that is due undoes."""
        after = self._stage.recording.ahead(1)
        match after.payload if after is not None else None:
            case e.ToolFinished(call_id=name, status="retry" | "held") as done if name == call_id:
                return self._failed(done)
            case _:
                return None

    def _failed(self, done: e.ToolFinished) -> Answer[ToolOutput]:
        """Return what an attempt failed with; a `once` call is tried again only if it said so."""
        if done.status == "retry" and self.spec.effect is Effect.ONCE and done.error is not None:
            return _raising(ToolFailed(done.error))
        return lambda: _output(done)

    def _probed(self, call_id: str) -> Answer[ToolOutput | None] | None:
        match self._stage.concerning(call_id):
            case e.ToolFinished(status="ok" | "error", meta=meta) as done if "probed" in meta:
                return lambda: replace(_output(done), meta={})
            case e.ToolFinished():
                return lambda: None
            case e.ToolStarted() | e.ToolRequested() | e.EnvironmentRestored():
                return _raising(ToolFailed(error_info("E-TOOL-FAILED", "tool", "not done")))
            case _:
                return None


def _output(done: e.ToolFinished) -> ToolOutput:
    return ToolOutput(done.text, done.error, done.full.encode() or None, done.meta)


def _raising(error: Exception) -> Callable[[], NoReturn]:
    def answer() -> NoReturn:
        raise error

    return answer


class ToldHeld(Held):
    """Waits as they ended: which of two was over first, the monotonic clock of then knew."""

    def __init__(self, stage: Stage, clock: Clock) -> None:
        super().__init__(clock)
        self._stage = stage

    def is_over(self, name: str, due_us: int, now_us: int) -> bool:
        """Whether the event that is due says so; where it says nothing, whether it was time."""
        match self._stage.recording.due:
            case (
                e.TimerFired(timer_id=ended, signal=0)
                | e.ActionResolved(action_id=ended, decision="expired")
            ):
                return name == ended
            case _:
                return super().is_over(name, due_us, now_us)


class ToldPlace(Place):
    """A workspace of which only what was recorded is known."""

    def __init__(self, kit: Kit, journal: Journal, stage: Stage) -> None:
        super().__init__(kit, journal)
        self._stage = stage

    @property
    def open_sandbox(self) -> Sandbox | None:
        """See `Place.open_sandbox`: no tool is run, so nobody uses it."""
        return cast(Sandbox, self)

    async def sandbox(self) -> Sandbox:
        """Wait until all is accounted for that opening it told."""
        await self._stage.ask(lambda: lambda: None, patient=True)
        return cast(Sandbox, self)

    async def snapshot(self, call_id: str) -> tuple[e.EnvironmentSnapshotted, ...]:
        """Return the recorded snapshot after that call."""
        after = self._stage.recording.ahead(1)
        payload = after.payload if after else None
        if isinstance(payload, e.EnvironmentSnapshotted) and payload.call_id == call_id:
            return (payload,)
        return ()

    async def plan(self, snapshot: str) -> Rollback:
        """Return what a person must have been asked about."""
        return await self._stage.ask(self._unsure)

    async def back_to(self, snapshot: str, call_id: str) -> None:
        """Append that the workspace was taken back, with the files that are recorded."""

        def find() -> Answer[e.EnvironmentRestored] | None:
            due = self._stage.recording.due
            return (lambda: due) if isinstance(due, e.EnvironmentRestored) else None

        done = await self._stage.ask(find)
        assert self._stage.journal is not None
        self._stage.journal.append(
            e.EnvironmentRestored(snapshot, call_id, done.count, done.paths, done.kept)
        )

    def _unsure(self) -> Answer[Rollback] | None:
        match self._stage.recording.due:
            case e.ActionRequested(kind="rollback", question=question):
                return lambda: Rollback((), _paths_in(question))
            case e.ToolStarted() | e.ToolRequested() | e.EnvironmentRestored():
                return lambda: Rollback((), ())
            case _:
                return None


def _paths_in(question: str) -> tuple[str, ...]:
    """Read back which files a question about a rollback was about; at most five are named."""
    found = _UNSURE.search(question)
    if found is None:
        return ("?",)
    count, shown = int(found[1]), found[2]
    named = shown.removesuffix("…") if count > 5 else shown
    paths = named.split(", ", min(count, 5) - 1)
    return (*paths, *("" for _ in range(count - len(paths))))


class ToldRules:
    """The rules as they were found: what a call was allowed by, if it was a rule."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def __call__(self, call_id: str) -> Sequence[Grant]:
        """Wait until the record says what became of the call; return the rule that allowed it.

        The engine looks for itself whether that rule covers the call.
        """
        return await self._stage.ask(lambda: self._found(call_id))

    def _found(self, call_id: str) -> Answer[Sequence[Grant]] | None:
        match self._stage.concerning(call_id):
            case None:
                return None
            case e.ToolRequested(grant=grant):
                pass
            case _:  # it goes on, so what had allowed it still did
                grant = self._stage.recording.granted(call_id)
        rules = (grant,) if grant is not None and grant.scope == "rule" else ()
        return lambda: rules


class NoStore:
    """Stands where a store would, and can keep nothing. A blob's name stands for the blob."""

    @property
    def blobs(self) -> "NoStore":
        """See `Store.blobs`."""
        return self

    async def put(self, data: bytes) -> str:
        """See `Blobs.put`: recorded results hold the name of the blob in its place."""
        text = data.decode("utf-8", "replace")
        return text if len(text) == 64 else hashlib.sha256(data).hexdigest()

    async def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        raise Unavailable("E-STORE-CLOSED", "A replay has no store.")

    def holds(self, claim: object) -> bool:
        """See `Store.holds`: a replay loses nothing."""
        return True


def no_store() -> Store:
    """Return what a replay has for a store."""
    return cast(Store, NoStore())


def told_tools(stage: Stage) -> Mapping[str, Tool]:
    """Return the tools of the session's definition, each with its recorded results."""
    return {spec.name: ToldTool(stage, spec) for spec in stage.state.spec.tools}
