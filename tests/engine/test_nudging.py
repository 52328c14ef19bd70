"""What another process writes makes those re-read who follow that session, and nobody else."""

import asyncio
from collections.abc import Mapping

import pytest

from perdure.core.state import State
from perdure.engine.hub import Follower, Hub


class NudgesEverybody(Hub):
    """Wrong on purpose: each change anywhere makes all followers read."""

    def nudge(self, ends: Mapping[str, int]) -> None:
        for session in self.followed:
            super().nudge({session: -1})
            super().nudge(ends)


class NudgesNobody(Hub):
    """Wrong on purpose."""

    def nudge(self, ends: Mapping[str, int]) -> None:
        del ends


async def told(follower: Follower) -> bool:
    """Whether there is something for the follower; takes it."""
    try:
        async with asyncio.timeout(0.01):
            await follower.next()
    except TimeoutError:
        return False
    return True


async def misses(hub: Hub) -> list[str]:
    """Return what is wrong with the way in which a hub passes changes on."""
    found = []
    with hub.follow("a") as one, hub.follow("b") as other:
        hub.nudge({"a": 3, "b": 5})
        if not (await told(one) and await told(other)):
            found.append("who begins to follow may have missed something, and is not told")
        hub.nudge({"a": 4, "b": 5})
        if not await told(one):
            found.append("a session that has grown is not told")
        if await told(other):
            found.append("a session that has not grown is told")
        hub.nudge({"a": 4})
        if not await told(other):
            found.append("a session that is gone is not told")
        if await told(one):
            found.append("a session that stands still is told")
    return found


async def test_only_followers_of_what_has_grown_read_again() -> None:
    assert await misses(Hub(100)) == []


@pytest.mark.parametrize("kind", [NudgesEverybody, NudgesNobody])
async def test_the_check_finds_what_is_wrong(kind: type[Hub]) -> None:
    assert await misses(kind(100))


async def test_what_was_published_here_is_no_reason_to_read() -> None:
    hub = Hub(100)
    with hub.follow("a") as follower:
        hub.nudge({"a": 1})
        await follower.next()
        hub.publish("a", [], State())
        hub.nudge({"a": 1})
        assert not await told(follower)
    assert hub.followed == []
