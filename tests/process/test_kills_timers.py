"""Real processes, really killed while a session sleeps: others wake it, and it wakes once."""

import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from perdure.core import events as e
from perdure.core.step import status
from perdure.engine.journal import events_of, load
from perdure.engine.replay import replay
from perdure.stores.sqlite import SqliteStore
from perdure.stores.verify import verify
from tests.process.test_kills import Zygote
from tests.process.victim import Plan, world_of
from tests.trees.family import says, uses


def story(*replies: object) -> str:
    return msgspec.json.encode({"reply": replies}).decode()


NAP = story(uses("sleep", seconds=0.4), uses("book", room=1), says("Done."))
WAIT = story(uses("wait_for", event="paid"), uses("book", room=1), says("Done."))


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    both = [Zygote("tests.process.sleeper"), Zygote("tests.process.sleeper")]
    yield both
    for zygote in both:
        zygote.close()


def why(home: Path) -> str:
    failed = home / "failed"
    return failed.read_text() if failed.exists() else ""


async def check(home: Path, wanted: int) -> None:
    """One wait, ended once, one payment; and the journal is whole and replays."""
    store = await SqliteStore.open(home / "p.db")
    try:
        events = [event async for event, _ in events_of(store, "s")]
        state, _, _ = await load(store, "s")
        assert await verify(store) == []
        assert await store.due(1 << 60) == [], "nothing is due any more"
    finally:
        await store.close()
    counted = Counter(event.type for event in events)
    assert (status(state), state.last_status) == ("idle", "completed"), home.name
    assert counted["timer.set"] == counted["timer.fired"] == 1, (home.name, counted)
    assert len([x for x in events if isinstance(x.payload, e.SignalReceived)]) == wanted
    assert len(set(world_of(home).splitlines())) == 1, "the same key, however often it was tried"
    report = await replay(events)
    assert report.identical, (home.name, report)


async def test_two_processes_wake_what_a_killed_one_left_asleep(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    home = tmp_path
    assert zygotes[0].run(Plan(str(home), NAP, deed="sleep")) == signal.SIGKILL, why(home)
    with ThreadPoolExecutor(2) as pool:
        plan = Plan(str(home), NAP, deed="wake")
        ended = list(pool.map(lambda zygote: zygote.run(plan), zygotes))
    assert ended == [0, 0], why(home)
    await check(home, 0)


@pytest.mark.parametrize("deed", ["wake", "signal"])
async def test_killed_at_every_commit_of_waking(
    zygotes: list[Zygote], tmp_path: Path, deed: str
) -> None:
    script = NAP if deed == "wake" else WAIT
    calm = tmp_path / "calm"
    calm.mkdir()
    assert zygotes[0].run(Plan(str(calm), script, deed="sleep")) == signal.SIGKILL, why(calm)
    assert zygotes[0].run(Plan(str(calm), script, deed=deed)) == 0, why(calm)
    await check(calm, int(deed == "signal"))
    kills = 0
    for commit in range(1, int((calm / "commits").read_text()) + 1):
        home = tmp_path / f"commit-{commit}"
        home.mkdir()
        zygote = zygotes[commit % 2]
        assert zygote.run(Plan(str(home), script, deed="sleep")) == signal.SIGKILL, why(home)
        after = bool(commit % 2)
        ended = zygote.run(Plan(str(home), script, deed=deed, commit=commit, after=after))
        kills += ended == signal.SIGKILL
        assert ended in (0, signal.SIGKILL), why(home)
        assert zygote.run(Plan(str(home), script, deed=deed)) == 0, why(home)
        await check(home, int(deed == "signal"))
    assert kills >= 5
