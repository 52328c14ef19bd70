"""Verification of sessions whose past lies elsewhere, or was taken back."""

from pathlib import Path

import apsw

from perdure.core.events import Event, NoteRecorded, SessionForked, SessionRewound
from perdure.core.journal import write
from perdure.ports.store import Batch
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.stores.verify import verify
from tests.contract.journals import diary, record


async def test_forks_and_rewinds_are_walked() -> None:
    store = MemoryStore(MemoryDisk())
    claim = await diary(store, "ses_1", "two", "three", "four")
    await store.fork("ses_1", 3, "ses_2")
    await record(
        store,
        await store.claim("ses_2"),
        SessionForked("ses_2", "ses_1", 3),
        NoteRecorded("five"),
        SessionRewound(2),
        NoteRecorded("seven"),
        SessionRewound(6),
    )
    await record(store, claim, SessionRewound(1))
    assert await verify(store) == []


async def test_a_fork_that_does_not_follow_is_named() -> None:
    store = MemoryStore(MemoryDisk())
    await diary(store, "ses_1", "two", "three")
    await store.fork("ses_1", 3, "ses_2")
    claim = await store.claim("ses_2")
    event = Event(4, f"{4:026d}", 4, 0, NoteRecorded("chained to nothing"))
    await store.append(Batch("ses_2", claim.epoch, 3, [write(event, bytes(32)).record]))
    assert [(f.session, f.seq, f.code) for f in await verify(store)] == [
        ("ses_2", 4, "E-JOURNAL-HASH")
    ]


async def test_a_lost_origin_is_noticed_in_the_fork(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    store = await SqliteStore.open(path)
    await diary(store, "ses_1", "two", "three", "four")
    await store.fork("ses_1", 3, "ses_2")
    await record(store, await store.claim("ses_2"), SessionForked("ses_2", "ses_1", 3))
    assert await verify(store) == []
    other = apsw.Connection(str(path))
    other.execute("DELETE FROM events WHERE session = 1 AND seq = 2")
    other.close()
    found = {(f.session, f.seq, f.code) for f in await verify(store)}
    assert found == {("ses_1", 3, "E-JOURNAL-GAP"), ("ses_2", 3, "E-JOURNAL-GAP")}
    await store.close()
