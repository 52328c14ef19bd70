"""Scenario 25 with real processes: killed at every commit while they fire, and two at once.

Whatever the moment, and run again until it is done: one session and one run for one fire time.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from perdure.core import events as e
from perdure.core.step import status
from perdure.engine.calendar import stamp
from perdure.engine.journal import events_of, load
from perdure.engine.schedules import KIND
from perdure.stores.sqlite import SqliteStore
from perdure.stores.verify import verify
from tests.process.scheduled import PAST_US, PLANS
from tests.process.test_kills import Zygote
from tests.process.victim import Plan, world_of

SCRIPT = msgspec.json.encode(
    {"reply": [{"call": [{"tool": "pay", "arguments": {"invoice": 1}}]}, {"text": "Paid."}]}
).decode()
SESSIONS = {"book", f"monthly-{stamp(PAST_US)}"}
BROKEN = ("MovesOnFirst", "NamesAtRandom", "ForgetsTheKey")


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    both = [Zygote("tests.process.scheduled"), Zygote("tests.process.scheduled")]
    yield both
    for zygote in both:
        zygote.close()


def run(zygote: Zygote, plan: Plan) -> None:
    """Run a process to its end, or to the kill that the plan has for it."""
    failed = Path(plan.home) / "failed"
    ended = zygote.run(plan)
    assert ended in (0, signal.SIGKILL), failed.read_text() if failed.exists() else plan


def plan_for(home: Path, commit: int = 0, *, after: bool = False, deed: str = "") -> Plan:
    home.mkdir(exist_ok=True)
    return Plan(str(home), SCRIPT, commit=commit, after=after, deed=deed)


async def wrong(home: Path) -> list[str]:
    """What is not as it has to be: sessions, runs, payments, what the schedules say."""
    store = await SqliteStore.open(home / "p.db")
    found = [str(each) for each in await verify(store)]
    try:
        names = {row.id for row in await store.sessions()}
        found += [f"{name} is one too many" for name in names - SESSIONS]
        found += [f"{name} is missing" for name in SESSIONS - names]
        for name in names:
            events = [event.payload async for event, _ in events_of(store, name)]
            said = sum(isinstance(each, e.InputAccepted) for each in events)
            ended = [each.status for each in events if isinstance(each, e.TurnEnded)]
            state, _, _ = await load(store, name)
            if (said, ended, status(state)) != (1, ["completed"], "idle"):
                found.append(f"{name}: {said} messages, turns {ended}, {status(state)}")
        found += [f"due still: {d.name}" for d in await store.docs(KIND) if b'"due"' in d.data]
    finally:
        await store.close()
    paid = Counter(world_of(home).splitlines())
    if paid != Counter([f"pay {name} 1" for name in SESSIONS]):
        found.append(f"paid {dict(paid)}")
    return found


def commits(zygote: Zygote, home: Path, deed: str = "") -> int:
    run(zygote, plan_for(home, deed=deed))
    return int((home / "commits").read_text())


def killed_everywhere(zygotes: list[Zygote], folder: Path, deed: str = "") -> list[Path]:
    """Kill one process at each commit in turn, then let another one finish."""
    count = commits(zygotes[0], folder / "calm", deed)
    jobs = [(n, after) for n in range(1, count + 1) for after in (False, True)]

    def story(zygote: Zygote, commit: int, after: bool) -> Path:
        home = folder / f"{commit}-{'after' if after else 'before'}"
        run(zygote, plan_for(home, commit, after=after, deed=deed))
        run(zygote, plan_for(home, deed=deed))
        return home

    with ThreadPoolExecutor(len(zygotes)) as pool:
        halves = [(z, jobs[i :: len(zygotes)]) for i, z in enumerate(zygotes)]
        done = pool.map(lambda half: [story(half[0], *job) for job in half[1]], halves)
        return [home for homes in done for home in homes]


async def test_25_killed_at_every_commit_each_fire_time_has_one_run(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    homes = await asyncio.to_thread(killed_everywhere, zygotes, tmp_path)
    assert len(homes) >= 2 * (4 * len(PLANS)), "each plan is kept, decided, begun and run"
    assert {home.name: bad for home in homes if (bad := await wrong(home))} == {}


async def test_25_two_processes_fire_at_once_and_one_is_killed(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    count = commits(zygotes[0], tmp_path / "calm")
    for commit in range(1, count + 1, 2):
        home = tmp_path / str(commit)
        plans = [plan_for(home, commit, after=commit % 4 == 1), plan_for(home)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, zygotes, plans))
        run(zygotes[0], plan_for(home))
        assert await wrong(home) == [], commit


@pytest.mark.parametrize("deed", BROKEN)
async def test_25_what_is_broken_on_purpose_is_seen(
    deed: str, zygotes: list[Zygote], tmp_path: Path
) -> None:
    homes = await asyncio.to_thread(killed_everywhere, zygotes, tmp_path, deed)
    assert [home for home in homes if await wrong(home)]
