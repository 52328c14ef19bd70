"""Real processes, really killed: at every commit, around every effect, and at random.

Each story runs to rest through one or more kills. Then: every acknowledged event is in the
journal unchanged, each `once` tool left exactly one line in the world, an idempotent one never
used two keys for a call, the journal verifies, and no process is left.
"""

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from perdure.core.step import status
from perdure.engine.journal import events_of, load
from perdure.stores.sqlite import SqliteStore
from tests.process.victim import Answer, Plan

LOOK_AND_PAY = {
    "text": "I look, then I pay.",
    "call": [
        {"tool": "look", "arguments": {"thing": "invoice"}},
        {"tool": "look", "arguments": {"thing": "account"}},
        {"tool": "pay", "arguments": {"invoice": 1}},
    ],
}
BOOK_AND_SHIP = {
    "call": [
        {"tool": "book", "arguments": {"room": 7}},
        {"tool": "ship", "arguments": {"parcel": 2}},
        {"tool": "launch", "arguments": {"rocket": 3}},
        {"tool": "pay", "arguments": {"invoice": 2}},
    ]
}
EDIT = {
    "call": [
        {"tool": "bash", "arguments": {"command": "echo one >> notes; sleep 0.05; cat notes"}},
        {"tool": "bash", "arguments": {"command": "echo two >> notes; wc -l < notes"}},
    ]
}
DONE = {"text": "Done."}
PLAIN = msgspec.json.encode({"reply": [LOOK_AND_PAY, BOOK_AND_SHIP, DONE]}).decode()
SANDBOXED = msgspec.json.encode({"reply": [LOOK_AND_PAY, EDIT, DONE]}).decode()
ONCE = Counter({"pay t1.3 1": 1, "ship t1.5 2": 1, "launch t1.6 3": 1, "pay t1.7 2": 1})


class Zygote:
    """A process that forks victims. Speaks a line a plan, a line an answer."""

    def __init__(self, victim: str = "tests.process.victim") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", victim],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._lock = threading.Lock()

    def run(self, plan: Plan) -> int:
        """Run a victim; return its wait status: 0, or the signal that killed it."""
        with self._lock:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.write(msgspec.json.encode(plan).decode() + "\n")
            self._process.stdin.flush()
            return msgspec.json.decode(self._process.stdout.readline(), type=Answer).status

    def close(self) -> None:
        """End the zygote."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    """Two zygotes, one for each core."""
    both = [Zygote(), Zygote()]
    yield both
    for zygote in both:
        zygote.close()


def story(zygote: Zygote, home: Path, plans: list[Plan]) -> int:
    """Run the plans one after the other, then to rest; return how many processes were killed."""
    home.mkdir()
    kills = 0
    for plan in plans:
        ended = zygote.run(plan)
        assert ended in (0, signal.SIGKILL), (plan, _why(home))
        kills += ended == signal.SIGKILL
    last = Plan(str(home), plans[0].script, plans[0].sandbox, naive=plans[0].naive)
    assert zygote.run(last) == 0, (plans, _why(home))
    return kills


def commits_of(zygote: Zygote, home: Path, plan: Plan) -> int:
    """Return how many commits the story takes when nobody is killed."""
    home.mkdir()
    assert zygote.run(plan) == 0, _why(home)
    return int((home / "commits").read_text())


async def inspect(home: Path) -> Counter[str]:
    """Check the journal against what was acknowledged; return the world's lines, counted."""
    store = await SqliteStore.open(home / "p.db")
    try:
        kept = {f"{event.seq} {event.id}" async for event, _ in events_of(store, "s")}
        state, _, _ = await load(store, "s")
    finally:
        await store.close()
    told = (home / "acknowledged").read_text().splitlines()
    # A line that a kill cut short was not acknowledged whole; every whole one must be kept.
    lost = [line for line in told if len(line.split(" ")[-1]) == 26 and line not in kept]
    assert not lost, f"{home.name}: acknowledged and lost: {lost}"
    assert status(state) == "idle", (home.name, status(state), state.last_error)
    assert state.last_status == "completed"
    return Counter((home / "world").read_text().splitlines())


def _why(home: Path) -> str:
    failed = home / "failed"
    return failed.read_text() if failed.exists() else "no reason given"


