"""What is due now. The one place that decides what happens next.

Pure and total: every state has an answer. A live session and one whose process died in the
middle of a call take the same road; only that the dead one left calls open, and an open call
that nobody is working on is always met with RECOVER, never simply run.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from perdure.core.errors import ErrorInfo, error_info
from perdure.core.events import TurnStatus
from perdure.core.state import ActionState, CallState, Phase, State, TimerState, Turn


class Rest(msgspec.Struct, frozen=True, gc=False, tag="rest"):
    """Nothing is due until somebody writes. `why` is idle, paused, parked or closed."""

    why: str


class RestoreWorkspace(msgspec.Struct, frozen=True, gc=False, tag="restore_workspace"):
    """Bring the workspace to that snapshot: the session was forked or taken back."""

    snapshot: str


class BeginTurn(msgspec.Struct, frozen=True, gc=False, tag="begin_turn"):
    """Start a turn with the input of that seq."""

    input: int


class CallModel(msgspec.Struct, frozen=True, gc=False, tag="call_model"):
    """Call the model, not before that time (microseconds since the epoch; None: now)."""

    not_before_us: int | None


class RequestTools(msgspec.Struct, frozen=True, gc=False, tag="request_tools"):
    """Decide what the permissions say of these calls, and write it down."""

    calls: tuple[CallState, ...]


class RunTools(msgspec.Struct, frozen=True, gc=False, tag="run_tools"):
    """Run these calls, not before that time (None: now)."""

    calls: tuple[CallState, ...]
    not_before_us: int | None = None


class Compact(msgspec.Struct, frozen=True, gc=False, tag="compact"):
    """Make the transcript shorter before the model is called again, not before that time."""

    not_before_us: int | None = None


class Repair(msgspec.Struct, frozen=True, gc=False, tag="repair"):
    """Make the transcript plain before the model is called again."""


class Settle(msgspec.Struct, frozen=True, gc=False, tag="settle"):
    """Tell the model what was decided about these calls: refused, or vouched for."""

    calls: tuple[CallState, ...]


class Ask(msgspec.Struct, frozen=True, gc=False, tag="ask"):
    """People owe these decisions. `until_us` is when the first of them expires, or the first
    timer is due.
    """

    actions: tuple[ActionState, ...]
    until_us: int | None


class Sleep(msgspec.Struct, frozen=True, gc=False, tag="sleep"):
    """Nothing is due before `until_us`, or (None) before a signal comes."""

    timers: tuple[TimerState, ...]
    until_us: int | None


class RecoverModel(msgspec.Struct, frozen=True, gc=False, tag="recover_model"):
    """A model call was in flight when its process died (or was interrupted)."""


class RecoverTools(msgspec.Struct, frozen=True, gc=False, tag="recover_tools"):
    """These calls were in flight when their process died: effects may have happened."""

    calls: tuple[CallState, ...]


class EndTurn(msgspec.Struct, frozen=True, gc=False, tag="end_turn"):
    """Close the turn; calls still open get a cancelled result in the same breath."""

    status: TurnStatus
    error: ErrorInfo | None = None


Step = (
    Rest
    | RestoreWorkspace
    | BeginTurn
    | CallModel
    | RequestTools
    | RunTools
    | Settle
    | Ask
    | Sleep
    | Compact
    | Repair
    | RecoverModel
    | RecoverTools
    | EndTurn
)


def next_step(state: State) -> Step:
    """Return what is due in `state`."""
    if state.restore_due and not state.closed and state.parked is None:
        return RestoreWorkspace(state.snapshot)
    why = resting(state)
    if why:
        return Rest(why)
    if state.turn is None:
        return BeginTurn(state.queue[0].seq)
    if state.turn.model is not None:
        return RecoverModel()
    if state.turn.interrupted:
        return EndTurn("cancelled")
    return _calls_due(state) or _reply_due(state, state.turn)


def resting(state: State) -> str:
    """Return why nothing is due, or "" when something is."""
    if state.closed:
        return "closed"
    if state.parked is not None:
        return "parked"
    if state.paused:
        return "paused"
    return "" if state.turn or state.queue else "idle"


def status(state: State) -> str:
    """Return one word for lists: running, waiting, sleeping, idle, failed, budget, paused, parked
    or closed.
    """
    match next_step(state):
        case Rest("idle"):
            last = state.last_status
            return last if last in ("failed", "budget") else "idle"
        case Rest(why):
            return why
        case Ask():
            return "waiting"
        case Sleep():
            return "sleeping"
        case RestoreWorkspace():
            return resting(state) or "running"
        case _:
            return "running"


def _calls_due(state: State) -> Step | None:
    calls = state.open_calls
    asked = {a.call_id for a in state.actions.values()}
    started = tuple([c for c in calls if c.phase is Phase.STARTED and c.call.id not in asked])
    if started:
        return RecoverTools(started)
    over = _too_many_calls(state, calls)
    if over:
        return EndTurn("budget", over)
    if proposed := _in(calls, Phase.PROPOSED):
        return RequestTools(proposed)
    if settled := _in(calls, Phase.REFUSED, Phase.RESOLVED):
        return Settle(settled)
    if ready := _in(calls, Phase.READY):
        return _run(ready)
    if state.actions:
        return Ask(tuple(state.actions.values()), next_wake_us(state))
    if state.timers:
        return Sleep(tuple(state.timers.values()), next_wake_us(state))
    if lost := _in(calls, Phase.UNKNOWN, Phase.ASKING):
        # The question was not written down before the process died: put it again.
        return RecoverTools(lost)
    return None


def _run(ready: tuple[CallState, ...]) -> RunTools:
    """Run what may run now; what failed waits for its next attempt after all others."""
    now = tuple([c for c in ready if c.retry_at_us is None])
    if now:
        return RunTools(now)
    when = min(c.retry_at_us for c in ready if c.retry_at_us is not None)
    return RunTools(tuple([c for c in ready if c.retry_at_us == when]), when)


def next_wake_us(state: State) -> int | None:
    """Return when an action expires or a timer is due, whichever is first; None: neither."""
    times = [a.expires_at_us for a in state.actions.values()]
    times += [t.due_us for t in state.timers.values()]
    return min((each for each in times if each is not None), default=None)


def _reply_due(state: State, turn: Turn) -> Step:
    if turn.error is not None:
        return EndTurn("failed", turn.error)
    if not turn.owes_reply:
        return EndTurn("completed")
    limit = state.limits.steps
    if limit is not None and turn.spent.steps >= limit:
        return EndTurn("budget", limit_reached("steps", f"{limit} model calls in this turn"))
    if turn.remedy == "repair":
        return Repair()
    if turn.remedy == "compact" or state.compact_asked or _too_long(state):
        return Compact(turn.retry_at_us)
    return CallModel(turn.retry_at_us)


def _too_long(state: State) -> bool:
    """Whether the transcript has grown beyond what the agent wants its model to read.

    What the last compaction left may be long in itself: then it must have grown by some more, or
    each model call would be preceded by another one that writes a summary.
    """
    most = state.spec.compaction.at_tokens
    if most is None or most <= 0 or not state.last_tokens_seq:
        return False
    return state.last_tokens >= max(most, state.compacted_tokens + most // _GROWN)


_GROWN: Final = 8  # this part of `at_tokens` must have come since the last compaction
_LIMIT_CODES: Final[Mapping[str, str]] = {
    "steps": "E-LIMIT-STEPS",
    "tool_calls": "E-LIMIT-TOOL_CALLS",
    "wall_s": "E-LIMIT-WALL_S",
    "tokens": "E-LIMIT-TOKENS",
    "usd": "E-LIMIT-USD",
}


def limit_reached(which: str, what: str) -> ErrorInfo:
    """Return the error that a turn ends with when a limit stops it."""
    return error_info(
        _LIMIT_CODES[which],
        "budget",
        f"The limit of {what} is reached. Nothing was lost; the last result is in the journal.",
        hint=f"perdure resume ID    (raise it with --limit {which}=N)",
    )


def _too_many_calls(state: State, calls: tuple[CallState, ...]) -> ErrorInfo | None:
    limit = state.limits.tool_calls
    if limit is None or state.turn is None:
        return None
    fresh = [c for c in calls if c.attempt == 0]
    if state.turn.spent.tool_calls + len(fresh) <= limit:
        return None
    return limit_reached("tool_calls", f"{limit} tool calls in this turn")


def _in(calls: tuple[CallState, ...], *phases: Phase) -> tuple[CallState, ...]:
    return tuple([c for c in calls if c.phase in phases])
