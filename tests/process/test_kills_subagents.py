"""Real processes that are killed while they work on a tree of subagents.

Whatever the moment: nobody is spawned twice, each result reaches its parent as it was, each
payment is made once, and what the provider bills for the whole tree stays within its one budget.
"""

import random
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import pytest

from perdure.core import events as e
from perdure.core.events import Event
from perdure.core.state import State
from perdure.core.step import status
from perdure.engine.journal import events_of, load
from perdure.engine.kin import summed, tree_of
from perdure.stores.sqlite import SqliteStore
from perdure.stores.verify import verify
from tests.engine.stands import scanned
from tests.process.crew import paid
from tests.process.test_kills import Zygote
from tests.process.victim import Plan
from tests.trees.family import says, uses

USED: Final = (1300, 40)  # about what is reserved for a call
PLENTY: Final = "1000000"
FAMILY: Final = {"s", "s.t1.1", "s.t1.2", "s.t1.3", "s.t1.3.t1.1"}
PAYERS: Final = ("s.t1.1", "s.t1.2", "s.t1.3.t1.1")
RESULTS: Final = {
    "s": {"t1.1": paid("s.t1.1"), "t1.2": paid("s.t1.2"), "t1.3": paid("s.t1.3.t1.1")},
    "s.t1.3": {"t1.1": paid("s.t1.3.t1.1")},
    **{name: {"t1.1": paid(name)} for name in PAYERS},
}


def gives(*tools: str) -> dict[str, object]:
    calls = [{"tool": tool, "arguments": {"task": f"part {n}"}} for n, tool in enumerate(tools)]
    return {"call": calls, "usage": {"input_tokens": USED[0], "output_tokens": USED[1]}}


SCRIPTS = {
    "lead": [gives("worker", "worker", "manager"), says("done", USED)],
    "manager": [gives("worker"), says("{{last_result}}", USED)],
    "worker": [uses("pay", USED, n=1), says("{{last_result}}", USED)],
}
# It takes a while until a model answers: the calls of one level are in flight together.
CREW = msgspec.json.encode(
    {name: {"reply": said, "delay_s": 0.003} for name, said in SCRIPTS.items()}
).decode()
CALM_TOKENS: Final = 10 * sum(USED)


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    both = [Zygote("tests.process.crew"), Zygote("tests.process.crew")]
    yield both
    for zygote in both:
        zygote.close()


class Found:
    """What lies on the disk of one home, and what was left outside."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.states: dict[str, State] = {}
        self.events: dict[str, list[Event]] = {}
        self.tokens = 0
        self.world = Counter(_lines(home / "world"))
        self.billed = sum(int(line) for line in _lines(home / "bills"))

    async def read(self) -> "Found":
        store = await SqliteStore.open(self.home / "p.db")
        try:
            assert await verify(store) == [], self.home.name
            index = sorted(await store.errors(), key=lambda r: (r.session, r.fingerprint))
            assert index == await scanned(store), self.home.name
            rows = await store.sessions()
            for row in rows:
                self.events[row.id] = [event async for event, _ in events_of(store, row.id)]
                self.states[row.id], _, _ = await load(store, row.id)
            self.tokens = summed(tree_of(rows, "s")).tokens
        finally:
            await store.close()
        return self

    def results(self, session: str) -> dict[str, str]:
        """Return what the model read of each call that came to an end."""
        payloads = [event.payload for event in self.events[session]]
        found = {p.call_id: p.text for p in payloads if isinstance(p, e.ToolFinished) and p.text}
        for payload in payloads:
            if isinstance(payload, e.ActionResolved) and payload.result is not None:
                found.setdefault("t1.1", payload.result)
        return found

    def assert_nobody_twice(self) -> None:
        """Assert that no session was made or told twice, and nothing was paid twice."""
        why = self.home.name
        assert set(self.states) <= FAMILY, why
        assert set(self.world.values()) <= {1}, (why, self.world)
        for name, events in self.events.items():
            payloads = [event.payload for event in events]
            said = [p for p in payloads if isinstance(p, e.InputAccepted) and p.kind == "message"]
            assert len(said) == 1, (why, name)
            assert sum(isinstance(p, e.TurnStarted) for p in payloads) == 1, (why, name)

    def assert_whole(self) -> None:
        """Assert that all was done, with the very results."""
        self.assert_nobody_twice()
        why = self.home.name
        assert set(self.states) == FAMILY, why
        assert self.world == Counter(f"pay {name}" for name in PAYERS), why
        for name, state in self.states.items():
            assert (status(state), state.last_status) == ("idle", "completed"), (why, name)
            assert self.results(name) == RESULTS[name], (why, name)

    def assert_within(self, tokens: int) -> None:
        """Assert that neither the accounts nor the provider's bills pass the budget."""
        why = self.home.name
        assert self.tokens <= tokens, (why, self.tokens)
        assert self.billed <= self.tokens, (why, "billed and not booked", self.billed)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def why(home: Path) -> str:
    failed = home / "failed"
    return failed.read_text() if failed.exists() else "no reason given"


