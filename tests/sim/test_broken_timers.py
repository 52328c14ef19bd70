"""Sleep that is broken on purpose is seen, and sleep that is right is not blamed."""

import pytest

from perdure.engine.runtime import Engine
from perdure.testing.broken_timers import BROKEN_TIMERS
from perdure.testing.timer_checks import troubles

SEEN_AS = {
    "fires twice": "not woken in time",
    "loses signals": "the event is lost",
    "oversleeps": "not woken in time",
    "forgets to wake": "not woken in time",
}


async def test_an_engine_that_is_right() -> None:
    assert await troubles(Engine) == []


@pytest.mark.parametrize("name", BROKEN_TIMERS)
async def test_an_engine_that(name: str) -> None:
    found = await troubles(BROKEN_TIMERS[name])
    assert any(SEEN_AS[name] in each for each in found), found
