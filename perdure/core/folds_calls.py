"""What events about tool calls, and about what they wait for, mean for the state."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Verdict
from perdure.core.events import Event
from perdure.core.folding import call_in, corrupt, open_turn
from perdure.core.grants import Grant
from perdure.core.state import (
    ActionState,
    CallState,
    Decided,
    Phase,
    Signal,
    State,
    TimerState,
)

_REMEMBERED: Final = 20  # decisions kept for those who come too late


def tool_requested(state: State, event: Event, p: e.ToolRequested) -> State:
    call = call_in(state, event, p.call_id, Phase.PROPOSED, Phase.READY)
    phase = {
        Verdict.ALLOW: Phase.READY,
        Verdict.ASK: Phase.ASKING,
        Verdict.DENY: Phase.REFUSED,
    }[p.verdict]
    call = replace(
        call,
        phase=phase,
        effect=p.effect,
        digest=p.digest,
        approved="",
        reason=p.reason,
        granted=p.grant.name if p.grant else "",
    )
    return state.with_call(call)


def tool_started(state: State, event: Event, p: e.ToolStarted) -> State:
    call = call_in(state, event, p.call_id, Phase.READY, Phase.STARTED)
    if p.attempt != call.attempt + 1:
        raise corrupt(event, f"attempt {p.attempt} follows {call.attempt}")
    started = replace(
        call,
        phase=Phase.STARTED,
        attempt=p.attempt,
        epoch=p.epoch,
        snapshot=p.snapshot,
        approved="",
        retry_at_us=None,
    )
    state = state.with_call(started)
    return state if p.attempt > 1 else _counted(state, event)


def _counted(state: State, event: Event) -> State:
    """Count a call that has left for the first time."""
    turn = open_turn(state, event)
    count = replace(turn.spent, tool_calls=turn.spent.tool_calls + 1)
    total = replace(state.spent, tool_calls=state.spent.tool_calls + 1)
    return replace(state, turn=replace(turn, spent=count), spent=total)


def tool_finished(state: State, event: Event, p: e.ToolFinished) -> State:
    call = call_in(state, event, p.call_id, *_OPEN)
    match p.status:
        case "unknown":
            if call.phase is not Phase.STARTED:
                raise corrupt(event, "only a started call can have an unknown outcome")
            # Failures that were certain count no longer: whoever decides this begins anew.
            why = "" if call.failures else call.reason
            return state.with_call(replace(call, phase=Phase.UNKNOWN, failures=0, reason=why))
        case "retry" | "held":
            if call.phase is not Phase.STARTED:
                raise corrupt(event, "only a started call can have failed")
            return state.with_call(_failed(call, p))
        case status:
            if call.phase not in _MAY_END[status]:
                raise corrupt(event, f"a call that is {call.phase.value} cannot end as {status}")
    state = state.with_call(replace(call, phase=Phase.FINISHED))
    if p.fatal and state.turn is not None:
        state = replace(state, turn=replace(state.turn, error=state.turn.error or p.error))
    return replace(
        state,
        actions={k: a for k, a in state.actions.items() if a.call_id != p.call_id},
        timers={k: t for k, t in state.timers.items() if t.call_id != p.call_id},
        recoveries=0,
    )


def _failed(call: CallState, p: e.ToolFinished) -> CallState:
    """Return the call after an attempt that failed: to be run again, or in a person's hands.

    What it changed in the workspace was taken back before this was written, so there is no
    snapshot left to go back to: calls that run meanwhile keep what they do.
    """
    said = f"{p.error.code}: {p.error.message}" if p.error else p.text
    failures = call.failures + 1
    if p.status == "held":
        return replace(call, phase=Phase.UNKNOWN, failures=failures, reason=said, snapshot="")
    return replace(
        call,
        phase=Phase.READY,
        failures=failures,
        snapshot="",
        approved=call.digest,
        retry_at_us=p.retry_at_us,
        reason=said,
    )


def action_requested(state: State, event: Event, p: e.ActionRequested) -> State:
    if p.action_id in state.actions:
        raise corrupt(event, f"action {p.action_id} is already open")
    if p.kind == "answer":
        state = _asked_outside(state, event, p)
    else:
        call_in(state, event, p.call_id, Phase.ASKING, Phase.UNKNOWN, Phase.STARTED)
    action = ActionState(
        p.action_id,
        p.kind,
        p.call_id,
        p.question,
        p.digest,
        event.at_us,
        p.expires_at_us,
        p.said,
    )
    return replace(
        state,
        actions={**state.actions, p.action_id: action},
        next_action=state.next_action + 1,
    )


def _asked_outside(state: State, event: Event, p: e.ActionRequested) -> State:
    """The call leaves for a client, who answers when it likes: once is enough, so it counts."""
    call = call_in(state, event, p.call_id, Phase.READY, Phase.ASKING)
    if call.phase is Phase.ASKING and not call.attempt:
        raise corrupt(event, "the call has not been allowed yet")
    first = not call.attempt
    state = state.with_call(replace(call, phase=Phase.ASKING, attempt=1, approved=""))
    return _counted(state, event) if first else state


def action_resolved(state: State, event: Event, p: e.ActionResolved) -> State:
    action = state.actions.get(p.action_id)
    if action is None:
        raise corrupt(event, f"action {p.action_id} is not open")
    actions = {k: a for k, a in state.actions.items() if k != p.action_id}
    decided = Decided(p.action_id, action.call_id, p.decision, p.by, event.at_us)
    state = replace(
        state,
        actions=actions,
        recoveries=0,
        decided=(*state.decided, decided)[-_REMEMBERED:],
        grants={**state.grants, p.grant.name: p.grant} if p.grant else state.grants,
    )
    call = call_in(state, event, action.call_id, Phase.ASKING, Phase.UNKNOWN, Phase.STARTED)
    answers = action.kind == "answer"
    return state.with_call(_answered(call, event, p) if answers else _decided(call, event, p))


def _answered(call: CallState, event: Event, p: e.ActionResolved) -> CallState:
    """Return a client's call after its answer."""
    match p.decision:
        case "done":
            return replace(call, phase=Phase.RESOLVED, result=p.result or "", failed=False)
        case "failed" | "deny" | "expired" | "withdrawn":
            why = p.reason or p.decision
            return replace(call, phase=Phase.RESOLVED, failed=True, reason=why)
        case _:
            raise corrupt(event, f"{p.decision} is no answer")


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
            why = p.reason or (call.reason if call.failures else "")
            return replace(call, phase=Phase.RESOLVED, failed=True, reason=why)
        case "rerun" if waiting:
            return replace(call, phase=Phase.READY, approved=call.digest)
        case _:
            raise corrupt(event, f"{p.decision} does not answer a call that is {call.phase.value}")


