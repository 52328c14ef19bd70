"""Several real processes on one database: who owns what, and what is left when one dies."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from perdure.core.errors import SessionBusy
from perdure.core.journal import GENESIS, check
from perdure.stores.sqlite import SqliteStore
from perdure.testing.store_harness import Pen, begin, payloads, refused

ROOT = Path(__file__).resolve().parents[2]
SOON_S = 20.0

Start = Callable[..., Awaitable["Other"]]


class Other:
    """A process of store_process.py."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def hears(self, word: str) -> int:
        """Wait until it says that word; return the number after it. 0: it ended instead."""
        assert self._process.stdout is not None
        while line := await asyncio.wait_for(self._process.stdout.readline(), SOON_S):
            said, *numbers = line.decode().split()
            if said == word:
                return int(numbers[0]) if numbers else 0
        raise AssertionError(f"it ended without saying {word}")

    async def acknowledged(self, least: int) -> int:
        """Listen to acknowledgements until `least` were heard; return the highest."""
        return max([await self.hears("ack") for _ in range(least)])

    async def rest(self) -> list[int]:
        """What it acknowledged before it ended, and nobody had listened to."""
        assert self._process.stdout is not None
        text = await asyncio.wait_for(self._process.stdout.read(), SOON_S)
        return [int(line.split()[1]) for line in text.decode().splitlines() if line[:3] == "ack"]

    async def say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()

    def send(self, sign: signal.Signals) -> None:
        self._process.send_signal(sign)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await asyncio.wait_for(self._process.wait(), SOON_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "perdure.db"


@pytest.fixture
async def start(path: Path) -> AsyncIterator[Start]:
    started: list[Other] = []

    async def starts(verb: str, session: str, *rest: str) -> Other:
        command = [sys.executable, "-m", "tests.contract.store_process", verb, str(path)]
        process = await asyncio.create_subprocess_exec(
            *command, session, *rest, cwd=ROOT, stdin=PIPE, stdout=PIPE
        )
        started.append(Other(process))
        return started[-1]

    yield starts
    for each in started:
        await each.kill()


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, poll_s=0.005)
    yield store
    await store.close()


async def test_a_killed_owner_frees_its_sessions_at_once(start: Start, store: SqliteStore) -> None:
    """Failure 16: that it lives is not a message that could fail to come."""
    other = await start("hold", "ses_1")
    epoch = await other.hears("ready")
    await refused(SessionBusy, store.claim("ses_1"))
    await other.kill()
    claim = await store.claim("ses_1")
    assert claim.epoch > epoch
    assert (claim.seq, claim.clean) == (1, False)
    await store.append(Pen(claim).batch(b"mine now"))


async def test_a_stopped_owner_keeps_its_sessions(start: Start, store: SqliteStore) -> None:
    """Failure 14: it wakes up, and what it was doing is still its own."""
    other = await start("hold", "ses_1")
    await other.hears("ready")
    other.send(signal.SIGSTOP)
    for _ in range(3):
        await refused(SessionBusy, store.claim("ses_1"))
    other.send(signal.SIGCONT)
    await other.say()
    await other.hears("done")
    claim = await store.claim("ses_1")
    assert (claim.seq, claim.clean) == (2, True)


async def test_a_child_left_behind_is_not_its_parent(start: Start, store: SqliteStore) -> None:
    other = await start("child", "ses_1")
    left = await other.hears("child")
    try:
        await other.hears("ready")
        await other.kill()
        os.kill(left, 0)
        assert not (await store.claim("ses_1")).clean
    finally:
        os.kill(left, signal.SIGKILL)


async def test_two_processes_write_at_the_same_time(start: Start, store: SqliteStore) -> None:
    others = [await start("append", f"ses_{n}", "400") for n in range(2)]
    pen = await begin(store, "ses_here")
    for _ in range(100):
        await store.append(pen.batch(b"here"))
    for each in others:
        await each.hears("done")
    for n in range(2):
        assert await intact(store, f"ses_{n}") == 800
    assert await intact(store, "ses_here") == 101


async def test_two_processes_see_each_others_letters(start: Start, store: SqliteStore) -> None:
    while await store.changed(0):
        pass
    other = await start("hold", "ses_1")
    assert await store.changed(SOON_S)
    await other.hears("ready")
    assert await payloads(store) == [b"held"]
    assert await store.post("ses_1", "k", b"from outside")
    await refused(SessionBusy, store.claim("ses_1"))


@pytest.mark.parametrize("seed", range(8))
async def test_what_was_acknowledged_survives_a_kill(
    start: Start, store: SqliteStore, seed: int
) -> None:
    chance = Random(seed)
    acknowledged, epoch = 0, 0
    for _ in range(3):
        other = await start("append", "ses_1", "100000")
        before, epoch = epoch, await other.hears("ready")
        assert epoch > before
        acknowledged = await other.acknowledged(chance.randint(1, 200))
        other.send(signal.SIGKILL)
        acknowledged = max([acknowledged, *await other.rest()])
        assert await intact(store, "ses_1") >= acknowledged
    claim = await store.claim("ses_1")
    assert not claim.clean
    assert claim.seq == await intact(store, "ses_1")
    assert await store.check() == []


async def test_the_dead_leave_no_files(start: Start, store: SqliteStore, path: Path) -> None:
    for n in range(3):
        other = await start("hold", f"ses_{n}")
        await other.hears("ready")
        await other.kill()
    again = await SqliteStore.open(path)
    locks = list((path.parent / "perdure.db.nodes").glob("*.lock"))
    assert len(locks) == 2
    await again.close()


async def intact(store: SqliteStore, session: str) -> int:
    """Check the whole chain of a session; return its length."""
    seq, end = 0, GENESIS
    while page := await store.read(session, seq):
        for record in page:
            check(record, end, seq + 1)
            seq, end = record.seq, record.hash
    return seq
