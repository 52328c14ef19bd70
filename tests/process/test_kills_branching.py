"""Real processes that are killed while they fork a session or take it back.

Whatever the moment: the fork is not there or it is whole, the rewind is not there or it is whole
with its files, and the origin is what it was.
"""

import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perdure.core import events as e
from perdure.core.events import Event
from perdure.core.journal import Record
from perdure.engine.journal import events_of, load
from perdure.stores.sqlite import SqliteStore
from perdure.stores.verify import verify
from tests.process.test_kills import PLAIN, SANDBOXED, Zygote
from tests.process.victim import Plan

MOMENT = "one\n"
END = "one\ntwo\n"


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    both = [Zygote(), Zygote()]
    yield both
    for zygote in both:
        zygote.close()


class Found:
    """What lies on the disk of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.records: dict[str, list[Record]] = {}
        self.events: dict[str, list[Event]] = {}

    async def read(self) -> "Found":
        store = await SqliteStore.open(self.home / "p.db")
        try:
            assert await verify(store) == [], self.home.name
            for name in [row.id for row in await store.sessions()]:
                self.records[name] = await store.read(name, 0, 10_000)
                self.events[name] = [event async for event, _ in events_of(store, name)]
                state, _, _ = await load(store, name)
                assert state.seq == len(self.records[name])
        finally:
            await store.close()
        return self

    def moment(self) -> int:
        """Return the event after which the origin was to be taken up again."""
        ended = [ev.seq for ev in self.events["s"] if isinstance(ev.payload, e.ToolFinished)]
        return ended[3]  # three calls of the first reply, and the first of the second one

    def notes(self, session: str) -> str:
        """Return what the session's workspace holds."""
        payloads = [event.payload for event in self.events[session]]
        opened = [p.workspace for p in payloads if isinstance(p, e.EnvironmentOpened)]
        return (Path(opened[-1]) / "notes").read_text()


def lived(zygote: Zygote, home: Path, script: str) -> None:
    """Live a session to its rest."""
    home.mkdir()
    ended = zygote.run(Plan(str(home), script, sandbox=script == SANDBOXED))
    assert ended == 0, (home / "failed").read_text()


def kill(zygote: Zygote, home: Path, script: str, deed: str, **where: object) -> bool:
    """Let a process do the deed and die over it; whether it did. Then let another one look on."""
    sandbox = script == SANDBOXED
    ended = zygote.run(Plan(str(home), script, sandbox, deed=deed, **where))  # type: ignore[arg-type]
    assert ended in (0, signal.SIGKILL), (home / "failed").read_text()
    return ended == signal.SIGKILL


def watch(zygote: Zygote, home: Path, script: str, session: str) -> None:
    """Let a process that is not killed look after a session."""
    ended = zygote.run(Plan(str(home), script, script == SANDBOXED, deed=f"watch:{session}"))
    assert ended == 0, (home / "failed").read_text()


async def check(zygote: Zygote, home: Path, script: str, deed: str, before: Found) -> bool:
    """Check what a kill left, then what another process makes of it; whether it came about."""
    now = await Found(home).read()
    length, to = len(before.records["s"]), int(deed.partition(":")[2])
    assert now.records["s"][:length] == before.records["s"]
    branch = "f" if deed.startswith("fork") else "s"
    if branch == "f":
        assert now.records["s"] == before.records["s"]
        if "f" not in now.events:
            return False
        own = now.events["f"]
        cut = next(ev.seq for ev in own if isinstance(ev.payload, e.SessionForked)) - 1
        assert cut in (to, to + 1)
        assert now.records["f"][:cut] == before.records["s"][:cut]
    watch(zygote, home, script, branch)
    after = await Found(home).read()
    rewound = [ev for ev in after.events[branch] if isinstance(ev.payload, e.SessionRewound)]
    assert len(rewound) <= 1
    happened = branch == "f" or bool(rewound)
    if script == SANDBOXED:
        assert after.notes(branch) == (MOMENT if happened else END), home.name
        assert branch == "s" or after.notes("s") == END
    return happened


async def every_commit(zygotes: list[Zygote], folder: Path, script: str, deed: str) -> None:
    """Kill at every commit of the deed, before and after it, and look what is left each time."""
    calm = folder / "calm"
    lived(zygotes[0], calm, script)
    before = await Found(calm).read()
    what = f"{deed}:{before.moment()}"
    assert not kill(zygotes[0], calm, script, what)
    count = int((calm / "commits").read_text())
    assert count >= 4
    plans = [(n, after) for n in range(1, count + 1) for after in (False, True)]
    homes = [folder / f"{deed}-{n}-{after}" for n, after in plans]

    def one(pair: tuple[Zygote, list[int]]) -> int:
        kills = 0
        for index in pair[1]:
            number, after = plans[index]
            lived(pair[0], homes[index], script)
            kills += kill(pair[0], homes[index], script, what, commit=number, after=after)
        return kills

    halves = [list(range(i, len(plans), len(zygotes))) for i in range(len(zygotes))]
    with ThreadPoolExecutor(len(zygotes)) as pool:
        kills = sum(pool.map(one, zip(zygotes, halves, strict=True)))
    assert kills >= len(plans) - 2, "a plan that kills nobody proves nothing"
    happened = 0
    for home in homes:
        happened += await check(zygotes[0], home, script, what, await _origin(home, deed))
    assert 0 < happened < len(homes)


async def _origin(home: Path, deed: str) -> Found:
    """Return what the origin held before: the story is the same in every home."""
    found = await Found(home).read()
    if deed == "rewind":
        ended = [ev.seq for ev in found.events["s"] if isinstance(ev.payload, e.TurnEnded)]
        found.records["s"] = found.records["s"][: ended[0]]
    return found


@pytest.mark.parametrize("deed", ["fork", "rewind"])
async def test_killed_at_every_commit(zygotes: list[Zygote], tmp_path: Path, deed: str) -> None:
    await every_commit(zygotes, tmp_path, PLAIN, deed)


@pytest.mark.sandbox
@pytest.mark.parametrize("deed", ["fork", "rewind"])
async def test_killed_at_every_commit_with_files(
    zygotes: list[Zygote], tmp_path: Path, deed: str
) -> None:
    await every_commit(zygotes, tmp_path, SANDBOXED, deed)


@pytest.mark.sandbox
@pytest.mark.parametrize("deed", ["fork", "rewind"])
async def test_killed_at_random_with_files(
    zygotes: list[Zygote], tmp_path: Path, deed: str
) -> None:
    dice = random.Random(41)
    kills = 0
    for number in range(16):
        home = tmp_path / f"{deed}-{number}"
        lived(zygotes[0], home, SANDBOXED)
        before = await Found(home).read()
        what = f"{deed}:{before.moment()}"
        kills += kill(zygotes[0], home, SANDBOXED, what, ms=dice.uniform(3, 60))
        await check(zygotes[0], home, SANDBOXED, what, before)
    assert kills >= 8