def grant_revoked(state: State, event: Event, p: e.GrantRevoked) -> State:
    left: dict[str, Grant] = {k: g for k, g in state.grants.items() if k != p.name}
    return replace(state, grants=left)


def signal_received(state: State, event: Event, p: e.SignalReceived) -> State:
    return replace(state, signals=(*state.signals, Signal(event.seq, p.name, p.text)))


def timer_set(state: State, event: Event, p: e.TimerSet) -> State:
    call = call_in(state, event, p.call_id, Phase.READY)
    if p.timer_id in state.timers:
        raise corrupt(event, f"timer {p.timer_id} is already running")
    if p.due_us is None and not p.signal:
        raise corrupt(event, "it waits for nothing")
    timer = TimerState(p.timer_id, p.call_id, p.due_us, p.signal, event.at_us)
    first = not call.attempt
    state = state.with_call(replace(call, phase=Phase.SLEEPING, attempt=1, approved=""))
    state = _counted(state, event) if first else state
    timers = {**state.timers, p.timer_id: timer}
    return replace(state, timers=timers, next_timer=state.next_timer + 1)


def timer_fired(state: State, event: Event, p: e.TimerFired) -> State:
    timer = state.timers.get(p.timer_id)
    if timer is None:
        raise corrupt(event, f"timer {p.timer_id} is not running")
    if p.signal and p.signal not in [s.seq for s in state.signals]:
        raise corrupt(event, f"signal {p.signal} is not there")
    call = call_in(state, event, timer.call_id, Phase.SLEEPING)
    state = state.with_call(replace(call, phase=Phase.RESOLVED, result=p.text, failed=False))
    return replace(
        state,
        timers={k: t for k, t in state.timers.items() if k != p.timer_id},
        signals=tuple([s for s in state.signals if s.seq != p.signal]),
        recoveries=0,
    )


_OPEN: Final = tuple(p for p in Phase if p is not Phase.FINISHED)
_MAY_END: Final[Mapping[str, tuple[Phase, ...]]] = {
    "ok": (Phase.STARTED, Phase.RESOLVED),
    "error": (Phase.STARTED, Phase.RESOLVED, Phase.PROPOSED, Phase.READY),
    "denied": (Phase.REFUSED,),
    "cancelled": _OPEN,
}
