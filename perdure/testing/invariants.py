"""What must hold at the end of every simulated run, checked against the world's own record."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from perdure.core import events as e, journal as records
from perdure.core.agent import Effect, Verdict
from perdure.core.content import Text, ToolCall, UserItem
from perdure.core.context import Transcript
from perdure.core.errors import PerdureError
from perdure.core.events import Event
from perdure.core.evolve import evolve
from perdure.core.policy import approval_digest
from perdure.core.state import State
from perdure.core.step import next_step
from perdure.testing.index import rows_from_scratch
from perdure.testing.sim_sandbox import apply
from perdure.testing.sim_tools import AgentPlan, script_of, spec_of
from perdure.testing.world import Entered, World


class Run(Protocol):
    """A run that has come to its end."""

    @property
    def world(self) -> World: ...

    @property
    def sessions(self) -> Sequence[str]: ...

    @property
    def plans(self) -> Mapping[str, AgentPlan]: ...

    def state(self, session: str) -> State: ...


Check = Callable[[Run, str, list[Event]], Iterator[str]]


def check_all(run: Run) -> None:
    """Check every invariant on every session; findings go to the world's list of violations."""
    world = run.world
    for session in run.sessions:
        events = world.events(session)
        for name, check in CHECKS.items():
            for finding in check(run, session, events):
                world.violated(name, f"{session}: {finding}")


