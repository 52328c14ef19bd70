"""What events about model calls and the transcript mean for the state."""

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.content import ModelItem, ToolCall
from perdure.core.events import Event
from perdure.core.folding import corrupt, open_turn
from perdure.core.state import CallState, ModelCall, State, Turn


def model_requested(state: State, event: Event, p: e.ModelRequested) -> State:
    turn = open_turn(state, event)
    if turn.model is not None or state.open_calls or not turn.owes_reply:
        raise corrupt(event, "no model call is due")
    waiting = {q.seq for q in state.queue if q.kind == "steer"}
    if not set(p.steers) <= waiting:
        raise corrupt(event, "it takes steering inputs that are not waiting")
    call = ModelCall(
        p.model,
        p.attempt,
        p.max_output_tokens,
        p.reserved_tokens,
        p.reserved_micro_usd,
        p.purpose,
    )
    spent = replace(turn.spent, steps=turn.spent.steps + 1)
    return replace(
        state,
        turn=replace(turn, model=call, calls={}, retry_at_us=None, spent=spent),
        queue=tuple(q for q in state.queue if q.seq not in p.steers),
        spent=replace(state.spent, steps=state.spent.steps + 1),
        compact_asked=state.compact_asked and bool(p.purpose),
    )


def model_responded(state: State, event: Event, p: e.ModelResponded) -> State:
    turn = open_turn(state, event)
    if turn.model is None:
        raise corrupt(event, "no model call is open")
    purpose, called = turn.model.purpose, turn.model.model
    state = replace(state, spent=state.spent.settled(p.usage))
    turn = replace(turn, model=None, spent=turn.spent.settled(p.usage))
    if p.status == "ok":
        return _reply(state, turn, event, p, called) if not purpose else _summary(state, turn)
    # A call that died with its process ("lost") or was interrupted is no fault of the model's.
    failed = p.status in ("error", "incomplete")
    ends = failed and p.retry_at_us is None and not p.remedy
    turn = replace(
        turn,
        failures=0 if p.remedy else turn.failures + failed,
        retry_at_us=p.retry_at_us,
        error=p.error if ends else None,
        remedy=p.remedy if p.remedy in ("compact", "repair") else turn.remedy,
        model_name=p.fallback or turn.model_name,
    )
    return replace(state, turn=turn)


def _summary(state: State, turn: Turn) -> State:
    """Nothing but the bill: what the summary is for is said by the event that follows it."""
    return replace(state, turn=replace(turn, failures=0, retry_at_us=None))


def _reply(state: State, turn: Turn, event: Event, p: e.ModelResponded, called: str) -> State:
    calls = [item for item in p.items if isinstance(item, ToolCall)]
    if len({c.id for c in calls}) != len(calls):
        raise corrupt(event, "two calls have the same id")
    counted = p.usage.input_tokens + p.usage.output_tokens
    first = bool(state.compacted_seq) and not state.compacted_tokens
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
        last_tokens_model="" if called == state.spec.model else called,
        compacted_tokens=counted if first else state.compacted_tokens,
        last_tokens_seq=event.seq if counted and not p.usage.estimated else 0,
        recoveries=0,
    )


def context_compacted(state: State, event: Event, p: e.ContextCompacted) -> State:
    turn = _between_calls(state, event, p.upto)
    turn = replace(turn, remedy="", compactions=turn.compactions + 1, error=None)
    return replace(
        state,
        turn=turn,
        last_tokens_seq=0,
        compacted_seq=event.seq,
        compacted_tokens=0,
        compact_asked=False,
    )


def compact_asked(state: State, event: Event, p: e.ContextCompactAsked) -> State:
    return replace(state, compact_asked=True)


def context_repaired(state: State, event: Event, p: e.ContextRepaired) -> State:
    turn = _between_calls(state, event, p.upto)
    turn = replace(turn, remedy="", repairs=turn.repairs + 1, error=None)
    return replace(state, turn=turn, last_tokens_seq=0)


def _between_calls(state: State, event: Event, upto: int) -> Turn:
    turn = open_turn(state, event)
    if turn.model is not None or state.open_calls:
        raise corrupt(event, "calls are open that belong to the transcript's end")
    if not 0 < upto < event.seq:
        raise corrupt(event, f"event {upto} is not in the past")
    return turn


def model_delta(state: State, event: Event, p: e.ModelDelta) -> State:
    if open_turn(state, event).model is None:
        raise corrupt(event, "no model call is open")
    return state


def context_added(state: State, event: Event, p: e.ContextAdded) -> State:
    if not p.items and not p.raw:
        raise corrupt(event, "it adds nothing")
    if not p.items:
        return state
    if state.turn is not None:
        raise corrupt(event, "a turn is open")
    last = p.items[-1]
    answered = isinstance(last, ModelItem) and not any(isinstance(i, ToolCall) for i in last.items)
    return replace(state, owes_reply=not answered, last_tokens_seq=0)


def context_dropped(state: State, event: Event, p: e.ContextDropped) -> State:
    if state.turn is not None:
        raise corrupt(event, "a turn is open")
    if not 0 < p.entered < event.seq or p.index < 0:
        raise corrupt(event, f"event {p.entered} is not in the past")
    return replace(state, last_tokens_seq=0)
