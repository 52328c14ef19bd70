"""Two sessions side by side."""

from collections.abc import Sequence

import pytest

from perdure.core.errors import NotFound
from perdure.engine.compare import compare
from perdure.engine.compare_text import clean, comparison_text
from perdure.ports.sandbox import Change
from tests.engine.told import NO_LOOKING, REFUND, Shop, clerk, engine_on, memory, refunded


async def test_a_fork_shares_its_past_and_parts_where_it_was_decided_otherwise() -> None:
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        session = await engine.session("s", clerk(Shop()))
        await session.send("go")
        at = (await session.state()).seq
        fork = await session.fork(name="f")
        await refunded(session)
        await fork.resume()
        await refunded(fork, deny="not here", say="go on")
        await session.set("mood", {"now": "glad", "before": "calm"})
        await fork.set("mood", {"now": "sad", "before": "calm"})
        for each in (session, fork):
            await each.steer("bye")
            await each.send("once more")
        found = await compare(store, "s", "f")
    assert found.shared_events == at
    assert found.shared_items == 5
    assert [(v.name, v.a, v.b) for v in found.values] == [("mood.now", "glad", "sad")]
    assert found.definition == ()
    assert found.files == ()
    text = comparison_text(found, 80)
    assert f"{at} events and 5 items of the transcript in common" in text
    assert "500 for 7 given back" in text
    assert "not here" in text
    assert 'mood.now: "glad" → "sad"' in text
    assert all(len(line) <= 80 for line in text.splitlines())


async def test_sessions_with_different_definitions_at_chosen_events() -> None:
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        await refunded(await engine.session("a", clerk(Shop())))
        await refunded(await engine.session("b", clerk(Shop(), rules=[NO_LOOKING])))
        found = await compare(store, "a", "b", at_a=4, at_b=7)
        assert (found.a.at, found.b.at) == (4, 7)
        assert found.shared_events == 0
        assert found.shared_items == 1
        assert "permissions" in {each.name for each in found.definition}
        with pytest.raises(NotFound):
            await compare(store, "a", "c")
        with pytest.raises(NotFound):
            await compare(store, "a", "b", at_a=4000)


async def test_files_come_from_whoever_can_read_snapshots() -> None:
    asked: list[tuple[str, str]] = []

    async def changes(before: str, after: str) -> Sequence[Change]:
        asked.append((before, after))
        return [Change("a.txt", "changed", b"1", b"22"), Change("b\x1b[2J", "added", None, b"x")]

    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        await refunded(await engine.session("a", clerk(Shop())))
        same = await compare(store, "a", "a", changes=changes)
    assert same.files == ()
    assert asked == [], "without snapshots there is nothing to ask"
    assert "files" not in comparison_text(same)


def test_nothing_reaches_a_terminal_that_it_would_act_on() -> None:
    assert clean("a\x1b[2Jb\nc\r") == "a·[2Jb\nc·"
