"""Cron expressions and time zones: the only place that asks what day it is anywhere."""

import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError

from perdure.core.errors import InvalidRequest
from perdure.core.schedules import Following, Schedule

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