def story(zygote: Zygote, *plans: Plan) -> int:
    """Die as planned, one process after the other, then live to rest; return the kills."""
    home = Path(plans[0].home)
    home.mkdir()
    kills = 0
    for plan in plans:
        ended = zygote.run(plan)
        assert ended in (0, signal.SIGKILL), (plan, why(home))
        kills += ended == signal.SIGKILL
    assert zygote.run(Plan(str(home), CREW, deed=plans[0].deed)) == 0, (plans, why(home))
    return kills


def both(zygotes: list[Zygote], stories: list[list[Plan]]) -> int:
    """Run the stories on both zygotes; return the number of kills."""
    with ThreadPoolExecutor(len(zygotes)) as pool:
        halves = [stories[i :: len(zygotes)] for i in range(len(zygotes))]
        runs = pool.map(
            lambda pair: sum(story(pair[0], *plans) for plans in pair[1]),
            zip(zygotes, halves, strict=True),
        )
        return sum(runs)


def commits_of(zygote: Zygote, folder: Path, deed: str) -> int:
    """Return how many commits it takes when nobody is killed."""
    home = folder / "counted"
    home.mkdir()
    assert zygote.run(Plan(str(home), CREW, deed=deed)) == 0, why(home)
    count = int((home / "commits").read_text())
    assert count >= 20
    return count


def at_every_commit(folder: Path, count: int, deed: str) -> list[list[Plan]]:
    return [
        [Plan(str(folder / f"commit-{n}-{after}"), CREW, commit=n, after=after, deed=deed)]
        for n in range(1, count + 1)
        for after in (False, True)
    ]


async def test_killed_at_every_commit_and_around_every_effect(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    calm = tmp_path / "calm"
    assert story(zygotes[0], Plan(str(calm), CREW, deed=PLENTY)) == 0
    (await Found(calm).read()).assert_whole()
    count = commits_of(zygotes[0], tmp_path, PLENTY)
    stories = at_every_commit(tmp_path, count, PLENTY)
    for name in PAYERS:
        for when in ("before", "after"):
            home = str(tmp_path / f"effect-{name}-{when}")
            stories.append([Plan(home, CREW, effect=f"{name}:{when}", deed=PLENTY)])
    kills = both(zygotes, stories)
    # How many commits there are depends on what comes together in one: the last may be missing.
    assert kills >= len(stories) * 0.8
    for plans in stories:
        found = await Found(Path(plans[0].home)).read()
        found.assert_whole()
        found.assert_within(int(PLENTY))


async def test_killed_again_and_again_at_random(zygotes: list[Zygote], tmp_path: Path) -> None:
    dice = random.Random(26)
    stories = []
    for number in range(24):
        home = str(tmp_path / f"random-{number}")
        stories.append([_anywhere(dice, home) for _ in range(dice.randint(2, 4))])
    assert both(zygotes, stories) >= 40
    for plans in stories:
        found = await Found(Path(plans[0].home)).read()
        found.assert_whole()
        found.assert_within(int(PLENTY))


def _anywhere(dice: random.Random, home: str) -> Plan:
    if dice.random() < 0.5:
        return Plan(home, CREW, ms=dice.uniform(8, 120), deed=PLENTY)
    after = dice.random() < 0.5
    return Plan(home, CREW, commit=dice.randint(1, 30), after=after, deed=PLENTY)


async def test_killed_at_every_commit_with_a_budget_that_is_too_small(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    tight = str(CALM_TOKENS - 2 * sum(USED))
    count = commits_of(zygotes[0], tmp_path, tight)
    stories = at_every_commit(tmp_path, count, tight)
    assert both(zygotes, stories) >= len(stories) * 0.7
    for plans in stories:
        found = await Found(Path(plans[0].home)).read()
        found.assert_nobody_twice()
        found.assert_within(int(tight))
        assert {status(state) for state in found.states.values()} <= {"idle", "budget"}


async def test_the_check_catches_a_subagent_that_is_spawned_again(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    for commit in range(8, 24):
        plan = Plan(str(tmp_path / str(commit)), CREW, commit=commit, deed=f"{PLENTY}:spawns")
        story(zygotes[0], plan)
        found = Found(Path(plan.home))
        try:
            (await found.read()).assert_nobody_twice()
        except AssertionError:
            return
    raise AssertionError("nobody noticed")


async def test_the_check_catches_a_ledger_that_forgets_what_is_in_flight(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    for tokens in range(4000, CALM_TOKENS, 500):
        plan = Plan(str(tmp_path / str(tokens)), CREW, deed=f"{tokens}:ledger")
        story(zygotes[0], plan)
        try:
            (await Found(Path(plan.home)).read()).assert_within(tokens)
        except AssertionError:
            return
    raise AssertionError("nobody noticed")
