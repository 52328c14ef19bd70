"""A store's content goes into another store whole, or it is said what is wrong."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.core.errors import Conflict, CorruptJournal, Unavailable
from perdure.core.events import NoteRecorded
from perdure.stores.carrying.entries import Summary
from perdure.stores.carrying.moving import move
from perdure.stores.carrying.reading import CarriableStore, Reading
from perdure.stores.carrying.writing import Writing
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing.broken_carrying import ForgetsTakenKeys
from perdure.testing.store_harness import refused
from tests.contract.furnished import NAMES, SHOP, content, faults, furnish, stretches
from tests.contract.journals import diary, record
from tests.contract.stores import Script

KINDS = ("memory", "sqlite")


class Ground:
    """Opens stores, and closes them all in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disks: dict[str, MemoryDisk] = {}
        self._opened: list[CarriableStore] = []

    async def open(self, kind: str, name: str) -> CarriableStore:
        store: CarriableStore
        if kind == "memory":
            store = MemoryStore(self._disks.setdefault(name, MemoryDisk()))
        else:
            store = await SqliteStore.open(self._folder / f"{name}.db", fsync=False)
        self._opened.append(store)
        return store

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    ground = Ground(tmp_path)
    yield ground
    await ground.close()


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("from_", KINDS)
async def test_everything_moves(ground: Ground, from_: str, to: str) -> None:
    source, target = await ground.open(from_, "source"), await ground.open(to, "target")
    await furnish(source)
    before = await content(source)
    outcome = await move(source, target, "here")
    assert set(NAMES) <= set(before)
    assert await content(source) == before
    assert await content(target) == before
    assert outcome.summary.sessions == len(NAMES)
    assert outcome.verified == outcome.written == outcome.summary.events
    # Nothing that was shared is kept twice, but the part that only deleted sessions had.
    assert await stretches(target, "ses_deep") == [
        ("ses_long", 300), ("ses_fork", 302), ("ses_deep", 304),
    ]  # fmt: skip
    assert await stretches(target, "ses_fork") == await stretches(source, "ses_fork")
    shared = [await stretches(target, name) for name in ("ses_late", "ses_twin")]
    assert sorted(map(len, shared)) == [1, 2]
    assert outcome.summary.events < sum(len(kept[-1]) for kept in map(before.get, NAMES) if kept)


@pytest.mark.parametrize("to", KINDS)
async def test_keys_count_once_after_a_move(ground: Ground, to: str) -> None:
    source, target = await ground.open("memory", "source"), await ground.open(to, "target")
    await furnish(source)
    await move(source, target, "here")
    assert not await target.post("ses_1", "a", b"a"), "it was taken before the move"
    await refused(Conflict, target.post("ses_1", "a", b"other"))
    assert [letter.key for letter in await target.inbox("ses_1")] == ["b", "odd \ud800"]
    assert sorted(await target.mailboxes()) == ["ses_1", SHOP + "ses_1"]
    assert await target.put_doc("rule", "gone", b"again", expect=0) == 2
    assert await target.due(10) == ["ses_1"]


async def test_sessions_go_on_at_the_target(ground: Ground) -> None:
    source, target = await ground.open("memory", "source"), await ground.open("sqlite", "target")
    await furnish(source)
    await move(source, target, "here")
    for name in NAMES:
        claim = await target.claim(name)
        await record(target, claim, NoteRecorded("after the move"))
    assert await faults(target) == []
    await target.delete_session("ses_long")
    assert await faults(target) == []


class Cut(Exception):
    """Stands for a kill at that moment."""


class Kill(Script):
    """Kills a store at a commit, and says so."""

    def __init__(self, at: int, *, after: bool) -> None:
        super().__init__(at, after=after)
        self.struck = asyncio.Event()

    def _strike(self) -> None:
        super()._strike()
        if self.commits == self._at:
            self.struck.set()


@pytest.mark.parametrize("after", [False, True])
async def test_a_move_that_is_killed_anywhere_is_finished_by_the_next(
    ground: Ground, after: bool
) -> None:
    source = await ground.open("memory", "source")
    await furnish(source)
    before = await content(source)
    number, finished = 0, False
    while not finished:
        number += 1
        disk, kill = MemoryDisk(), Kill(number, after=after)
        kill.store = MemoryStore(disk, faults=kill)
        moving = asyncio.create_task(move(source, kill.store, "here"))
        dying = asyncio.create_task(kill.struck.wait())
        await asyncio.wait({moving, dying}, return_when=asyncio.FIRST_COMPLETED)
        finished = not kill.struck.is_set()
        dying.cancel()
        if finished:
            await moving
            continue
        moving.cancel()
        await asyncio.wait({moving})
        target = MemoryStore(disk)
        if after and (await finished_already(target)):
            continue
        outcome = await move(source, target, "here")
        assert outcome.written <= outcome.verified == outcome.summary.events
        assert await content(target) == before
        assert (await refused(Conflict, move(source, target, "here"))).code == "E-MOVE-DONE"
    assert number > 10


async def finished_already(target: MemoryStore) -> bool:
    """Whether the very last write was the one that was killed after it had landed."""
    doc = await target.doc("carried", "from")
    return doc is not None and b"true" in doc.data


