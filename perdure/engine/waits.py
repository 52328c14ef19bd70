"""What ends by itself while nobody does anything: questions that expire, timers that come due."""

from perdure.core import events as e
from perdure.engine.work import Work


def end_overdue(work: Work) -> bool:
    """Write down what has expired or come due by now; False when nothing had."""
    state = work.state
    if not state.actions and not state.timers:
        return False
    now_us = work.kit.clock.now_us()
    for action in state.actions.values():
        if action.expires_at_us is not None and action.expires_at_us <= now_us:
            reason = "nobody decided in time"
            work.journal.append(e.ActionResolved(action.id, "expired", reason=reason))
            return True
    for timer in state.timers.values():
        if timer.due_us is not None and timer.due_us <= now_us:
            text = "The time is over." if not timer.signal else f"No {timer.signal!r} came in time."
            work.journal.append(e.TimerFired(timer.id, text=text))
            return True
    return False
