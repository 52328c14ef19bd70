"""What one run of `make bench-peers` found."""

from collections.abc import Sequence

import msgspec

from bench.measure import Spread


class Speed(msgspec.Struct, frozen=True):
    """One round of one cell. `cut`: it was not done in time; steps and seconds are
    those of the second half of it.

    `p50_ms` and `p99_ms` are from the beginning of a step to that of the next one of its session;
    `rss` the most bytes that the process had in RAM by the end of its first `sessions` sessions.
    """

    system: str
    turn: int
    sessions: int
    steps: int
    seconds: float
    p50_ms: float
    p99_ms: float
    rss: int
    cut: bool

    @property
    def rate(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds


class Kill(msgspec.Struct, frozen=True):
    """One SIGKILL in the middle of the step after `steps`.

    `next_ms`: until a fresh process entered that step again; `resume_ms`: the part of it after
    that process had done its imports. `again`: finished steps that ran again.
    """

    system: str
    turn: int
    steps: int
    next_ms: float
    resume_ms: float
    again: int


class Growth(msgspec.Struct, frozen=True):
    """One session of so many steps; `done` is less where it was cut. Bytes of everything.

    `first_ms` and `last_ms` are the median step of the first and of the last twentieth.
    """

    system: str
    steps: int
    done: int
    disk: int
    written: int
    first_ms: float
    last_ms: float
    seconds: float


class Skipped(msgspec.Struct, frozen=True):
    """What could not be measured, and why."""

    system: str
    what: str
    why: str


class Figures(msgspec.Struct, frozen=True):
    """Everything. Nothing in it names the machine. `niceness` below 0: before other work on it."""

    date: str
    cores: int
    python: str
    system: str
    load_before: float
    load_after: float
    prompt_wakeups: bool
    niceness: int
    rounds: int
    minutes: float
    versions: dict[str, dict[str, str]]
    control: Spread
    speeds: Sequence[Speed]
    kills: Sequence[Kill]
    growths: Sequence[Growth]
    skipped: Sequence[Skipped]
