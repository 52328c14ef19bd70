"""The fold: events to state. The one place where state changes.

Rules: pure; total over valid journals (every prefix folds); an event that cannot follow what
came before raises `CorruptJournal` naming it, and is never skipped. What a step *may* do is
decided in `step.py`; what an event *means* is decided here.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Verdict
from perdure.core.content import ToolCall
from perdure.core.errors import CorruptJournal
from perdure.core.events import Event
from perdure.core.state import (
    ActionState,
    CallState,
    ModelCall,
    Phase,
    QueuedInput,
    State,
    Turn,
)
from perdure.core.timeline import forked, rewound


def fold(events: Iterable[Event], start: State | None = None) -> State:
    """Fold `events` onto `start` (default: nothing). Raises `CorruptJournal`.

    A rewind needs the state it goes back to: that must lie in `events`, not before `start`.
    """
    state, listed = start or State(), list(events)
    wanted = {ev.payload.to for ev in listed if isinstance(ev.payload, e.SessionRewound)}
    bases = {state.seq: state}
    for event in listed:
        if isinstance(event.payload, e.SessionRewound):
            base = bases.get(event.payload.to)
            if base is None:
                raise _corrupt(event, f"there is no event {event.payload.to} in its past")
            state = rewound(base, state, event)
        else:
            state = evolve(state, event)
        if event.seq in wanted:
            bases[event.seq] = state
    return state


def evolve(state: State, event: Event) -> State:
    """Fold one event. Raises `CorruptJournal` if it cannot follow what came before."""
    if event.seq != state.seq + 1:
        raise _corrupt(event, f"the journal is at {state.seq}")
    if isinstance(event.payload, e.SessionCreated) != (state.seq == 0):
        raise _corrupt(event, "session.created comes first and only once")
    if state.closed and not isinstance(event.payload, e.NoteRecorded | e.ToolLateResult):
        raise _corrupt(event, "the session is closed")
    state = replace(state, seq=event.seq, updated_at_us=event.at_us)
    return _FOLDS[type(event.payload)](state, event, event.payload)


def _session_created(state: State, event: Event, p: e.SessionCreated) -> State:
    if p.format > e.FORMAT:
        raise _corrupt(event, f"it has journal format {p.format}, newer than {e.FORMAT}")
    return replace(
        state,
        id=p.session,
        agent=p.agent,
        version=p.agent.version,
        source=p.source,
        created_at_us=event.at_us,
        parent=p.parent,
        parent_call=p.parent_call,
        levels=p.levels,
        width=p.width,
        asked=p.asked,
    )


def _session_updated(state: State, event: Event, p: e.SessionUpdated) -> State:
    agent = p.agent or state.spec
    version = p.agent.version if p.agent else state.version
    limited = replace(agent, limits=p.limits) if p.limits else agent
    # Another definition makes another context: what the last one counted is no bound for it.
    counted_seq = 0 if p.agent else state.last_tokens_seq
    asked = p.limits if p.limits and state.asked else state.asked
    return replace(state, agent=limited, version=version, last_tokens_seq=counted_seq, asked=asked)


def _session_forked(state: State, event: Event, p: e.SessionForked) -> State:
    if p.at != event.seq - 1:
        raise _corrupt(event, f"it begins at event {p.at}")
    return forked(state, event, p)


def _session_rewound(state: State, event: Event, p: e.SessionRewound) -> State:
    raise _corrupt(event, "a rewind folds onto the state it goes back to, see `fold`")


def _session_recovered(state: State, event: Event, p: e.SessionRecovered) -> State:
    if p.attempt != state.recoveries + 1:
        raise _corrupt(event, f"recovery {p.attempt} follows {state.recoveries}")
    return replace(state, recoveries=p.attempt)


def _session_parked(state: State, event: Event, p: e.SessionParked) -> State:
    return replace(state, parked=p.error)


def _session_closed(state: State, event: Event, p: e.SessionClosed) -> State:
    if state.turn is not None:
        raise _corrupt(event, "a turn is still open")
    return replace(state, closed=True, queue=())


def _input_accepted(state: State, event: Event, p: e.InputAccepted) -> State:
    match p.kind:
        case "message":
            queue = (*state.queue, QueuedInput(event.seq, "message"))
            return replace(state, queue=queue, paused=False)
        case "steer":
            return replace(state, queue=(*state.queue, QueuedInput(event.seq, "steer")))
        case "interrupt":
            turn = replace(state.turn, interrupted=True) if state.turn else None
            return replace(state, turn=turn, paused=False, parked=None)
        case "pause":
            return replace(state, paused=True)
        case "resume":
            queue = state.queue
            if state.turn is None and state.owes_reply:
                queue = (*queue, QueuedInput(event.seq, "resume"))
            return replace(state, queue=queue, parked=None, paused=False, recoveries=0)


def _turn_started(state: State, event: Event, p: e.TurnStarted) -> State:
    if state.turn is not None:
        raise _corrupt(event, f"turn {state.turn.number} is still open")
    if event.turn != state.turns + 1:
        raise _corrupt(event, f"turn {event.turn} follows {state.turns}")
    if p.input not in [q.seq for q in state.queue]:
        raise _corrupt(event, f"input {p.input} is not waiting")
    return replace(
        state,
        turns=event.turn,
        turn=Turn(event.turn, event.at_us),
        queue=tuple(q for q in state.queue if q.seq != p.input),
        owes_reply=True,
        last_status=None,
        last_error=None,
    )


def _turn_ended(state: State, event: Event, p: e.TurnEnded) -> State:
    turn = _turn(state, event)
    if turn.model is not None or state.open_calls:
        raise _corrupt(event, "the turn still has open calls")
    # To go on was asked for what was owed; when that is answered there is nothing to go on with.
    queue = tuple(q for q in state.queue if q.kind != "resume" or turn.owes_reply)
    return replace(
        state,
        turn=None,
        queue=queue,
        actions={},
        owes_reply=turn.owes_reply,
        last_status=p.status,
        last_error=p.error,
    )


def _model_requested(state: State, event: Event, p: e.ModelRequested) -> State:
    turn = _turn(state, event)
    if turn.model is not None or state.open_calls or not turn.owes_reply:
        raise _corrupt(event, "no model call is due")
    waiting = {q.seq for q in state.queue if q.kind == "steer"}
    if not set(p.steers) <= waiting:
        raise _corrupt(event, "it takes steering inputs that are not waiting")
    call = ModelCall(
        p.model, p.attempt, p.max_output_tokens, p.reserved_tokens, p.reserved_micro_usd
    )
    spent = replace(turn.spent, steps=turn.spent.steps + 1)
    return replace(
        state,
        turn=replace(turn, model=call, calls={}, retry_at_us=None, spent=spent),
        queue=tuple(q for q in state.queue if q.seq not in p.steers),
        spent=replace(state.spent, steps=state.spent.steps + 1),
    )


def _model_responded(state: State, event: Event, p: e.ModelResponded) -> State:
    turn = _turn(state, event)
    if turn.model is None:
        raise _corrupt(event, "no model call is open")
    state = replace(state, spent=state.spent.settled(p.usage))
    turn = replace(turn, model=None, spent=turn.spent.settled(p.usage))
    if p.status == "ok":
        return _reply(state, turn, event, p)
    # A call that died with its process ("lost") or was interrupted is no fault of the model's.
    failed = p.status in ("error", "incomplete")
    turn = replace(
        turn,
        failures=turn.failures + failed,
        retry_at_us=p.retry_at_us,
        error=p.error if failed and p.retry_at_us is None else None,
    )
    return replace(state, turn=turn)


def _reply(state: State, turn: Turn, event: Event, p: e.ModelResponded) -> State:
    calls = [item for item in p.items if isinstance(item, ToolCall)]
    if len({c.id for c in calls}) != len(calls):
        raise _corrupt(event, "two calls have the same id")
    counted = p.usage.input_tokens + p.usage.output_tokens
    return replace(
        state,
        turn=replace(
            turn,
            calls={c.id: CallState(c) for c in calls},
            next_call=turn.next_call + len(calls),
            owes_reply=bool(calls),
            failures=0,
            retry_at_us=None,
        ),
        last_tokens=counted,
        last_tokens_seq=event.seq if counted and not p.usage.estimated else 0,
        recoveries=0,
    )


def _tool_requested(state: State, event: Event, p: e.ToolRequested) -> State:
    call = _call(state, event, p.call_id, Phase.PROPOSED, Phase.READY)
    phase = {
        Verdict.ALLOW: Phase.READY,
        Verdict.ASK: Phase.ASKING,
        Verdict.DENY: Phase.REFUSED,
    }[p.verdict]
    call = replace(
        call, phase=phase, effect=p.effect, digest=p.digest, approved="", reason=p.reason
    )
    return state.with_call(call)


def _tool_started(state: State, event: Event, p: e.ToolStarted) -> State:
    call = _call(state, event, p.call_id, Phase.READY, Phase.STARTED)
    if p.attempt != call.attempt + 1:
        raise _corrupt(event, f"attempt {p.attempt} follows {call.attempt}")
    started = replace(
        call,
        phase=Phase.STARTED,
        attempt=p.attempt,
        epoch=p.epoch,
        snapshot=p.snapshot,
        approved="",
    )
    state = state.with_call(started)
    if p.attempt > 1:
        return state
    turn = _turn(state, event)
    count = replace(turn.spent, tool_calls=turn.spent.tool_calls + 1)
    total = replace(state.spent, tool_calls=state.spent.tool_calls + 1)
    return replace(state, turn=replace(turn, spent=count), spent=total)


def _tool_finished(state: State, event: Event, p: e.ToolFinished) -> State:
    call = _call(state, event, p.call_id, *_OPEN)
    if p.status == "unknown":
        if call.phase is not Phase.STARTED:
            raise _corrupt(event, "only a started call can have an unknown outcome")
        return state.with_call(replace(call, phase=Phase.UNKNOWN))
    if call.phase not in _MAY_END[p.status]:
        raise _corrupt(event, f"a call that is {call.phase.value} cannot end as {p.status}")
    state = state.with_call(replace(call, phase=Phase.FINISHED))
    open_actions = {k: a for k, a in state.actions.items() if a.call_id != p.call_id}
    return replace(state, actions=open_actions, recoveries=0)


def _action_requested(state: State, event: Event, p: e.ActionRequested) -> State:
    _call(state, event, p.call_id, Phase.ASKING, Phase.UNKNOWN, Phase.STARTED)
    if p.action_id in state.actions:
        raise _corrupt(event, f"action {p.action_id} is already open")
    action = ActionState(
        p.action_id, p.kind, p.call_id, p.question, p.digest, event.at_us, p.expires_at_us
    )
    return replace(
        state,
        actions={**state.actions, p.action_id: action},
        next_action=state.next_action + 1,
    )


def _action_resolved(state: State, event: Event, p: e.ActionResolved) -> State:
    action = state.actions.get(p.action_id)
    if action is None:
        raise _corrupt(event, f"action {p.action_id} is not open")
    actions = {k: a for k, a in state.actions.items() if k != p.action_id}
    state = replace(state, actions=actions, recoveries=0)
    call = _call(state, event, action.call_id, Phase.ASKING, Phase.UNKNOWN, Phase.STARTED)
    return state.with_call(_decided(call, event, p))


def _decided(call: CallState, event: Event, p: e.ActionResolved) -> CallState:
    waiting = call.phase in (Phase.UNKNOWN, Phase.STARTED)
    match p.decision:
        case "allow" if call.phase is Phase.ASKING:
            if p.arguments is None:
                return replace(call, phase=Phase.READY, approved=p.digest)
            edited = replace(call.call, arguments=p.arguments)
            return replace(call, call=edited, phase=Phase.READY, approved=p.digest, digest=p.digest)
        case "deny" | "expired" | "withdrawn" if call.phase is Phase.ASKING:
            return replace(call, phase=Phase.REFUSED, reason=p.reason or p.decision)
        case "done" if waiting:
            return replace(call, phase=Phase.RESOLVED, result=p.result or "", failed=False)
        case "failed" if waiting:
            return replace(call, phase=Phase.RESOLVED, failed=True, reason=p.reason)
        case "rerun" if waiting:
            return replace(call, phase=Phase.READY, approved=call.digest)
        case _:
            raise _corrupt(event, f"{p.decision} does not answer a call that is {call.phase.value}")


def _state_set(state: State, event: Event, p: e.StateSet) -> State:
    values = {k: v for k, v in state.values.items() if k != p.key}
    if bytes(p.value) != b"null":
        values[p.key] = p.value
    return replace(state, values=values)


def _environment_opened(state: State, event: Event, p: e.EnvironmentOpened) -> State:
    return replace(state, level=p.level)


def _environment_snapshot(state: State, event: Event, p: e.EnvironmentSnapshotted) -> State:
    first = state.first_snapshot or p.snapshot
    return replace(state, snapshot=p.snapshot, first_snapshot=first)


def _environment_restored(state: State, event: Event, p: e.EnvironmentRestored) -> State:
    return replace(state, snapshot=p.snapshot, restore_due=False)


def _nothing(state: State, event: Event, p: object) -> State:
    return state


_OPEN: Final = tuple(p for p in Phase if p is not Phase.FINISHED)
_MAY_END: Final[Mapping[str, tuple[Phase, ...]]] = {
    "ok": (Phase.STARTED, Phase.RESOLVED),
    "error": (Phase.STARTED, Phase.RESOLVED, Phase.PROPOSED, Phase.READY),
    "denied": (Phase.REFUSED,),
    "cancelled": _OPEN,
}
_FOLDS: Final[Mapping[type, Callable[[State, Event, Any], State]]] = {
    e.SessionCreated: _session_created,
    e.SessionUpdated: _session_updated,
    e.SessionRecovered: _session_recovered,
    e.SessionForked: _session_forked,
    e.SessionRewound: _session_rewound,
    e.SessionParked: _session_parked,
    e.SessionClosed: _session_closed,
    e.InputAccepted: _input_accepted,
    e.TurnStarted: _turn_started,
    e.TurnEnded: _turn_ended,
    e.ModelRequested: _model_requested,
    e.ModelResponded: _model_responded,
    e.ToolRequested: _tool_requested,
    e.ToolStarted: _tool_started,
    e.ToolFinished: _tool_finished,
    e.ToolLateResult: _nothing,
    e.ActionRequested: _action_requested,
    e.ActionResolved: _action_resolved,
    e.StateSet: _state_set,
    e.EnvironmentOpened: _environment_opened,
    e.EnvironmentSnapshotted: _environment_snapshot,
    e.EnvironmentRestored: _environment_restored,
    e.EnvironmentLost: _nothing,
    e.NoteRecorded: _nothing,
}


def _turn(state: State, event: Event) -> Turn:
    if state.turn is None:
        raise _corrupt(event, "no turn is open")
    return state.turn


def _call(state: State, event: Event, call_id: str, *phases: Phase) -> CallState:
    call = _turn(state, event).calls.get(call_id)
    if call is None:
        raise _corrupt(event, f"there is no call {call_id}")
    if call.phase not in phases:
        raise _corrupt(event, f"call {call_id} is {call.phase.value}")
    return call


def _corrupt(event: Event, why: str) -> CorruptJournal:
    return CorruptJournal(
        "E-JOURNAL-ORDER", f"Event {event.seq} ({event.type}) cannot follow: {why}."
    )
