"""What the SQLite store does when the disk, the file or the library is not as it should be."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import cast

import apsw
import pytest

from perdure.core.codec import encode
from perdure.core.errors import CorruptJournal, InvalidRequest, StoreFull, Unavailable
from perdure.core.events import NoteRecorded
from perdure.core.journal import GENESIS, Record
from perdure.ports.store import Batch
from perdure.stores.offload import Inline
from perdure.stores.sqlite import SqliteStore, connect, failures
from perdure.stores.verify import verify
from perdure.testing.store_harness import Pen, begin, payloads, refused
from tests.contract.journals import diary
from tests.contract.stores import Script


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "perdure.db"


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let the system refuse to write beyond that size, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def fill(store: SqliteStore, pen: Pen, size: int = 20_000) -> int:
    """Append until there is no room; return how many batches were acknowledged."""
    for done in range(10_000):
        seq, end = pen.seq, pen.hash
        try:
            await store.append(pen.batch(b"%d " % done + b"x" * size))
        except StoreFull:
            pen.seq, pen.hash = seq, end
            return done
    raise AssertionError("the disk never was full")


async def test_32_a_full_database_refuses_and_heals(path: Path) -> None:
    store = await SqliteStore.open(path, offload=Inline())
    writer = store._writer._tables.connection
    pen = await begin(store)
    room = writer.pragma("page_count") + 40
    assert writer.pragma("max_page_count", room) == room
    done = await fill(store, pen)
    assert done > 0
    with pytest.raises(StoreFull) as caught:
        await store.post("ses_1", "k", b"x" * 20_000)
    assert caught.value.code == "E-STORE-FULL"
    assert caught.value.retryable
    assert len(await store.read("ses_1")) == 1 + done
    writer.pragma("max_page_count", room * 10)
    await store.append(pen.batch(b"room again"))
    assert (await payloads(store))[-1] == b"room again"
    await store.close()
    assert await quick_check(path) == []


async def test_32_a_full_disk_refuses_the_whole_group_and_heals(path: Path) -> None:
    store = await SqliteStore.open(path)
    pens = [Pen(await store.claim(f"ses_{n}")) for n in range(5)]
    await asyncio.gather(*(store.append(pen.batch(b"first")) for pen in pens))
    with files_no_larger_than(256 * 1024):
        done = await fill(store, pens[0])
        assert 0 < done < 20
        rest = [store.append(pen.batch(b"x" * 100_000)) for pen in pens[1:]]
        ends = await asyncio.gather(*rest, return_exceptions=True)
        assert all(isinstance(end, StoreFull) for end in ends)
        await refused(StoreFull, store.blobs.put(Random(1).randbytes(1_000_000)))
        assert len(await store.read("ses_0")) == 1 + done, "reading goes on"
    for pen in pens[1:]:
        assert await payloads(store, pen.session) == [b"first"]
    await store.append(pens[0].batch(b"room again"))
    await store.blobs.put(b"room again" * 10_000)
    store.kill()
    again = await SqliteStore.open(path)
    assert len(await again.read("ses_0")) == 2 + done
    await again.close()
    assert await quick_check(path) == []


async def test_33_a_commit_that_failed_but_landed_is_acknowledged(path: Path) -> None:
    faults = Script(3, after=True, error=apsw.IOError("the answer was lost"))
    store = await SqliteStore.open(path, faults=faults)
    pen = await begin(store)
    await store.append(pen.batch(b"2"))
    assert len(await store.read("ses_1")) == 2
    await store.close()


async def test_33_a_commit_that_failed_is_in_doubt(path: Path) -> None:
    store = await SqliteStore.open(path, offload=Inline())
    pen = await begin(store)
    writer = store._writer._tables.connection
    writer.set_commit_hook(lambda: True)
    batch = pen.batch(b"2")
    error = await refused(Unavailable, store.append(batch))
    assert error.code == "E-STORE-DOUBT"
    writer.set_commit_hook(None)
    assert len(await store.read("ses_1")) == 1
    await store.append(batch)
    assert len(await store.read("ses_1")) == 2
    await store.close()


@pytest.mark.parametrize(("after", "left"), [(False, 1), (True, 2)])
async def test_a_process_can_die_on_either_side_of_a_commit(
    path: Path, after: bool, left: int
) -> None:
    faults = Script(3, after=after)
    store = faults.store = await SqliteStore.open(path, offload=Inline(), faults=faults)
    pen = await begin(store)
    answer = store.append(pen.batch(b"2"))
    await asyncio.wait([answer], timeout=0.01)
    assert not answer.done(), "the dead do not answer"
    survivor = await SqliteStore.open(path)
    claim = await survivor.claim("ses_1")
    assert (claim.seq, claim.clean) == (left, False)
    await survivor.close()


async def test_35_commits_wait_for_the_disk(path: Path) -> None:
    store = await SqliteStore.open(path, offload=Inline())
    writer = store._writer._tables.connection
    assert writer.pragma("synchronous") == 2
    assert writer.pragma("journal_mode") == "wal"
    assert writer.pragma("fullfsync") == 1
    await store.close()


async def test_35_it_looks_whether_the_setting_took(path: Path) -> None:
    connection = apsw.Connection(str(path))
    for setting in ("OFF", "NORMAL"):
        connection.pragma("synchronous", setting)
        with pytest.raises(Unavailable, match="E-STORE-UNSAFE"):
            connect.check_synchronous(connection, path, 2)
    connection.pragma("synchronous", "FULL")
    connect.check_synchronous(connection, path, 2)
    connection.close()


async def test_35_less_only_on_request(path: Path) -> None:
    store = await SqliteStore.open(path, offload=Inline(), fsync=False)
    assert store._writer._tables.connection.pragma("synchronous") == 1
    await store.close()


async def test_36_a_flipped_bit_is_found_and_named(path: Path) -> None:
    store = await SqliteStore.open(path)
    await diary(store, "ses_good", "all", "is", "well")
    await diary(store, "ses_bad", "one", "needle in the hay", "three")
    assert await verify(store) == []
    await store.close()
    flip(path, b"needle")
    store = await SqliteStore.open(path)
    found = await verify(store)
    assert [(each.session, each.seq, each.code) for each in found] == [
        ("ses_bad", 3, "E-JOURNAL-HASH")
    ]
    await store.close()


async def test_36_a_damaged_payload_is_found_and_named(path: Path) -> None:
    store = await SqliteStore.open(path)
    await diary(store, "ses_1", "small", "large " * 20_000)
    assert await verify(store) == []
    blob = next(file for file in (path.parent / "perdure.db.blobs").rglob("??/*"))
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert [(each.seq, each.code) for each in await verify(store)] == [(3, "E-BLOB-CORRUPT")]
    blob.unlink()
    assert [(each.seq, each.code) for each in await verify(store)] == [(3, "E-BLOB-MISSING")]
    await store.close()


async def test_36_a_lost_event_and_a_wrong_end_are_found(path: Path) -> None:
    store = await SqliteStore.open(path)
    await diary(store, "ses_gap", "two", "three", "four")
    await diary(store, "ses_short", "two", "three")
    await store.close()
    other = apsw.Connection(str(path))
    other.execute("DELETE FROM events WHERE session = 1 AND seq = 3")
    other.execute("DELETE FROM events WHERE session = 2 AND seq = 3")
    other.close()
    store = await SqliteStore.open(path)
    found = {(each.session, each.seq, each.code) for each in await verify(store)}
    assert found == {
        ("ses_gap", 4, "E-JOURNAL-GAP"),
        ("ses_short", 0, "E-DB-CORRUPT"),
        ("ses_short", 3, "E-JOURNAL-HEAD"),
    }
    await store.close()


async def test_36_a_torn_file_is_refused_not_guessed_at(path: Path) -> None:
    store = await SqliteStore.open(path)
    await diary(store, "ses_1", *["note " * 100] * 200)
    await store.close()
    raw = bytearray(path.read_bytes())
    raw[8192 : len(raw) - 4096] = bytes(len(raw) - 12288)
    path.write_bytes(raw)
    store = await SqliteStore.open(path)
    assert await verify(store)
    await refused(CorruptJournal, store.read("ses_1"))
    await store.close()


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.51.2"])
async def test_37_a_library_that_loses_commits_is_refused(path: Path, version: str) -> None:
    error = await refused(Unavailable, SqliteStore.open(path, sqlite_version=version))
    assert error.code == "E-STORE-SQLITE-OLD"
    assert not path.exists()


@pytest.mark.parametrize("version", ["", "3.51.3", "3.54.1", "4.0.0"])
async def test_37_a_good_library_is_taken(path: Path, version: str) -> None:
    await (await SqliteStore.open(path, sqlite_version=version)).close()


async def test_38_a_giant_journal_is_read_in_pages(path: Path) -> None:
    store = await SqliteStore.open(path)
    await diary(store, "ses_1", "x" * 10_000_000, *["note"] * 500)
    pages = [await store.read("ses_1", after, 200) for after in (0, 200, 400)]
    assert [len(page) for page in pages] == [200, 200, 102]
    assert await verify(store) == []
    await store.close()
    assert path.stat().st_size < 1_000_000, "the payload does not lie aside"


async def test_39_text_that_is_no_text_survives(path: Path) -> None:
    store = await SqliteStore.open(path)
    pen = Pen(await store.claim("ses_1"))
    data = encode(NoteRecorded("\0 \ud800 \udfff \U0010ffff"))
    await store.append(pen.batch(data))
    assert await payloads(store) == [data]
    await store.close()


async def test_44_a_copy_is_not_alive(path: Path, tmp_path: Path) -> None:
    store = await SqliteStore.open(path)
    claim = await diary(store, "ses_1", "before")
    source = apsw.Connection(str(path))
    copy = tmp_path / "copy.db"
    source.execute("VACUUM INTO ?", (str(copy),))
    source.close()
    restored = await SqliteStore.open(copy)
    again = await restored.claim("ses_1")
    assert again.epoch > claim.epoch
    assert (again.seq, again.clean) == (claim.seq, False)
    await restored.append(Batch("ses_1", again.epoch, 2, Pen(again).records(b"only here")))
    assert len(await store.read("ses_1")) == 2
    await restored.close()
    await store.close()


async def test_a_statement_that_fails_takes_only_its_own_batch(path: Path) -> None:
    store = await SqliteStore.open(path)
    pens = [Pen(await store.claim(f"ses_{n}")) for n in range(3)]
    batches = [pen.batch(b"fine") for pen in pens]
    poison = Record(1, cast(str, None), b"", GENESIS)
    batches[1] = batches[1]._replace(records=(poison,))
    ends = await asyncio.gather(*map(store.append, batches), return_exceptions=True)
    assert [isinstance(end, Unavailable) for end in ends] == [False, True, False]
    assert [len(await store.read(pen.session)) for pen in pens] == [1, 0, 1]
    await store.close()


async def test_the_log_does_not_grow_without_an_end(path: Path) -> None:
    store = await SqliteStore.open(path, checkpoint_bytes=256 * 1024)
    pens = [Pen(await store.claim(f"ses_{n}")) for n in range(8)]

    async def write(pen: Pen) -> None:
        for _ in range(400):
            await store.append(pen.batch(b"x" * 2000))

    await asyncio.gather(*map(write, pens))
    assert path.stat().st_size > 3_000_000, "nothing was moved into the database"
    assert wal_size(path) < 13_000_000, "27 MB were written; the log never began anew"
    assert [len(await store.read(pen.session)) for pen in pens] == [400] * 8
    await store.close()
    assert await quick_check(path) == []


async def test_a_newer_schema_is_refused_and_not_touched(path: Path) -> None:
    store = await SqliteStore.open(path)
    await diary(store, "ses_1", "from the future")
    await store.close()
    other = apsw.Connection(str(path))
    other.pragma("user_version", connect.SCHEMA + 1)
    other.close()
    before = path.read_bytes()
    error = await refused(Unavailable, SqliteStore.open(path))
    assert error.code == "E-DB-NEWER"
    assert path.read_bytes() == before


async def test_what_is_not_ours_is_refused_and_not_touched(path: Path) -> None:
    path.write_bytes(b"Dear diary, this is no database at all. " * 100)
    before = path.read_bytes()
    assert (await refused(InvalidRequest, SqliteStore.open(path))).code == "E-DB-FOREIGN"
    assert path.read_bytes() == before
    path.unlink()
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE theirs (a)")
    other.close()
    before = path.read_bytes()
    assert (await refused(InvalidRequest, SqliteStore.open(path))).code == "E-DB-FOREIGN"
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", [":memory:", "", "file:x?mode=memory"])
async def test_what_is_no_file_is_refused(name: str) -> None:
    error = await refused(InvalidRequest, SqliteStore.open(name))
    assert error.code == "E-STORE-PATH"
    assert "memory:" in error.hint


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    error = await refused(Unavailable, SqliteStore.open(tmp_path / "file" / "perdure.db"))
    assert error.code == "E-STORE-READONLY"
    assert "write access" in error.hint


async def test_a_file_that_cannot_be_written_is_named(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    with pytest.raises(apsw.ReadOnlyError) as caught:
        connection.execute("DELETE FROM events")
    error = failures.translate(caught.value, 0, path)
    connection.close()
    assert isinstance(error, Unavailable)
    assert error.code == "E-STORE-READONLY"


async def test_only_the_owner_of_the_file_may_look(path: Path) -> None:
    store = await SqliteStore.open(path)
    await diary(store, "ses_1", "secret " * 20_000)
    for each in [path, *(path.parent / "perdure.db.blobs").rglob("??/*")]:
        assert each.stat().st_mode & 0o077 == 0
    await store.close()


async def quick_check(path: Path) -> list[tuple[str, str]]:
    store = await SqliteStore.open(path)
    found = await store.check()
    await store.close()
    return found


def wal_size(path: Path) -> int:
    wal = path.with_name(path.name + "-wal")
    return wal.stat().st_size if wal.exists() else 0


def flip(path: Path, where: bytes) -> None:
    """Flip one bit in the middle of those bytes, which must be in the file once."""
    raw = bytearray(path.read_bytes())
    assert raw.count(where) == 1
    raw[raw.index(where) + len(where) // 2] ^= 1
    path.write_bytes(raw)