def chain(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """`seq` is dense and every hash follows from the one before."""
    assert run.world.disk is not None
    previous = records.GENESIS
    for seq, record in enumerate(run.world.disk.records(session, 0), 1):
        try:
            records.check(record, previous, seq)
        except PerdureError as error:
            yield str(error)
            return
        previous = record.hash


def prefixes(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """Every prefix folds, has a next step, and has spent no more than its limits."""
    state = State()
    tokens = usd = 0.0
    for event in events:
        try:
            state = evolve(state, event)
            next_step(state)
        except PerdureError as error:
            yield f"event {event.seq} {event.type}: {error}"
            return
        limits = state.limits
        tokens = max(tokens, float("inf") if limits.tokens is None else limits.tokens)
        usd = max(usd, float("inf") if limits.usd is None else limits.usd * 1_000_000)
        turn = state.turn
        if state.spent.tokens > tokens or state.spent.micro_usd > usd:
            yield f"event {event.seq}: spent {state.spent} over {limits}"
            return
        if turn and limits.steps is not None and turn.spent.steps > limits.steps:
            yield f"event {event.seq}: {turn.spent.steps} steps, limit {limits.steps}"
        if turn and limits.tool_calls is not None and turn.spent.tool_calls > limits.tool_calls:
            yield f"event {event.seq}: {turn.spent.tool_calls} calls, limit {limits.tool_calls}"
    world = run.world
    if world.billed_tokens[session] > tokens or world.billed_micro_usd[session] > usd:
        billed = f"{world.billed_tokens[session]} tokens, {world.billed_micro_usd[session]} µUSD"
        yield f"billed {billed} over {tokens} tokens, {usd} µUSD"
    limited = state.limits.tokens is not None or state.limits.usd is not None
    in_flight = state.turn.model.reserved_tokens if state.turn and state.turn.model else 0
    booked = state.spent.tokens + in_flight
    if limited and world.billed_tokens[session] > booked:
        yield f"billed {world.billed_tokens[session]} tokens, booked {booked}"


def acknowledged(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """What was acknowledged is in the journal, once."""
    taken = Counter(p.key for ev in events if isinstance(p := ev.payload, e.InputAccepted))
    for key, count in taken.items():
        if count > 1:
            yield f"input {key} was accepted {count} times"
    late = sum(_came_late(event.payload) for event in events)
    for post in run.world.acked:
        if post.session == session and not taken[post.key]:
            if late:
                late -= 1  # it was answered by a note, which does not name it
                continue
            yield f"input {post.key} was acknowledged and is not in the journal"


def _came_late(payload: e.Payload) -> bool:
    if not isinstance(payload, e.NoteRecorded):
        return False
    return payload.text.endswith("came after the session was closed.")


def followed(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """What followers were shown is what the journal says."""
    for shown, event in zip(run.world.seen[session], events, strict=False):
        if shown != event:
            yield f"event {event.seq} was shown as {shown}"
            return
    if len(run.world.seen[session]) > len(events):
        yield "events were shown that are not in the journal"


def once(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """A call that may happen once was entered once for each decision to run it."""
    calls = _calls(events)
    for call_id, call in calls.items():
        entered = run.world.entered.get((session, call_id), [])
        left = [x for x in entered if spec_of(x.tool).effect is Effect.ONCE]
        if call.effect is Effect.ONCE:
            allowed = 1 + call.reruns + run.world.denied_probes[session, call_id]
            if len(left) > allowed:
                yield f"{call_id} ({call.tool}) left {len(left)} times, decided {allowed}"
        # A read may enter before it is on disk, so its id may come back with another reply's call.
        if len({each.key for each in entered if spec_of(each.tool).effect is not Effect.READ}) > 1:
            yield f"{call_id} had several idempotency keys"
        attempts = [each.attempt for each in entered if _waits(each)]
        if len(set(attempts)) != len(attempts):
            yield f"{call_id} was entered twice as the same attempt: {attempts}"


def keys(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """An idempotency key stands for one call with one set of arguments; no call is a stranger."""
    calls = _calls(events)
    meant: dict[str, tuple[str, str]] = {}
    for (name, call_id), entered in run.world.entered.items():
        for each in entered if name == session else ():
            if spec_of(each.tool).effect is Effect.READ:
                continue
            if call_id not in calls:
                yield f"{call_id} left, and the journal knows nothing of it"
            if meant.setdefault(each.key, (call_id, each.arguments)) != (call_id, each.arguments):
                yield f"the key of {call_id} {each.arguments} stood for {meant[each.key]} before"


def poison(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """A call that kills its owners is tried a few times and then left to a person."""
    for (name, call_id), entered in run.world.entered.items():
        tried = Counter(
            each.progress
            for each in entered
            # A read does not wait for the disk, so its count says less than there was.
            if name == session and each.process in run.world.killed and _waits(each)
        )
        # Whoever claims in doubt and claims again learns no more that the last owner died.
        if tried and max(tried.values()) > TRIES + run.world.in_doubt:
            yield f"{call_id} was tried {max(tried.values())} times in vain"


def owned(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """Once a new owner has written, an old one never does again."""
    newest = 0
    for event in events:
        if isinstance(event.payload, e.SessionRecovered | e.ToolStarted):
            if event.payload.epoch < newest:
                yield f"event {event.seq}: epoch {event.payload.epoch} after {newest}"
            newest = max(newest, event.payload.epoch)


def patient(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """A model call is tried as often as the agent says, and no more."""
    attempts = run.plans[session].retry.attempts
    for event in events:
        if isinstance(event.payload, e.ModelRequested) and event.payload.attempt > attempts:
            yield f"event {event.seq}: attempt {event.payload.attempt} of {attempts}"


def decided(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """Nobody decides in a person's name."""
    for event in events:
        p = event.payload
        if not isinstance(p, e.ActionResolved) or p.by == "late result":
            continue
        if (session, p.action_id, p.decision) not in run.world.decided:
            yield f"event {event.seq}: {p.decision} of {p.action_id} was nobody's decision"


def obedient(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """After an interrupt or a pause nothing more is started."""
    state = State()
    for event in events:
        stopped = state.paused or (state.turn is not None and state.turn.interrupted)
        if stopped and isinstance(event.payload, e.ToolStarted | e.ModelRequested):
            yield f"event {event.seq} {event.type} came after a pause or an interrupt"
        state = evolve(state, event)


def honest(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """What the model reads of a call is what happened in the world."""
    for call_id, call in _calls(events).items():
        done = run.world.performed[session, call_id]
        if call.status == "ok" and call.effect is Effect.ONCE and not (done or call.vouched):
            yield f"{call_id} is reported as done and did not happen"
        failed = call.status == "error" and call.code != "E-SIM-RAISED" and not call.vouched
        if done and call.effect is Effect.ONCE and failed:
            yield f"{call_id} happened, and is reported as failed: {call.code}"
        if done and call.effect is not Effect.READ and "no effect" in call.text:
            yield f"{call_id} happened, and is reported to have had no effect"


def permitted(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """What ran is what was allowed: this tool, exactly these arguments, by this decision."""
    for call_id, call in _calls(events).items():
        for entered in run.world.entered.get((session, call_id), []):
            spec = spec_of(entered.tool)
            digest = approval_digest(spec, entered.arguments)
            permit = call.permits.get(entered.attempt)
            if spec.effect is Effect.READ and permit != digest:
                continue  # a read does not wait for the disk, so a crash may have lost its start
            if permit is None:
                yield f"{call_id} attempt {entered.attempt} ran without permission"
            elif permit != digest:
                yield f"{call_id} attempt {entered.attempt} ran with other arguments than allowed"
            number = json.loads(entered.arguments)["n"]
            if spec.ask and number >= int(spec.ask.removeprefix("n >= ")) and not call.allowed:
                yield f"{call_id} ran and nobody was asked"
            if spec.deny and number == 9:
                yield f"{call_id} ran although a rule forbids it"


def workspace(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """The workspace is what the finished calls, one after the other, would have made of it."""
    world = run.world
    if session not in world.workspaces:
        return
    expected: dict[str, str] = {}
    started = sorted(_calls(events).items(), key=lambda pair: pair[1].last_started)
    for call_id, call in started:
        if call.effect is not Effect.CONTAINED or not call.last_arguments:
            continue
        for step in _lasting_steps(call_id, call):
            apply(expected, step)
    found = world.workspaces[session]
    if found != expected:
        yield f"the workspace holds {found}, the finished calls make {expected}"
    state = run.state(session)
    kept = world.snapshots.get(state.snapshot, {})
    if kept != found:
        yield f"the newest snapshot holds {kept}, the workspace {found}"


def transcript(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """The model read each input at most once, in its exact words, and nothing else."""
    items = Transcript(events).items
    said = Counter(
        p.text for i in items if isinstance(i, UserItem) for p in i.content if isinstance(p, Text)
    )
    for text, count in said.items():
        if count > 1:
            yield f"{text!r} is {count} times in the transcript"


def _waits(entered: Entered) -> bool:
    """Whether the call could leave only when that was on disk."""
    return spec_of(entered.tool).effect is not Effect.READ


class _Call:
    """What the journal says of one call."""

    def __init__(self, call: ToolCall) -> None:
        self.tool = call.tool
        self.effect: Effect | None = None
        self.reruns = 0
        self.permits: dict[int, str] = {}
        self.status = ""
        self.code = ""
        self.text = ""
        self.vouched = False
        self.allowed = False
        self.last_arguments = ""
        self.last_started = 0
        self._arguments = call.arguments
        self._permit: str | None = None

    def requested(self, p: e.ToolRequested) -> None:
        self.effect = p.effect
        self.allowed = self.allowed or p.grant is not None
        self._permit = p.digest if p.verdict is Verdict.ALLOW else None

    def resolved(self, p: e.ActionResolved) -> None:
        if p.decision == "allow":
            self.allowed = True
            self._permit = p.digest
            self._arguments = p.arguments or self._arguments
        self.vouched = p.decision in ("done", "failed")
        if p.decision == "rerun":
            self.reruns += 1

    def started(self, p: e.ToolStarted, seq: int) -> None:
        self.last_started = seq
        self.last_arguments = self._arguments
        if self._permit is not None:
            self.permits[p.attempt] = self._permit

    def finished(self, p: e.ToolFinished) -> None:
        self.status = p.status
        self.code = p.error.code if p.error else ""
        self.text = p.text


def _calls(events: list[Event]) -> dict[str, _Call]:
    """Read the calls of a journal, in their order."""
    calls: dict[str, _Call] = {}
    actions: dict[str, str] = {}
    for event in events:
        match event.payload:
            case e.ModelResponded(status="ok", items=items):
                calls |= {i.id: _Call(i) for i in items if isinstance(i, ToolCall)}
            case e.ToolRequested() as p:
                calls[p.call_id].requested(p)
            case e.ActionRequested() as p:
                actions[p.action_id] = p.call_id
            case e.ActionResolved() as p:
                calls[actions[p.action_id]].resolved(p)
            case e.ToolStarted() as p:
                calls[p.call_id].started(p, event.seq)
            case e.ToolFinished() as p:
                calls[p.call_id].finished(p)
            case _:
                pass
    return calls


def _lasting_steps(call_id: str, call: _Call) -> list[list[str]]:
    """Return which steps of a contained call must be visible after it ended."""
    arguments = json.loads(call.last_arguments)
    if not isinstance(arguments.get("n"), int) or arguments.get("act") == "bug":
        return []
    script = script_of(call_id, arguments)
    if call.status == "ok" or call.code == "E-SIM-RAISED":
        return script
    if call.code == "E-TOOL-TIMEOUT":
        return script[: [step[0] for step in script].index("pause")]
    return []


def indexed(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """The index of errors is what the journal alone says."""
    assert run.world.disk is not None
    kept, due = run.world.disk.errors(session), rows_from_scratch(session, events)
    if kept != due:
        yield f"the index holds {kept}, the journal {due}"


TRIES: Final = 4  # one owner and three that recover
CHECKS: Final[dict[str, Check]] = {
    "chain": chain,
    "prefixes": prefixes,
    "acknowledged": acknowledged,
    "follower": followed,
    "once": once,
    "keys": keys,
    "poison": poison,
    "ownership": owned,
    "retries": patient,
    "decisions": decided,
    "obedience": obedient,
    "honesty": honest,
    "permission": permitted,
    "workspace": workspace,
    "transcript": transcript,
    "index": indexed,
}