def assert_once(home: Path, world: Counter[str]) -> None:
    """Each effect happened exactly once; bookings may repeat, but only with one key."""
    books = [line for line in world if line.startswith("book ")]
    assert len(books) == 1, f"{home.name}: {books}"
    assert Counter({k: n for k, n in world.items() if k not in books}) == ONCE, home.name


def _both(zygotes: list[Zygote], jobs: list[tuple[Path, list[Plan]]]) -> int:
    """Run the stories on both zygotes; return the number of kills."""
    with ThreadPoolExecutor(len(zygotes)) as pool:
        halves = [jobs[i :: len(zygotes)] for i in range(len(zygotes))]
        runs = pool.map(
            lambda pair: sum(story(pair[0], home, plans) for home, plans in pair[1]),
            zip(zygotes, halves, strict=True),
        )
        return sum(runs)


async def test_killed_at_every_commit_and_around_every_effect(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    calm = tmp_path / "calm"
    count = commits_of(zygotes[0], calm, Plan(str(calm), PLAIN))
    assert count >= 20
    jobs = []
    for commit in range(1, count + 1):
        for after in (False, True):
            home = tmp_path / f"commit-{commit}-{'after' if after else 'before'}"
            jobs.append((home, [Plan(str(home), PLAIN, commit=commit, after=after)]))
    for name in ("pay", "book", "ship", "launch"):
        for when in ("before", "after"):
            home = tmp_path / f"effect-{name}-{when}"
            jobs.append((home, [Plan(str(home), PLAIN, effect=f"{name}:{when}")]))
    kills = _both(zygotes, jobs)
    for home, _ in jobs:
        assert_once(home, await inspect(home))
    assert kills >= len(jobs) - 2, "a plan that kills nobody proves nothing"


async def test_killed_again_and_again_at_random(zygotes: list[Zygote], tmp_path: Path) -> None:
    dice = random.Random(20261122)
    jobs = []
    for number in range(80):
        home = tmp_path / f"random-{number}"
        jobs.append((home, [_anywhere(dice, home) for _ in range(dice.randint(3, 6))]))
    kills = _both(zygotes, jobs)
    for home, _ in jobs:
        assert_once(home, await inspect(home))
    assert kills >= 220


def _anywhere(dice: random.Random, home: Path) -> Plan:
    """Return a plan that dies at some commit, or whenever the time has come."""
    if dice.random() < 0.5:
        return Plan(str(home), PLAIN, ms=dice.uniform(8, 60))
    return Plan(str(home), PLAIN, commit=dice.randint(1, 14), after=dice.random() < 0.5)


@pytest.mark.sandbox
async def test_killed_while_working_in_a_sandbox(zygotes: list[Zygote], tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    count = commits_of(zygotes[0], calm, Plan(str(calm), SANDBOXED, sandbox=True))
    jobs = []
    for commit in range(5, count + 1):
        for after in (False, True):
            home = tmp_path / f"sandbox-{commit}-{after}"
            plan = Plan(str(home), SANDBOXED, sandbox=True, commit=commit, after=after)
            jobs.append((home, [plan]))
    dice = random.Random(7)
    for number in range(30):
        home = tmp_path / f"sandbox-random-{number}"
        plan = Plan(str(home), SANDBOXED, sandbox=True, ms=dice.uniform(30, 180))
        jobs.append((home, [plan]))
    kills = _both(zygotes, jobs)
    assert kills >= len(jobs) - 12
    for home, _ in jobs:
        assert await inspect(home) == Counter({"pay t1.3 1": 1})
        notes = [p.read_text() for p in (home / "work").rglob("notes") if p.is_file()]
        assert notes == ["one\ntwo\n"], f"{home.name}: a half-done command survived: {notes}"
    assert not _processes_below(tmp_path)


async def test_the_check_catches_a_tool_that_is_run_again(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    """The control: a `once` tool wrongly declared safe to repeat pays twice, and that is seen."""
    home = tmp_path / "naive"
    story(zygotes[0], home, [Plan(str(home), PLAIN, effect="pay:after", naive=True)])
    with pytest.raises(AssertionError):
        assert_once(home, await inspect(home))


def _processes_below(home: Path) -> list[str]:
    """Return the command lines of living processes that name a path below `home`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(home).encode() in line:
                found.append(line.decode(errors="replace"))
    return found
