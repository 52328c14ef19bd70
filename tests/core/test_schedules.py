"""Fire times: strictly one after the other, none doubled, none lost, whatever the clock does."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from cronsim import CronSim
from hypothesis import given, settings, strategies as st

from perdure.core.content import as_content
from perdure.core.errors import InvalidRequest
from perdure.core.schedules import (
    AT_MOST,
    GRACE_US,
    Schedule,
    asked,
    begun,
    checked,
    decided,
    due_fires,
    paused,
    resumed,
)
from perdure.engine.calendar import following_of, moment_of, stamp, us_of, zone

MINUTE = 60_000_000
HOUR = 60 * MINUTE
START = us_of(datetime(2026, 3, 28, 12, 0, tzinfo=UTC))
CRONS = (
    "* * * * *",
    "*/7 * * * *",
    "0 * * * *",
    "30 2 * * *",
    "15,45 1-3 * * *",
    "0 */2 * * *",
    "*/20 2 * * *",
    "0 0 1 * *",
    "0 3 * * 1-5",
    "@hourly",
    "@weekly",
)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")


def schedule(**more: Any) -> Schedule:
    fields = {"name": "s", "agent": "a", "prompt": as_content("go"), "cron": "* * * * *"}
    return msgspec.convert({**fields, **more}, Schedule)


def started(**more: Any) -> Schedule:
    made = schedule(**more)
    next_us = following_of(made)(START - 1) if made.cron else made.at_us
    return msgspec.structs.replace(made, next_us=next_us)


cron = st.sampled_from(CRONS)
place = st.sampled_from(ZONES)
# Around both changes of the clock in 2026, north and south.
around = st.sampled_from(
    [
        us_of(datetime(2026, m, d, tzinfo=UTC))
        for m, d in ((3, 7), (3, 28), (4, 4), (10, 3), (10, 24), (10, 31))
    ]
)


@settings(deadline=None)
@given(cron, place, around, st.integers(0, 48 * 3600))
def test_fire_times_do_not_depend_on_where_one_begins_to_count(
    cron: str, tz: str, start: int, second: int
) -> None:
    following = following_of(schedule(cron=cron, tz=tz))
    times = [following(start) or 0]
    while times[-1] < start + 72 * HOUR and len(times) < 5000:
        times.append(following(times[-1]) or 0)
    assert all(a < b for a, b in pairwise(times))
    inside = start + second * 1_000_000
    assert following(inside) == next(t for t in times if t > inside)


@settings(deadline=None)
@given(place, around)
def test_counting_on_gives_what_the_library_gives_in_one_go(tz: str, start: int) -> None:
    following = following_of(schedule(cron="15,45 1-3 * * *", tz=tz))
    own, theirs = start, CronSim("15,45 1-3 * * *", moment_of(start, tz))
    for _ in range(12):
        own = following(own) or 0
        assert own == us_of(next(theirs))


@pytest.mark.parametrize("minute", range(0, 60, 5))
def test_in_the_hour_that_comes_twice_nothing_fires_twice(minute: int) -> None:
    """Asked in the second 02:05, the library answers with the first 02:15, which is past."""
    following = following_of(schedule(cron="15,45 1-3 * * *", tz="Europe/Berlin"))
    second = us_of(datetime(2026, 10, 25, 1, minute, tzinfo=UTC))
    assert following(second) == us_of(datetime(2026, 10, 25, 2, 15, tzinfo=UTC))


def test_a_time_that_the_clock_jumps_over_fires_right_after_the_jump() -> None:
    following = following_of(schedule(cron="30 2 * * *", tz="Europe/Berlin"))
    before = us_of(datetime(2026, 3, 29, 0, 30, tzinfo=UTC))
    assert following(before) == us_of(datetime(2026, 3, 29, 1, 0, tzinfo=UTC))


@settings(deadline=None, max_examples=200)
@given(
    cron,
    place,
    around,
    st.lists(st.integers(-3 * HOUR, 5 * HOUR), min_size=1, max_size=30),
    st.data(),
)
def test_with_all_missed_ones_each_fire_time_is_decided_once(
    cron: str, tz: str, start: int, jumps: list[int], data: st.DataObject
) -> None:
    """Time may jump, back too; the plan may be paused for a moment without time passing."""
    plan = schedule(cron=cron, tz=tz, missed="all", overlap="queue")
    following, now, seen, newest = following_of(plan), start, list[int](), start - 1
    plan = msgspec.structs.replace(plan, next_us=following(start - 1))
    for jump in jumps:
        now += max(-now, min(jump, 90 * MINUTE))  # so that at most 91 are missed at a time
        newest = max(newest, now)
        plan = decided(plan, now, following, busy=data.draw(st.booleans()))
        seen += [fire.at_us for fire in plan.due]
        for fire in plan.due:
            plan = begun(plan, fire, "x", now)
        assert plan.next_us is None or plan.next_us > newest
    expected, at = [], following(start - 1)
    while at is not None and at <= newest:
        expected.append(at)
        at = following(at)
    assert seen == expected


@settings(deadline=None)
@given(st.sampled_from(["skip", "last", "all"]), st.lists(st.integers(-10 * HOUR, 400 * HOUR)))
def test_no_policy_fires_a_time_twice_or_out_of_order(missed: str, jumps: list[int]) -> None:
    plan = started(cron="*/5 * * * *", missed=missed, overlap="queue")
    following, now, seen = following_of(plan), START, list[int]()
    for jump in jumps:
        now += jump
        found = due_fires(plan, now, following)
        seen += found.fires
        assert len(found.fires) <= AT_MOST
        plan = msgspec.structs.replace(plan, next_us=found.next_us)
    assert all(a < b for a, b in pairwise(seen))


def test_last_takes_the_newest_and_says_what_it_passed_over() -> None:
    plan = started(cron="0 * * * *")
    found = due_fires(plan, START + 5 * HOUR + 7 * MINUTE, following_of(plan))
    assert found.fires == (START + 5 * HOUR,)
    assert (found.missed_us, found.next_us) == (START + 4 * HOUR, START + 6 * HOUR)


def test_skip_runs_what_is_within_its_grace_and_nothing_older() -> None:
    plan = started(cron="0 * * * *", missed="skip")
    following = following_of(plan)
    assert due_fires(plan, START + GRACE_US, following).fires == (START,)
    late = due_fires(plan, START + GRACE_US + 1, following)
    assert (late.fires, late.missed_us, late.next_us) == ((), START, START + HOUR)


def test_all_makes_up_for_the_newest_hundred() -> None:
    plan = started(missed="all", overlap="queue")
    found = due_fires(plan, START + 365 * 24 * HOUR, following_of(plan))
    assert len(found.fires) == AT_MOST and found.fires[-1] == START + 365 * 24 * HOUR
    assert found.missed_us == found.fires[0] - MINUTE


def test_one_moment_fires_once_however_late() -> None:
    plan = started(cron="", at_us=START)
    found = due_fires(plan, START + 1000 * HOUR, following_of(plan))
    assert (found.fires, found.next_us) == ((START,), None)


def test_nothing_fires_after_the_end() -> None:
    plan = started(cron="0 * * * *", ends_us=START + HOUR, missed="all", overlap="queue")
    found = due_fires(plan, START + 9 * HOUR, following_of(plan))
    assert (found.fires, found.next_us) == ((START, START + HOUR), None)


def test_an_unfinished_run_lets_the_next_one_wait_or_go() -> None:
    plan, queueing = started(cron="0 * * * *"), started(cron="0 * * * *", overlap="queue")
    after = decided(plan, START, following_of(plan), busy=True)
    assert (after.due, after.last_skipped_us, after.next_us) == ((), START, START + HOUR)
    waits = decided(queueing, START, following_of(plan), busy=True)
    assert [fire.at_us for fire in waits.due] == [START] and waits.last_skipped_us is None


def test_a_queue_never_drops_what_was_decided() -> None:
    plan = started(overlap="queue")
    following = following_of(plan)
    for minute in range(AT_MOST + 5):
        plan = decided(plan, START + minute * MINUTE, following, busy=True)
    assert [f.at_us for f in plan.due] == [START + n * MINUTE for n in range(AT_MOST)]
    assert plan.last_skipped_us == START + (AT_MOST + 4) * MINUTE


def test_what_passes_during_a_pause_was_not_to_be() -> None:
    plan = paused(started(cron="0 * * * *"))
    following = following_of(plan)
    assert decided(plan, START + 3 * HOUR, following, busy=False) == plan
    assert resumed(plan, START + 3 * HOUR + 1, following).next_us == START + 4 * HOUR
    once = paused(started(cron="", at_us=START))
    assert resumed(once, START + HOUR, following_of(once)).next_us == START


def test_a_clock_set_back_during_a_pause_brings_nothing_again() -> None:
    plan = started(cron="0 * * * *")
    following = following_of(plan)
    plan = paused(decided(plan, START + 5 * HOUR, following, busy=False))
    assert resumed(plan, START, following).next_us == START + 6 * HOUR


def test_a_run_by_hand_leaves_the_plan_alone_and_is_no_fire_time() -> None:
    plan = started(cron="0 * * * *")
    by_hand = asked(plan, START)
    both = decided(
        msgspec.structs.replace(by_hand, overlap="queue"), START, following_of(plan), busy=False
    )
    assert [(f.at_us, f.by_hand) for f in both.due] == [(START, True), (START, False)]
    for fire in both.due:
        both = begun(begun(both, fire, "x", START), fire, "x", START)
    assert len(both.runs) == 2 and both.due == ()


@pytest.mark.parametrize(
    ("more", "code", "word"),
    [
        ({"cron": "0 3 * *"}, "E-SCHEDULE-CRON", "has 4"),
        ({"cron": "0 0 3 * * *"}, "E-SCHEDULE-CRON", "has 6"),
        ({"cron": "61 3 * * *"}, "E-SCHEDULE-CRON", "Bad minute"),
        ({"cron": "@sometimes"}, "E-SCHEDULE-CRON", "has 1"),
        ({"tz": "Mars/Olympus"}, "E-SCHEDULE-TZ", "Mars/Olympus"),
        ({"tz": "../etc/passwd"}, "E-SCHEDULE-TZ", "passwd"),
        ({"name": "a b"}, "E-SCHEDULE-NAME", "'a b'"),
        ({"prompt": ()}, "E-SCHEDULE-POLICY", "nothing to say"),
        ({"at_us": 1}, "E-SCHEDULE-WHEN", "either"),
        ({"cron": ""}, "E-SCHEDULE-WHEN", "either"),
        ({"missed": "all"}, "E-SCHEDULE-POLICY", "overlap=skip"),
    ],
)
def test_what_is_wrong_is_said_with_an_example(more: dict[str, Any], code: str, word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        following_of(checked(schedule(**more)))
    assert caught.value.code == code and word in caught.value.message and caught.value.hint


def test_moments_without_a_zone_are_in_the_one_given() -> None:
    local = datetime(2026, 12, 1, 9, 0)  # noqa: DTZ001 - as typed
    assert us_of(local, "Europe/Berlin") == us_of(datetime(2026, 12, 1, 8, 0, tzinfo=UTC))
    assert moment_of(START, "Europe/Berlin").tzinfo == zone("Europe/Berlin")
    assert stamp(START) == "20260328T120000Z"
    assert stamp(START + 5) == "20260328T120000.000005Z"
