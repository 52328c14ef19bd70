"""Real processes that are killed while they move on sessions that stopped for one cause.

Whatever the moment, and run again until it is done: each session is resumed exactly once, nothing
of effect `once` happens twice, no faster than asked for, and the index of errors says what the
journals say.
"""

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.core import events as e
from perdure.core.events import Event
from perdure.core.journal import Record
from perdure.core.state import State
from perdure.core.step import status
from perdure.engine.journal import events_of, load
from perdure.engine.redrive import grouped
from perdure.stores.sqlite import SqliteStore
from perdure.stores.verify import verify
from tests.cli.shell import Shell
from tests.engine.stands import scanned
from tests.process.stalled import OTHER, RATE, STALLED
from tests.process.test_kills import Zygote
from tests.process.victim import Plan


def pays(invoice: int) -> dict[str, Any]:
    return {"call": [{"tool": "pay", "arguments": {"invoice": invoice}}]}


REFUSED = {"error": {"kind": "refused", "times": 99}, "if_user_contains": OTHER}
NO_KEY = {"error": {"kind": "auth", "times": 99}, "when": [REFUSED]}
DOWN = msgspec.json.encode({"reply": [pays(1), NO_KEY]}).decode()
UP = msgspec.json.encode({"reply": [pays(1), pays(2), {"text": "Done."}]}).decode()
PAID = Counter(
    [f"pay {name} {invoice}" for name in STALLED for invoice in (1, 2)] + [f"pay {OTHER} 1"]
)


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    both = [Zygote("tests.process.stalled"), Zygote("tests.process.stalled")]
    yield both
    for zygote in both:
        zygote.close()


