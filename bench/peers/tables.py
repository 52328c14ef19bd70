"""Figures as cells of tables: medians over rounds, and ratios to Perdure on SQLite with spread."""

from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import Final, TypeVar

from bench.measure import median
from bench.peers.figures import Figures, Growth, Kill, Speed
from bench.peers.systems import BASE, SYSTEMS, System

NOTHING: Final = "–"
_PAYLOAD: Final = 1024
T = TypeVar("T", Speed, Kill)


class Found:
    """What was found of each system, by name."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.sizes = sorted({each.sessions for each in figures.speeds})
        self.lengths = sorted({each.steps for each in figures.growths})
        names = {each.system for each in figures.speeds} | {each.system for each in figures.kills}
        names |= {each.system for each in figures.growths}
        self.systems = [system for system in SYSTEMS if system.name in names]

    def speeds(self, system: System, sessions: int) -> list[Speed]:
        """Return its rounds of that many sessions, where their steps can be counted."""
        return [
            each
            for each in self.figures.speeds
            if each.system == system.name
            and each.sessions == sessions
            and each.steps
            # Steps that were begun and not written tell nothing about the disk.
            and not (each.cut and system.ahead)
        ]

    def kills(self, system: System) -> list[Kill]:
        """Return its rounds."""
        return [each for each in self.figures.kills if each.system == system.name]

    def growth(self, system: System, steps: int) -> Growth | None:
        """Return its one long session, where it reached its end."""
        found = [
            each
            for each in self.figures.growths
            if each.system == (system.grows_as or system.name)
            and each.steps == steps
            and each.done >= steps
        ]
        return found[0] if found else None


def number(value: float) -> str:
    """Return three digits of it, more where it is larger."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(count: float) -> str:
    """Return bytes in MB, as everywhere of 1,000,000."""
    return f"{number(count / 1e6)} MB"


def rate(found: Found, system: System, sessions: int) -> str:
    """Return steps a second."""
    rows = found.speeds(system, sessions)
    if not rows:
        return NOTHING
    mark = "\\*" if any(each.cut for each in rows) else ""
    return number(median(each.rate for each in rows)) + mark


def middle(rows: Sequence[object], value: Callable[..., float]) -> str:
    """Return the median of something."""
    return number(median(value(each) for each in rows)) if rows else NOTHING


def growth_row(found: Found, system: System) -> list[str]:
    """Return bytes on the disk and written of each length, and how they and the times grow."""
    if system.grows_as:
        like = next(each.label for each in SYSTEMS if each.name == system.grows_as)
        return [f"as {like}", *[""] * (2 * len(found.lengths) + 1)]
    cells = []
    longest = None
    for steps in found.lengths:
        growth = found.growth(system, steps)
        longest = growth
        cells += [size(growth.disk), size(growth.written)] if growth else [NOTHING] * 2
    if longest is None:
        return [*cells, NOTHING, NOTHING]
    payload = longest.steps * _PAYLOAD
    return [
        *cells,
        number(longest.disk / payload),
        f"{number(longest.first_ms)} to {number(longest.last_ms)}",
    ]


def ratio(pairs: Iterable[tuple[float, float]]) -> str:
    """Return the median of ratios and from where to where they go."""
    found = sorted(above / below for above, below in pairs if above and below)
    if not found:
        return NOTHING
    if len(found) == 1:
        return number(found[0])
    return f"{number(median(found))} ({number(found[0])}..{number(found[-1])})"


def speed_ratio(found: Found, system: System, sessions: int) -> str:
    """Return Perdure's steps a second / the other's, round by round."""
    base = _by_turn(found.speeds(_base(), sessions), lambda e: e.rate)
    return ratio((base.get(e.turn, 0.0), e.rate) for e in found.speeds(system, sessions))


def step_ratio(found: Found, system: System, value: Callable[[Speed], float], sessions: int) -> str:
    """Return the other's figure / Perdure's, round by round."""
    base = _by_turn(found.speeds(_base(), sessions), value)
    return ratio((value(e), base.get(e.turn, 0.0)) for e in found.speeds(system, sessions))


def kill_ratio(found: Found, system: System) -> str:
    """Return the other's time from SIGKILL to the next step / Perdure's, round by round."""
    base = _by_turn(found.kills(_base()), lambda e: e.next_ms)
    return ratio((e.next_ms, base.get(e.turn, 0.0)) for e in found.kills(system))


def growth_ratio(found: Found, system: System, value: Callable[[Growth], float]) -> str:
    """Return the other's bytes / Perdure's for the longest session."""
    if not found.lengths:
        return NOTHING
    steps = found.lengths[-1]
    base, other = found.growth(_base(), steps), found.growth(system, steps)
    return ratio([(value(other), value(base))]) if base and other else NOTHING


def _by_turn(rows: Sequence[T], value: Callable[[T], float]) -> dict[int, float]:
    """Return the mean of each round: Perdure on SQLite is measured twice in it."""
    return {
        turn: mean(value(row) for row in rows if row.turn == turn)
        for turn in {row.turn for row in rows}
    }


def _base() -> System:
    return next(system for system in SYSTEMS if system.name == BASE)
