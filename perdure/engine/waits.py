"""Waiting: calls that fall asleep, and what ends by itself while nobody does anything.

A moment is wall time, because it must mean the same to the next process. A wait that this process
holds is measured by the monotonic clock beside it: a wall clock that is set back makes nobody
wait longer, and one that is set forward ends a wait early by no more than its step.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from perdure.core import events as e
from perdure.core.errors import InvalidRequest, error_info
from perdure.core.state import CallState, State
from perdure.engine.work import Work, context_of
from perdure.ports.clock import Clock
from perdure.ports.tool import Waits


class Held:
    """The waits of one session, as one process holds them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[tuple[str, int], float] = {}  # by the monotonic clock

    @property
    def first(self) -> float | None:
        """When the first of them is over, by the monotonic clock."""
        return min(self._ends.values(), default=None)

    def look(self, state: State) -> None:
        """Begin to hold what is new in `state`, and forget what is over there."""
        there = dict(_moments(state))
        self._ends = {key: at for key, at in self._ends.items() if key in there}
        fresh = [key for key in there if key not in self._ends]
        if fresh:
            now_us, now = self._clock.now_us(), self._clock.monotonic()
            self._ends |= {key: now + (key[1] - now_us) / 1_000_000 for key in fresh}

    def is_over(self, name: str, due_us: int, now_us: int) -> bool:
        """Whether the wait of that name is over; `look` must have seen it."""
        end = self._ends.get((name, due_us))
        return due_us <= now_us or (end is not None and end <= self._clock.monotonic())

    def left_s(self, state: State) -> float | None:
        """Return the seconds until the first wait of `state` is over; None when none ends."""
        self.look(state)
        if not self._ends:
            return None
        now_us, now = self._clock.now_us(), self._clock.monotonic()
        left = [min((due - now_us) / 1_000_000, at - now) for (_, due), at in self._ends.items()]
        return max(0.0, min(left))


def _moments(state: State) -> Iterator[tuple[tuple[str, int], None]]:
    for action in state.actions.values():
        if action.expires_at_us is not None:
            yield (action.id, action.expires_at_us), None
    for timer in state.timers.values():
        if timer.due_us is not None:
            yield (timer.id, timer.due_us), None


def end_overdue(work: Work, held: Held) -> bool:
    """Write down what has expired or come due by now; False when nothing had."""
    state = work.state
    if not state.actions and not state.timers:
        return False
    held.look(state)
    now_us = work.kit.clock.now_us()
    for action in state.actions.values():
        expires_us = action.expires_at_us
        if expires_us is not None and held.is_over(action.id, expires_us, now_us):
            reason = "nobody decided in time"
            work.journal.append(e.ActionResolved(action.id, "expired", reason=reason))
            return True
    for timer in state.timers.values():
        if timer.due_us is not None and held.is_over(timer.id, timer.due_us, now_us):
            text = "The time is over." if not timer.signal else f"No {timer.signal!r} came in time."
            work.journal.append(e.TimerFired(timer.id, text=text))
            return True
    return False


def falls_asleep(work: Work, tool: object, call: CallState, arguments: Mapping[str, Any]) -> bool:
    """Let the call wait, if it is one that waits, and say whether it is.

    A signal that came before anybody waited for it ends the waiting in the same breath.
    """
    if not isinstance(tool, Waits):
        return False
    now_us = work.kit.clock.now_us()
    try:
        waiting = tool.wait(arguments, now_us, context_of(work, call, 1, None))
    except InvalidRequest as error:
        info = error_info(error.code, "tool", error.message, subject=call.call.tool)
        text = f"{error.code}: {error.message}"
        work.journal.append(e.ToolFinished(call.call.id, "error", text, info))
        return True
    if waiting is None:
        return False
    if work.stopping:
        return True
    name = f"t{work.state.next_timer}"
    begun = e.TimerSet(name, call.call.id, waiting.due_us, waiting.signal)
    came = next((s for s in work.state.signals if s.name == waiting.signal), None)
    ended = (e.TimerFired(name, came.seq, came.text),) if came and waiting.signal else ()
    work.journal.append(begun, *ended)
    return True