async def test_what_changed_between_two_attempts_comes_too(ground: Ground) -> None:
    source, target = await ground.open("memory", "source"), await ground.open("sqlite", "target")
    await furnish(source)

    def strike(summary: Summary) -> None:
        if summary.sessions == len(NAMES):
            raise Cut

    with pytest.raises(Cut):
        await move(source, target, "here", strike)
    claim = await source.claim("ses_1")
    await record(source, claim, NoteRecorded("more"))
    await source.post("ses_1", "new", b"new")
    await source.delete_session("ses_fork")
    await source.delete_session("b")
    await diary(source, "b", "another one of that name")
    await source.put_doc("secret", "s", b"newer")
    await source.delete_doc("file", SHOP + "f")
    await move(source, target, "here")
    assert await content(target) == await content(source)
    assert await stretches(target, "ses_deep") == [("gone", 302), ("ses_deep", 304)] or (
        await target.read("ses_deep") == await source.read("ses_deep")
    )
    assert await faults(target) == []


async def test_a_target_that_holds_something_is_refused(ground: Ground) -> None:
    source = await ground.open("memory", "source")
    await furnish(source)
    for number, fill in enumerate(("session", "doc", "tombstone", "other")):
        target = await ground.open("memory", f"target {number}")
        if fill == "session":
            await diary(target, "ses_mine")
        elif fill == "other":
            await move(await ground.open("memory", "nothing"), target, "elsewhere")
        else:
            await target.put_doc("rule", "mine", b"1")
        if fill == "tombstone":
            await target.delete_doc("rule", "mine")
        error = await refused(Conflict, move(source, target, "here"))
        assert error.code == "E-TARGET-NOT-EMPTY"
        assert await target.session("ses_1") is None


async def test_a_source_that_others_have_open_is_refused(ground: Ground) -> None:
    source, target = await ground.open("sqlite", "source"), await ground.open("memory", "target")
    await diary(source, "ses_1")
    other = await ground.open("sqlite", "source")
    busy = await refused(Conflict, move(source, target, "here"))
    assert busy.code == "E-MOVE-IN-USE" and busy.message.startswith("1 other process has the ")
    assert await target.kept_docs() == []
    await other.close()
    assert (await move(source, target, "here")).summary.sessions == 1


async def test_a_source_that_changes_all_the_while_is_not_moved(ground: Ground) -> None:
    source, target = await ground.open("memory", "source"), await ground.open("memory", "target")
    await furnish(source)
    writer: list[CarriableStore] = []

    def write(_: Summary) -> None:
        if not writer:
            disk = source._disk  # type: ignore[attr-defined]
            writer.append(MemoryStore(disk))
        asyncio.ensure_future(writer[0].put_doc("rule", "r", b"again"))  # noqa: RUF006

    error = await refused(Unavailable, move(source, target, "here", write))
    assert error.code == "E-MOVE-CHANGING"
    await writer[0].close()
    await move(source, target, "here")
    assert await content(target) == await content(source)


async def test_a_damaged_session_is_named(ground: Ground) -> None:
    source, target = await ground.open("memory", "source"), await ground.open("memory", "target")
    await furnish(source)
    journal = source._disk.journals["ses_long"]  # type: ignore[attr-defined]
    journal.records[40] = journal.records[40]._replace(data=b"{}")
    error = await refused(CorruptJournal, move(source, target, "here"))
    assert error.code == "E-JOURNAL-HASH"
    assert "ses_long: Event 41" in error.message


class SwapsBytes(MemoryStore):
    """Reads another event than was written, in one place."""

    lies = False

    async def read(self, session: str, after: int = 0, limit: int = 1000):  # type: ignore[no-untyped-def]
        found = await super().read(session, after, limit)
        if self.lies and session == "ses_long" and after == 0 and limit > 1:
            found[7] = found[7]._replace(data=b"{}")
        return found


async def test_a_target_that_does_not_keep_what_it_was_given_is_noticed(ground: Ground) -> None:
    source = await ground.open("memory", "source")
    await furnish(source)
    forgets = ForgetsTakenKeys(MemoryDisk())
    assert (await refused(Conflict, move(source, forgets, "here"))).code == "E-MOVE-DIFFERS"
    swaps = SwapsBytes(MemoryDisk())
    swaps.lies = True
    assert (await refused(CorruptJournal, move(source, swaps, "here"))).code == "E-JOURNAL-HASH"


async def test_what_is_written_meanwhile_is_there_up_to_one_moment(ground: Ground) -> None:
    """A stream is read from a store that others write to: each session is one that there was."""
    source = await ground.open("sqlite", "source")
    busy = await ground.open("sqlite", "source")
    await furnish(source)
    ends: dict[tuple[int, bytes], int] = {}
    begun, done = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        claim = await diary(busy, "ses_busy")
        number = 0
        while not done.is_set():
            await busy.post("ses_busy", f"k{number}", b"")
            claim = await record(busy, claim, NoteRecorded("more"))
            ends[claim.seq, claim.hash] = number
            number += 1
            begun.set()
            if number % 7 == 0:
                await busy.delete_session("ses_again")
                await diary(busy, "ses_again", f"made anew {number}")

    writing = asyncio.create_task(write())
    await begun.wait()
    for _ in range(5):
        target = await ground.open("memory", f"target {len(ends)}")
        taking = Writing(target)
        async for entry in Reading(source).entries():
            await taking.take(entry)
        await taking.settle()
        await taking.verify()
        kept = await target.kept("ses_busy")
        assert kept is not None
        number = ends[kept.seq, kept.hash]
        # The letter is posted before the event of its number: at most one is ahead.
        assert len(kept.letters) in (number + 1, number + 2)
        assert await faults(target) == []
    done.set()
    await writing
