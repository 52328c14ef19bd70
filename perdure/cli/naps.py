"""Sleep on the screen: until when, what would wake it, and a countdown while one waits."""

from collections.abc import Sequence
from datetime import UTC, datetime

from perdure.cli.screen import Screen
from perdure.cli.text import duration
from perdure.core import events as e
from perdure.core.events import Event
from perdure.stores.system import SystemClock

_LONG_US = 60_000_000


def clock(us: int) -> str:
    """Return a moment as a clock here shows it; with its day when that is not today."""
    moment = datetime.fromtimestamp(us / 1_000_000, UTC).astimezone()
    today = datetime.fromtimestamp(SystemClock().now_us() / 1_000_000, UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M:%S")


def until_when(session: str, until_us: int | None, events: Sequence[str]) -> list[str]:
    """Return in words until when a session sleeps, and what wakes it sooner."""
    left_us = None if until_us is None else until_us - SystemClock().now_us()
    lines = []
    if until_us is not None and left_us is not None:
        soon = f"in {duration(left_us)}" if left_us > 0 else "due now"
        lines.append(
            f"sleeps until {clock(until_us)} ({soon}); wakes by itself while `perdure work` runs"
        )
        lines.append(f"(or: perdure resume {session})")
    lines += [
        f"waits for event {name!r}:  perdure signal {session} {name} [DATA]"
        for name in dict.fromkeys(events)
    ]
    return lines


def waits_for(timer: e.TimerSet) -> str:
    """Return in a few words what a call waits for."""
    words = ["◔ waits"]
    if timer.signal:
        words.append(f"for event {timer.signal!r}")
    if timer.due_us is not None:
        words.append(f"until {clock(timer.due_us)}")
    return " ".join(words)


class Naps:
    """The short sleeps of one session: counts down to the first that ends."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._ends: dict[str, int] = {}
        self._shown = False

    def event(self, event: Event) -> None:
        """Take an event, before it is printed."""
        self._wipe()
        match event.payload:
            case e.TimerSet(timer_id=name, due_us=int() as due_us):
                self._ends[name] = due_us
            case e.TimerFired(timer_id=name):
                self._ends.pop(name, None)
            case e.TurnEnded():
                self._ends.clear()
            case _:
                pass

    def tick(self) -> bool:
        """Show how long it is still; whether there is anything to count."""
        if not self._ends or not self._screen.tty:
            return False
        left_us = min(self._ends.values()) - SystemClock().now_us()
        self._wipe()
        if 0 < left_us <= _LONG_US:
            text = f"  ◔ sleeps, {left_us / 1_000_000:.0f} s to go"
            self._screen.write("\r" + self._screen.dim(text))
            self._shown = True
        return True

    def _wipe(self) -> None:
        if self._shown:
            self._screen.write("\r\x1b[K")
            self._shown = False