class Found:
    """What lies on the disk of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.states: dict[str, State] = {}
        self.events: dict[str, list[Event]] = {}
        self.other: list[Record] = []
        self.waiting: dict[str, int] = {}

    async def read(self) -> "Found":
        store = await SqliteStore.open(self.home / "p.db")
        try:
            assert await verify(store) == [], self.home.name
            index = sorted(await store.errors(), key=lambda r: (r.session, r.fingerprint))
            assert index == await scanned(store), self.home.name
            for row in await store.sessions():
                self.events[row.id] = [event async for event, _ in events_of(store, row.id)]
                self.states[row.id], _, _ = await load(store, row.id)
            self.other = await store.read(OTHER, 0, 1000)
            self.waiting = {g.fingerprint: g.waiting for g in await grouped(store)}
        finally:
            await store.close()
        return self

    def resumed(self, session: str) -> int:
        """Return how often a session was told to go on."""
        payloads = [event.payload for event in self.events[session]]
        return sum(isinstance(p, e.InputAccepted) and p.kind == "resume" for p in payloads)

    def turns(self, session: str) -> int:
        return sum(isinstance(event.payload, e.TurnStarted) for event in self.events[session])

    def assert_done(self, before: "Found", cause: str) -> None:
        """Assert that all were moved on, each once, and nobody else."""
        why = self.home.name
        for name in STALLED:
            state = self.states[name]
            assert (status(state), state.last_status) == ("idle", "completed"), (why, name)
            assert (self.resumed(name), self.turns(name)) == (1, 2), (why, name)
        assert self.other == before.other, why
        assert Counter((self.home / "world").read_text().splitlines()) == PAID, why
        # The errors of kills in mid-call were decided on; of the rest only the other one waits.
        assert {f: n for f, n in self.waiting.items() if n} == {
            f: 1 for f, n in before.waiting.items() if f != cause
        }, why

    def assert_rate(self) -> None:
        """Assert that no process began its n-th session before its time had come."""
        done: dict[str, list[float]] = {}
        for line in (self.home / "redriven").read_text().splitlines():
            process, passed, _, outcome = line.split(" ")
            if outcome != "skipped":
                done.setdefault(process, []).append(float(passed))
        for times in done.values():
            for number, moment in enumerate(times):
                assert moment >= number / RATE, (self.home.name, times)


async def stalled(zygote: Zygote, folder: Path) -> tuple[Path, Found, str]:
    """Let the sessions stop; return where they lie, what lies there, and the cause of most."""
    home = folder / "stalled"
    home.mkdir()
    assert zygote.run(Plan(str(home), DOWN, deed="fail")) == 0, why(home)
    before = await Found(home).read()
    cause = max(before.waiting, key=lambda fingerprint: before.waiting[fingerprint])
    assert sorted(before.waiting.values()) == [1, len(STALLED)]
    return home, before, cause


def why(home: Path) -> str:
    failed = home / "failed"
    return failed.read_text() if failed.exists() else "no reason given"


def story(zygote: Zygote, start: Path, home: Path, *plans: Plan) -> int:
    """Redrive and die over it, as planned; then redrive until it is done. Return the kills."""
    shutil.copytree(start, home)
    kills = 0
    for plan in plans:
        ended = zygote.run(plan)
        assert ended in (0, signal.SIGKILL), (plan, why(home))
        kills += ended == signal.SIGKILL
    last = Plan(str(home), UP, deed=plans[0].deed, naive=plans[0].naive)
    assert zygote.run(last) == 0, (plans, why(home))
    return kills


async def test_killed_at_every_commit_and_around_every_effect(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    start, before, cause = await stalled(zygotes[0], tmp_path)
    deed = f"redrive:{cause}"
    calm = tmp_path / "calm"
    assert story(zygotes[0], start, calm, Plan(str(calm), UP, deed=deed)) == 0
    (await Found(calm).read()).assert_done(before, cause)
    jobs = [
        Plan(str(tmp_path / f"commit-{n}-{after}"), UP, commit=n, after=after, deed=deed)
        for n in range(1, commits_of(zygotes[0], start, tmp_path, deed) + 1)
        for after in (False, True)
    ]
    for when in ("before", "after"):
        home = tmp_path / f"effect-{when}"
        jobs.append(Plan(str(home), UP, effect=f"pay:{when}", deed=deed))
    kills = _both(zygotes, start, [[plan] for plan in jobs])
    # How many commits there are depends on what comes together in one: the last may be missing.
    assert kills >= len(jobs) * 0.8
    for plan in jobs:
        found = await Found(Path(plan.home)).read()
        found.assert_done(before, cause)
        found.assert_rate()


async def test_killed_again_and_again(zygotes: list[Zygote], tmp_path: Path) -> None:
    start, before, cause = await stalled(zygotes[0], tmp_path)
    stories = []
    for number in range(12):
        home = str(tmp_path / f"again-{number}")
        kills = [(1 + number % 4, False), (2 + number % 7, True), (3 + number, False)]
        stories.append(
            [Plan(home, UP, commit=n, after=a, deed=f"redrive:{cause}") for n, a in kills]
        )
    assert _both(zygotes, start, stories) >= 24
    for plans in stories:
        found = await Found(Path(plans[0].home)).read()
        found.assert_done(before, cause)
        found.assert_rate()


async def test_a_redrive_that_forgets_what_it_asked_for_is_caught(
    zygotes: list[Zygote], tmp_path: Path
) -> None:
    start, before, cause = await stalled(zygotes[0], tmp_path)
    caught = Counter[str]()
    for commit in range(1, 9):
        home = tmp_path / f"naive-{commit}"
        plan = Plan(str(home), UP, commit=commit, after=True, deed=f"redrive:{cause}", naive=True)
        story(zygotes[0], start, home, plan)
        found = await Found(home).read()
        for check in (lambda f: f.assert_done(before, cause), Found.assert_rate):
            try:
                check(found)
            except AssertionError:
                caught[getattr(check, "__name__", "")] += 1
    assert caught["<lambda>"], "nobody noticed that a session was resumed twice"
    assert caught["assert_rate"], "nobody noticed that it went too fast"


def commits_of(zygote: Zygote, start: Path, folder: Path, deed: str) -> int:
    """Return how many commits a redrive takes when nobody is killed."""
    home = folder / "counted"
    shutil.copytree(start, home)
    assert zygote.run(Plan(str(home), UP, deed=deed)) == 0, why(home)
    count = int((home / "commits").read_text())
    assert count >= 15
    return count


def _both(zygotes: list[Zygote], start: Path, stories: list[list[Plan]]) -> int:
    """Run the stories on both zygotes; return the number of kills."""
    with ThreadPoolExecutor(len(zygotes)) as pool:
        halves = [stories[i :: len(zygotes)] for i in range(len(zygotes))]
        runs = pool.map(
            lambda pair: sum(
                story(pair[0], start, Path(plans[0].home), *plans) for plans in pair[1]
            ),
            zip(zygotes, halves, strict=True),
        )
        return sum(runs)


def test_the_command_is_killed_and_typed_again(tmp_path: Path) -> None:
    """`perdure errors redrive` dies behind its first session; typed again, it moves on the rest."""
    shell = Shell(tmp_path)
    shell.agent("look {order = 1}", "look {order = 2}", "Found it.")
    for name in STALLED:
        words = ("run", "agent.py", "x", "--session", name, "--limit", "steps=2")
        assert shell.perdure(*words).status == 8
    (group,) = shell.perdure("errors", "--json").lines[0]
    words = ("errors", "redrive", group["fingerprint"], "--yes", "--rate", "5", "--json")
    with subprocess.Popen(
        shell.words(*words), cwd=tmp_path, env=shell.environ, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert '"resumed"' in first.stdout.readline()
        first.kill()
    assert first.returncode == -signal.SIGKILL
    again = shell.perdure(*words)
    assert again.status == 0, again.err
    assert len(again.lines) < len(STALLED), "what was resumed is not resumed again"
    for name in STALLED:
        assert shell.perdure("resume", name).status == 0
        events = shell.perdure("show", name, "--events", "--json").lines
        said = [each["payload"] for each in events]
        assert sum("errors redrive" in each.get("by", "") for each in said) == 1
        assert "Found it." in shell.perdure("show", name).out
    assert shell.perdure("errors", "--json").lines[0][0]["waiting"] == 0
