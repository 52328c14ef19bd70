"""When an agent runs by itself: the plan, which fire times count, and what is kept of them. Pure.

A fire time is the moment that the plan names, never the moment at which somebody looked. It is
decided once, in the schedule's document, and stays in `due` until its run has begun: so a process
that dies in between loses nothing, and one that does it again finds it done.
"""

import re
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec

from perdure.core.content import Content
from perdure.core.errors import InvalidRequest

Missed = Literal["skip", "last", "all"]
Overlap = Literal["skip", "queue"]
Following = Callable[[int], int | None]
"""Returns the first fire time after a moment, or None. Both in microseconds since the epoch."""

GRACE_US: Final = 60_000_000  # a fire time that is no older counts as met, not as missed
AT_MOST: Final = 100  # missed fire times that are made up for, and fire times that queue
KEPT: Final = 20  # runs that a schedule remembers
_HOUR_US: Final = 3_600_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class Fire(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fire time that was decided on; `by_hand`: somebody asked for it outside the plan."""

    at_us: int
    by_hand: bool = False


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fire time whose message is in the inbox of `session` since `begun_at_us`."""

    at_us: int
    session: str
    begun_at_us: int
    by_hand: bool = False


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent's plan and how far it has come. All times in microseconds since the epoch.

    Either `cron`, read in the time zone `tz`, or `at_us` says when. `session` is the one that
    every run goes into; empty: each run has a session of its own, which begins with a copy of the
    directory `source`. `missed` and `overlap` are the policies of docs/schedules.md. There is no
    fire time after `ends_us`. `next_us` is None when none is left.
    """

    name: str
    agent: str
    prompt: Content
    cron: str = ""
    at_us: int | None = None
    tz: str = "UTC"
    session: str = ""
    source: str = ""
    missed: Missed = "last"
    overlap: Overlap = "skip"
    ends_us: int | None = None
    made_by: str = ""
    made_at_us: int = 0
    paused: bool = False
    next_us: int | None = None
    last_us: int | None = None
    last_missed_us: int | None = None
    last_skipped_us: int | None = None
    due: tuple[Fire, ...] = ()
    runs: tuple[Run, ...] = ()
    error: str = ""


_PLAN: Final = (
    "name",
    "agent",
    "prompt",
    "cron",
    "at_us",
    "tz",
    "session",
    "source",
    "missed",
    "overlap",
    "ends_us",
)


class Due(NamedTuple):
    """The fire times to run now, oldest first; the next one; and the newest that is passed over."""

    fires: tuple[int, ...]
    next_us: int | None
    missed_us: int | None = None


def checked(schedule: Schedule) -> Schedule:
    """Return a schedule that can be kept. Raises `InvalidRequest` and says what is wrong with it.

    Whether its cron expression and time zone can be read is not looked at here.
    """
    if not _NAME.match(schedule.name):
        raise InvalidRequest(
            "E-SCHEDULE-NAME",
            f"{schedule.name!r} cannot name a schedule.",
            "Letters, digits, '.', '_' and '-', at most 64: nightly-report",
        )
    if not schedule.prompt:
        raise InvalidRequest(
            "E-SCHEDULE-POLICY", f"{schedule.name} has nothing to say.", "Give it a prompt."
        )
    if bool(schedule.cron) == (schedule.at_us is not None):
        raise InvalidRequest(
            "E-SCHEDULE-WHEN",
            f"{schedule.name} needs either a cron expression or one moment.",
            "cron='0 3 * * *' for every night at three, or at=… for once",
        )
    if schedule.missed not in ("skip", "last", "all") or schedule.overlap not in ("skip", "queue"):
        raise InvalidRequest(
            "E-SCHEDULE-POLICY",
            f"There is no policy missed={schedule.missed!r}, overlap={schedule.overlap!r}.",
            "missed: skip, last or all; overlap: skip or queue",
        )
    if (schedule.missed, schedule.overlap) == ("all", "skip"):
        raise InvalidRequest(
            "E-SCHEDULE-POLICY",
            "missed=all runs several fire times, overlap=skip leaves out all but the first.",
            "Take overlap=queue, or missed=last.",
        )
    return schedule


def same_plan(one: Schedule, other: Schedule) -> bool:
    """Whether two schedules say the same, however far each has come."""
    return all(getattr(one, field) == getattr(other, field) for field in _PLAN)


def due_fires(schedule: Schedule, now_us: int, following: Following) -> Due:
    """Return which fire times are to be run at `now_us`, by the policy for those that were missed.

    All that it returns lie in [`next_us`, `now_us`], and the new `next_us` after them: a clock
    that is set back brings none of them again.
    """
    first = schedule.next_us
    if schedule.paused or first is None or first > now_us:
        return Due((), first)
    most = AT_MOST if schedule.missed == "all" else 1
    newest = _newest(first, now_us, most + 1, following)
    fires, older = newest[-most:], newest[:-most]
    missed_us = older[-1] if older else None
    if schedule.missed == "skip" and now_us - fires[-1] > GRACE_US:
        fires, missed_us = [], fires[-1]
    return Due(tuple(fires), following(now_us), missed_us)


def _newest(first: int, now_us: int, count: int, following: Following) -> list[int]:
    """Return the newest `count` fire times in [first, now_us] without counting through years."""
    span = _HOUR_US
    while True:
        start = max(first, now_us - span)
        found: deque[int] = deque(maxlen=count)
        at_us: int | None = first if start == first else following(start - 1)
        while at_us is not None and at_us <= now_us:
            found.append(at_us)
            at_us = following(at_us)
        if start == first or len(found) == count:
            return list(found)
        span *= 8


def decided(schedule: Schedule, now_us: int, following: Following, *, busy: bool) -> Schedule:
    """Return the schedule with what is due now in `due`. `busy`: its last run is not over."""
    found = due_fires(schedule, now_us, following)
    if not found.fires and found.next_us == schedule.next_us:
        return schedule
    taken, left = list(found.fires), list[int]()
    if schedule.overlap == "skip" and (busy or schedule.due):
        taken, left = [], taken
    elif len(schedule.due) + len(taken) > AT_MOST:
        room = max(0, AT_MOST - len(schedule.due))
        taken, left = taken[:room], taken[room:]
    return msgspec.structs.replace(
        schedule,
        next_us=found.next_us,
        last_us=found.fires[-1] if found.fires else schedule.last_us,
        last_missed_us=found.missed_us or schedule.last_missed_us,
        last_skipped_us=left[-1] if left else schedule.last_skipped_us,
        due=(*schedule.due, *(Fire(at_us) for at_us in taken)),
    )


def asked(schedule: Schedule, now_us: int) -> Schedule:
    """Return the schedule with a run that somebody asks for now; the plan is as it was."""
    return msgspec.structs.replace(schedule, due=(*schedule.due, Fire(now_us, by_hand=True)))


def begun(schedule: Schedule, fire: Fire, session: str, now_us: int) -> Schedule:
    """Return the schedule when the run of a fire time has begun; once more changes nothing."""
    due = tuple(each for each in schedule.due if each != fire)
    runs = schedule.runs
    if not any((run.at_us, run.by_hand) == (fire.at_us, fire.by_hand) for run in runs):
        runs = (*runs, Run(fire.at_us, session, now_us, fire.by_hand))[-KEPT:]
    return msgspec.structs.replace(schedule, due=due, runs=runs, error="")


def paused(schedule: Schedule) -> Schedule:
    """Return the schedule standing still. What was decided already still runs."""
    return msgspec.structs.replace(schedule, paused=True)


def resumed(schedule: Schedule, now_us: int, following: Following) -> Schedule:
    """Return the schedule going on. Fire times of a cron expression that passed meanwhile are not
    missed: they were not to be. The one moment of a schedule that runs once stays due.
    """
    if not schedule.paused:
        return schedule
    next_us = schedule.next_us
    if schedule.cron:
        next_us = following(max(now_us, schedule.last_us or 0))
    return msgspec.structs.replace(schedule, paused=False, next_us=next_us)
