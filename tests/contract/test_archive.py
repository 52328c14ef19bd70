"""A backup is one file that restores to what there was, and that says when it would not."""

from pathlib import Path
from random import Random

import msgspec
import pytest
import zstandard

from perdure.core.errors import Conflict, CorruptJournal, InvalidRequest, NotFound, PerdureError
from perdure.stores.carrying.archive import Archive, ArchiveWriter, Header
from perdure.stores.carrying.checking import check_archive
from perdure.stores.carrying.entries import Begins, Entry, Events, Summary
from perdure.stores.carrying.moving import restore
from perdure.stores.carrying.reading import Reading
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing.store_harness import refused
from tests.contract.furnished import NAMES, content, furnish
from tests.contract.journals import diary

HEADER = Header(1, "bak_1", 1, "0", "memory:")


async def written(path: Path, store: MemoryStore) -> Summary:
    reading = Reading(store)
    with ArchiveWriter(path, HEADER) as archive:
        async for entry in reading.entries():
            archive.add(entry)
        archive.finish(reading.summary)
    return reading.summary


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    store = MemoryStore(MemoryDisk())
    await furnish(store)
    await written(tmp_path / "full.perdure", store)
    return tmp_path / "full.perdure"


async def test_what_is_restored_is_what_there_was(tmp_path: Path) -> None:
    source = MemoryStore(MemoryDisk())
    await furnish(source)
    summary = await written(tmp_path / "b", source)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert check_archive(Archive(tmp_path / "b")) == summary
    assert summary.sessions == len(NAMES)
    target = await SqliteStore.open(tmp_path / "target.db")
    outcome = await restore(Archive(tmp_path / "b").entries(), target, "bak_1")
    assert outcome.summary == summary
    assert await content(target) == await content(source)
    error = await refused(Conflict, restore(Archive(tmp_path / "b").entries(), target, "bak_1"))
    assert error.code == "E-MOVE-DONE"
    await target.close()


async def test_a_file_that_is_there_is_not_replaced(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(Conflict, match="E-BACKUP-EXISTS"):
        ArchiveWriter(path, HEADER)
    with ArchiveWriter(path, HEADER, replace=True):
        pass  # given up before its end
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_a_backup_that_is_cut_off_says_so(path: Path) -> None:
    whole = path.read_bytes()
    # The last four bytes are one more check of zstd's: without them nothing is missing.
    cuts = {0, 5, 15, 16, 40, len(whole) - 5, *range(20, len(whole), len(whole) // 40)}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises((CorruptJournal, InvalidRequest), match=r"E-BACKUP-(CORRUPT|FOREIGN)"):
            check_archive(Archive(path))


async def test_a_byte_that_was_changed_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    chance = Random(5)
    for place in [*range(16), *(chance.randrange(len(whole)) for _ in range(150))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(PerdureError, match=r"E-(BACKUP|BLOB|JOURNAL)-"):
            check_archive(Archive(path))


async def test_what_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="E-BACKUP-NONE"):
        Archive(tmp_path / "none")
    (tmp_path / "other").write_text("SQLite format 3")
    with pytest.raises(InvalidRequest, match="E-BACKUP-FOREIGN"):
        Archive(tmp_path / "other")
    with ArchiveWriter(tmp_path / "newer", msgspec.structs.replace(HEADER, format=2)) as made:
        made.finish(Summary())
    with pytest.raises(InvalidRequest, match="E-BACKUP-NEWER"):
        Archive(tmp_path / "newer")


async def test_what_somebody_put_together_anew_is_checked_all_the_same(tmp_path: Path) -> None:
    """Whole as a file, but with another history in it: the chains do not fit."""
    source = MemoryStore(MemoryDisk())
    await furnish(source)
    entries = [entry async for entry in Reading(source).entries()]

    def changed(entry: Entry) -> Entry:
        match entry:
            case Events(records=(first, *rest)) if first.seq == 1 and len(rest) > 100:
                return Events((first, rest[0]._replace(data=b"{}"), *rest[1:]))
            case _:
                return entry

    def cut(entry: Entry) -> Entry:
        if isinstance(entry, Begins) and entry.of:
            return msgspec.structs.replace(entry, base=bytes(32))
        return entry

    for number, change in enumerate((changed, cut)):
        path = tmp_path / f"b{number}"
        summary = Summary()
        with ArchiveWriter(path, HEADER) as archive:
            for entry in map(change, entries):
                summary.count(entry)
                archive.add(entry)
            archive.finish(summary)
        with pytest.raises(CorruptJournal):
            check_archive(Archive(path))
        with pytest.raises((CorruptJournal, Conflict)):
            await restore(Archive(path).entries(), MemoryStore(MemoryDisk()), "bak_1")


async def test_the_format_is_as_documented(tmp_path: Path) -> None:
    """Read with nothing of ours, as docs/operations.md says."""
    store = MemoryStore(MemoryDisk())
    claim = await diary(store, "ses_1", "one")
    await written(tmp_path / "b", store)
    data = (tmp_path / "b").read_bytes()
    line, _, rest = data.partition(b"\n")
    assert line == b"perdure backup"
    plain = zstandard.ZstdDecompressor().stream_reader(rest).read()
    parts = []
    while plain:
        size = int.from_bytes(plain[:4], "big")
        parts.append(msgspec.msgpack.decode(plain[4 : 4 + size]))
        plain = plain[4 + size :]
    assert [part["type"] for part in parts] == ["header", "session", "events", "end", "manifest"]
    assert parts[0]["format"] == 1
    assert (parts[1]["session"], parts[1]["seq"], parts[1]["hash"]) == ("ses_1", 2, claim.hash)
    assert [record[:2] for record in parts[2]["records"]] == [
        [1, "session.created"], [2, "note.recorded"],
    ]  # fmt: skip
    assert parts[4]["summary"]["events"] == 2
