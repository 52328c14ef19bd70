"""Cron expressions and time zones: the only place that asks what day it is anywhere."""

import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict

from cronsim import CronSim, CronSimError

from perdure.core.content import Content
from perdure.core.errors import InvalidRequest
from perdure.core.schedules import Following, Missed, Overlap, Schedule

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_NAMED: Final = (
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
)
_EXAMPLE: Final = "Five fields, minute hour day month weekday: '0 3 * * 1-5', or @daily"


def zone(name: str) -> zoneinfo.ZoneInfo:
    """Return the time zone of an IANA name. Raises `InvalidRequest` (E-SCHEDULE-TZ)."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(
            "E-SCHEDULE-TZ", f"There is no time zone {name!r}.", "For example: Europe/Berlin, UTC"
        ) from error


class Terms(TypedDict, total=False):
    """When and how an agent runs by itself, as people say it.

    `cron` is an expression of five fields, @hourly, @daily, @weekly or @monthly; `at` one moment
    instead. `tz` (UTC) is the zone of the expression and of moments that name none. `session`
    is the one that all runs go into; without it each has its own. `missed` (last) and `overlap`
    (skip; queue where missed is all) are the policies of docs/schedules.md. Nothing fires after
    `until`. `by` is who says so.
    """

    cron: str
    at: datetime | None
    tz: str
    session: str
    missed: Missed
    overlap: Overlap | None
    until: datetime | None
    by: str


def plan(name: str, agent: str, prompt: Content, source: str, terms: Terms) -> Schedule:
    """Return the schedule that these terms mean. Raises `InvalidRequest` (E-SCHEDULE-TZ)."""
    tz = terms.get("tz", "UTC")
    zone(tz)
    at, until = terms.get("at"), terms.get("until")
    missed = terms.get("missed", "last")
    return Schedule(
        name,
        agent,
        prompt,
        terms.get("cron", "").strip(),
        None if at is None else us_of(at, tz),
        tz,
        terms.get("session", ""),
        source,
        missed,
        terms.get("overlap") or ("queue" if missed == "all" else "skip"),
        None if until is None else us_of(until, tz),
        terms.get("by", ""),
    )


def us_of(moment: datetime, tz: str = "UTC") -> int:
    """Return a moment in microseconds since the epoch; without a zone of its own it is in `tz`."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone(tz))
    return (moment - _EPOCH) // _US


def moment_of(at_us: int, tz: str = "UTC") -> datetime:
    """Return microseconds since the epoch as a moment in that zone."""
    return (_EPOCH + at_us * _US).astimezone(zone(tz))


def stamp(at_us: int) -> str:
    """Return a moment for the name of a session: 20261122T090000Z; a fraction is kept."""
    moment = moment_of(at_us)
    fraction = f".{moment.microsecond:06}" if moment.microsecond else ""
    return f"{moment:%Y%m%dT%H%M%S}{fraction}Z"


def following_of(schedule: Schedule) -> Following:
    """Return the function that knows the schedule's fire times.

    Raises `InvalidRequest`: E-SCHEDULE-CRON, E-SCHEDULE-TZ.
    """
    if not schedule.cron:
        return lambda after_us: _once(schedule, after_us)
    expression, place = _expression(schedule.cron), zone(schedule.tz)
    _parsed(expression, _EPOCH)

    def following(after_us: int) -> int | None:
        found = _next(expression, place, after_us)
        ended = found is not None and schedule.ends_us is not None and found > schedule.ends_us
        return None if ended else found

    return following


def _once(schedule: Schedule, after_us: int) -> int | None:
    at_us = schedule.at_us
    return at_us if at_us is not None and at_us > after_us else None


def _expression(cron: str) -> str:
    text = cron.strip()
    text = dict(_NAMED).get(text.lower(), text)
    if len(text.split()) != 5:
        raise InvalidRequest(
            "E-SCHEDULE-CRON",
            f"A cron expression has five fields; {cron!r} has {len(text.split())}.",
            _EXAMPLE,
        )
    return text


def _parsed(expression: str, start: datetime) -> CronSim:
    try:
        return CronSim(expression, start)
    except CronSimError as error:
        raise InvalidRequest(
            "E-SCHEDULE-CRON", f"{expression!r} cannot be read: {error}.", _EXAMPLE
        ) from error


def _next(expression: str, place: zoneinfo.ZoneInfo, after_us: int) -> int | None:
    """Return the first fire time after a moment; None when there is none in fifty years."""
    try:
        for found in _parsed(expression, (_EPOCH + after_us * _US).astimezone(place)):
            # In the hour that comes twice the library names the first one, even from the second.
            at_us = us_of(found)
            if at_us > after_us:
                return at_us
    except OverflowError:  # the end of the calendar
        pass
    return None
