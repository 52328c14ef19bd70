"""Clocks and ids: what sorts, what repeats, what moves."""

from itertools import pairwise
from random import Random

from perdure.ports.clock import Clock, Ids
from perdure.stores.system import RandomIds, SystemClock
from perdure.testing.clocks import FakeClock, SeededIds


def test_the_fakes_and_the_real_ones_fit_the_ports() -> None:
    clocks: list[Clock] = [SystemClock(), FakeClock()]
    ids: list[Ids] = [RandomIds(), SeededIds(1)]
    assert all(clock.now_us() > 1_600_000_000_000_000 for clock in clocks)
    assert all(0 <= each.random() < 1 for each in ids)


def test_the_system_clock_goes_on() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert abs(clock.now_us() - clock.now_us()) < 60_000_000


def test_event_ids_sort_by_time_and_then_as_they_were_made() -> None:
    ids, chance = RandomIds(), Random(1)
    moments = sorted(chance.randrange(2**55) for _ in range(200))
    made = [ids.event(at_us) for at_us in moments for _ in range(5)]
    assert all(before < after for before, after in pairwise(made))
    assert {len(each) for each in made} == {26}


def test_event_ids_are_not_made_twice_when_time_jumps_back() -> None:
    ids = RandomIds()
    made = [ids.event(at_us) for at_us in (10, 9, 10, 9, 10, 10)]
    assert len(set(made)) == len(made)
    assert max(made[1], made[3]) < min(made[0], made[2])


def test_counting_up_never_runs_over() -> None:
    ids = RandomIds(lambda bits: (1 << bits) - 1)
    made = [ids.event(7) for _ in range(1000)]
    assert made == sorted(made)
    assert len(set(made)) == 1000


def test_session_ids_are_short_and_readable() -> None:
    made = {RandomIds().session() for _ in range(1000)}
    assert len(made) == 1000
    for each in made:
        assert each.startswith("ses_")
        assert len(each) == 12
        assert not set(each[4:]) & set("ilou")


def test_a_seed_repeats_everything() -> None:
    first, second, third = SeededIds(7), SeededIds(7), SeededIds(8)
    runs = [[ids.session(), ids.event(1), ids.random()] for ids in (first, second, third)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_fake_clock_moves_as_it_is_told() -> None:
    clock = FakeClock(now_us=1_000, monotonic=5.0)
    clock.advance(1.5)
    assert (clock.now_us(), clock.monotonic()) == (1_501_000, 6.5)
    clock.set(10)
    assert (clock.now_us(), clock.monotonic()) == (10, 6.5)
