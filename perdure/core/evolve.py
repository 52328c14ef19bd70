"""The fold: events to state. The one place where state changes.

Rules: pure; total over valid journals (every prefix folds); an event that cannot follow what
came before raises `CorruptJournal` naming it, and is never skipped. What a step *may* do is
decided in `step.py`; what an event *means* is decided here.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from perdure.core import events as e, folds_calls as calls, folds_models as models
from perdure.core.events import Event
from perdure.core.folding import corrupt, open_turn
from perdure.core.state import QueuedInput, State, Turn
from perdure.core.timeline import forked, imported, rewound


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
                raise corrupt(event, f"there is no event {event.payload.to} in its past")
            state = rewound(base, state, event)
        else:
            state = evolve(state, event)
        if event.seq in wanted:
            bases[event.seq] = state
    return state


def evolve(state: State, event: Event) -> State:
    """Fold one event. Raises `CorruptJournal` if it cannot follow what came before."""
    if event.seq != state.seq + 1:
        raise corrupt(event, f"the journal is at {state.seq}")
    if isinstance(event.payload, e.SessionCreated) != (state.seq == 0):
        raise corrupt(event, "session.created comes first and only once")
    if state.closed and not isinstance(event.payload, e.NoteRecorded | e.ToolLateResult):
        raise corrupt(event, "the session is closed")
    turn = _rested(state, event)
    state = replace(state, seq=event.seq, updated_at_us=event.at_us, turn=turn)
    return _FOLDS[type(event.payload)](state, event, event.payload)


def _rested(state: State, event: Event) -> Turn | None:
    """Return the open turn with the time that nobody worked on it before `event`.

    People, timers, pauses and dead processes use up none of a turn's time.
    """
    turn = state.turn
    if turn is None or not (
        state.actions
        or state.timers
        or state.paused
        or state.parked
        or isinstance(event.payload, e.SessionRecovered)
        or (isinstance(event.payload, e.InputAccepted) and event.payload.kind == "resume")
    ):
        return turn
    return replace(turn, waited_us=turn.waited_us + max(0, event.at_us - state.updated_at_us))


def _session_created(state: State, event: Event, p: e.SessionCreated) -> State:
    if p.format > e.FORMAT:
        raise corrupt(event, f"it has journal format {p.format}, newer than {e.FORMAT}")
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
        raise corrupt(event, f"it begins at event {p.at}")
    return imported(forked(state, event, p), event, p)


def _session_rewound(state: State, event: Event, p: e.SessionRewound) -> State:
    raise corrupt(event, "a rewind folds onto the state it goes back to, see `fold`")


def _session_recovered(state: State, event: Event, p: e.SessionRecovered) -> State:
    if p.attempt != state.recoveries + 1:
        raise corrupt(event, f"recovery {p.attempt} follows {state.recoveries}")
    return replace(state, recoveries=p.attempt)


def _session_parked(state: State, event: Event, p: e.SessionParked) -> State:
    return replace(state, parked=p.error)


def _session_closed(state: State, event: Event, p: e.SessionClosed) -> State:
    if state.turn is not None:
        raise corrupt(event, "a turn is still open")
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
        raise corrupt(event, f"turn {state.turn.number} is still open")
    if event.turn != state.turns + 1:
        raise corrupt(event, f"turn {event.turn} follows {state.turns}")
    if p.input not in [q.seq for q in state.queue]:
        raise corrupt(event, f"input {p.input} is not waiting")
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
    turn = open_turn(state, event)
    if turn.model is not None or state.open_calls:
        raise corrupt(event, "the turn still has open calls")
    # To go on was asked for what was owed; when that is answered there is nothing to go on with.
    queue = tuple(q for q in state.queue if q.kind != "resume" or turn.owes_reply)
    return replace(
        state,
        turn=None,
        queue=queue,
        actions={},
        timers={},
        owes_reply=turn.owes_reply,
        last_status=p.status,
        last_error=p.error,
    )


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


def _note_recorded(state: State, event: Event, p: e.NoteRecorded) -> State:
    return imported(state, event, p)


def _nothing(state: State, event: Event, p: object) -> State:
    return state


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
    e.ModelRequested: models.model_requested,
    e.ModelResponded: models.model_responded,
    e.ToolRequested: calls.tool_requested,
    e.ToolStarted: calls.tool_started,
    e.ToolFinished: calls.tool_finished,
    e.ModelDelta: models.model_delta,
    e.ContextAdded: models.context_added,
    e.ContextDropped: models.context_dropped,
    e.ToolLateResult: _nothing,
    e.ActionRequested: calls.action_requested,
    e.ActionResolved: calls.action_resolved,
    e.GrantRevoked: calls.grant_revoked,
    e.SignalReceived: calls.signal_received,
    e.TimerSet: calls.timer_set,
    e.TimerFired: calls.timer_fired,
    e.ContextCompacted: models.context_compacted,
    e.ContextCompactAsked: models.compact_asked,
    e.ContextRepaired: models.context_repaired,
    e.StateSet: _state_set,
    e.EnvironmentOpened: _environment_opened,
    e.EnvironmentSnapshotted: _environment_snapshot,
    e.EnvironmentRestored: _environment_restored,
    e.EnvironmentLost: _nothing,
    e.NoteRecorded: _note_recorded,
}
