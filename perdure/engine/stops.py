"""What stops a driver, as facts for the journal: limits of time, deadly sessions, errors."""

import math

from perdure.core import step as due
from perdure.core.errors import ErrorInfo, PerdureError, Unavailable, error_info
from perdure.core.state import State


def overdue(state: State, now_us: int) -> ErrorInfo | None:
    """Return why the turn must stop when it has used up its time."""
    limit_s = state.limits.wall_s
    if limit_s is None or state.turn is None:
        return None
    if now_us - state.turn.started_at_us - state.turn.waited_us <= limit_s * 1_000_000:
        return None
    return due.limit_reached("wall_s", f"{limit_s:g} s for a turn")


def time_left_s(state: State, now_us: int) -> float:
    """Return how long the turn may go on before `overdue` says no; infinite without a limit."""
    limit_s = state.limits.wall_s
    if limit_s is None or state.turn is None:
        return math.inf
    used_us = now_us - state.turn.started_at_us - state.turn.waited_us
    return max(0.0, limit_s - used_us / 1_000_000 + 0.001)


def poison(attempt: int) -> ErrorInfo:
    return error_info(
        "E-SESSION-POISON",
        "runtime",
        f"{attempt} processes in a row died while working on this session. "
        "It is parked, so that it cannot take more with it; nothing was lost.",
        hint="perdure show ID --events, then perdure resume ID or perdure stop ID --cancel",
    )


def parked_by(error: PerdureError) -> ErrorInfo:
    kind = "environment" if isinstance(error, Unavailable) else "runtime"
    return error_info(error.code, kind, error.message, hint=error.hint, retryable=error.retryable)


def our_fault(error: Exception) -> ErrorInfo:
    text = f"Perdure itself failed: {type(error).__name__}: {error}. The journal is whole."
    return error_info("E-INTERNAL", "runtime", text, hint="perdure resume ID, and report this")


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first of our errors in a group, else the first of any."""
    leaves = [first(x) if isinstance(x, BaseExceptionGroup) else x for x in group.exceptions]
    ours = [error for error in leaves if isinstance(error, PerdureError)]
    return ours[0] if ours else leaves[0]
