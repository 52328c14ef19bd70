"""A backup is put in the place of a database that a process still has open: scenario 44.

The process holds a file that has no name any more. What it wrote there would be acknowledged and
lost, and it would go on with a session that the next owner goes on with too.
"""

from pathlib import Path

import apsw
import pytest

from perdure.core.errors import LeaseLost, SessionBusy, Unavailable
from perdure.stores.sqlite import SqliteStore
from perdure.stores.verify import verify
from perdure.testing.store_harness import Pen, begin, payloads, refused
from tests.contract.journals import diary


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "perdure.db"


def back_up(path: Path) -> Path:
    """Make a backup as the documentation says."""
    backup = path.with_name("backup.db")
    source = apsw.Connection(str(path))
    source.execute("VACUUM INTO ?", (str(backup),))
    source.close()
    return backup


def put_back(backup: Path, path: Path) -> None:
    """Restore it as the documentation says, but for ending all processes first."""
    for ending in ("", "-wal", "-shm"):
        Path(f"{path}{ending}").unlink(missing_ok=True)
    backup.rename(path)


async def test_failure_44_a_process_with_the_old_file_writes_nothing_more(path: Path) -> None:
    stale = await SqliteStore.open(path)
    pen = await begin(stale)
    backup = back_up(path)
    await stale.append(pen.batch(b"not in the backup"))
    put_back(backup, path)
    await _refused(stale.append(pen.batch(b"late")))
    await _refused(stale.claim("ses_1"))
    await _refused(stale.post("ses_1", "k", b"letter"))
    await _refused(stale.fork("ses_1", 1, "ses_2"))
    await stale.close()
    restored = await SqliteStore.open(path)
    assert len(await payloads(restored)) == 1
    assert await restored.inbox("ses_1") == []
    await restored.close()


async def _refused(doing: object) -> None:
    with pytest.raises(Unavailable) as caught:
        await doing  # type: ignore[misc]  # a future or a coroutine
    assert caught.value.code == "E-STORE-REPLACED"


async def test_failure_44_the_restored_sessions_are_nobodys_until_the_old_process_ends(
    path: Path,
) -> None:
    stale = await SqliteStore.open(path)
    pen = await begin(stale)
    put_back(back_up(path), path)
    restored = await SqliteStore.open(path)
    # It may still be in the middle of something outside, which nobody is to do beside it.
    await refused(SessionBusy, restored.claim("ses_1"))
    await stale.close()
    claim = await restored.claim("ses_1")
    assert claim.epoch > pen.epoch
    assert (claim.seq, claim.clean) == (1, False)
    await restored.append(Pen(claim).batch(b"anew"))
    await restored.close()


async def test_failure_44_the_end_of_the_old_process_takes_nothing_with_it(path: Path) -> None:
    """SQLite removes a log by its name when the last connection ends: here it is another's."""
    stale = await SqliteStore.open(path)
    await diary(stale, "ses_1", "before")
    put_back(back_up(path), path)
    restored = await SqliteStore.open(path)
    await diary(restored, "ses_2", "acknowledged")
    known = await payloads(restored, "ses_2")
    await stale.close()
    restored.kill()
    after = await SqliteStore.open(path)
    assert await payloads(after, "ses_2") == known
    assert await verify(after) == []
    await after.close()


async def test_failure_44_an_epoch_of_before_is_not_one_of_afterwards(path: Path) -> None:
    store = await SqliteStore.open(path)
    await diary(store, "ses_1", "before")
    backup = back_up(path)
    later = await store.claim("ses_1")  # an epoch that the backup does not know
    await store.close()
    put_back(backup, path)
    restored = await SqliteStore.open(path)
    claim = await restored.claim("ses_1")
    while claim.epoch < later.epoch:
        claim = await restored.claim("ses_1")
    another = await SqliteStore.open(path)
    await refused(LeaseLost, another.append(Pen(later).batch(b"from another life")))
    await another.close()
    await restored.append(Pen(claim).batch(b"of this one"))
    assert (await payloads(restored))[-1] == b"of this one"
    await restored.close()
