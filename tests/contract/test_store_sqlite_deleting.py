"""What lies in the file after sessions were deleted, and by which index parts of it are listed."""

from pathlib import Path

import apsw
import pytest

from perdure.stores.sqlite import SqliteStore, statements
from perdure.testing.store_harness import Pen, begin

TABLES = ("sessions", "events", "inbox", "states", "errors")


def rows(path: Path) -> dict[str, int]:
    """How many rows each table has."""
    connection = apsw.Connection(str(path))
    found = {name: connection.execute(f"SELECT count(*) FROM {name}").get for name in TABLES}
    connection.close()
    return found


async def test_only_what_a_fork_reads_stays_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    store = await SqliteStore.open(path)
    pen = await begin(store, events=9)
    await store.save_state("ses_1", 8, b"eight")
    await store.post("ses_1", "k", b"")
    await store.append(pen.batch(b"10"))
    for at, name in ((4, "ses_2"), (6, "ses_3")):
        await store.fork("ses_1", at, name)
        await store.append(Pen(await store.claim(name)).batch(b"own"))
    left = []
    for name in ("ses_1", "ses_3", "ses_2"):
        await store.delete_session(name)
        left.append(rows(path))
        assert await store.check() == []
    await store.close()
    nothing = dict.fromkeys(TABLES, 0)
    assert left == [
        nothing | {"sessions": 3, "events": 6 + 2},
        nothing | {"sessions": 2, "events": 4 + 1},
        nothing,
    ]


@pytest.mark.parametrize(
    ("statement", "values", "index"),
    [
        ("read_sessions", ("a", "b"), "name>? AND name<?"),
        ("read_errors", ("a", "b"), "name>? AND name<?"),
        ("read_mailboxes", ("a", "b"), "inbox_waiting"),
        ("read_due", (5, 10, "a", "b"), "sessions_due"),
        ("forks_of", (1,), "sessions_forks"),
    ],
)
async def test_a_part_is_found_by_an_index(
    tmp_path: Path, statement: str, values: tuple[object, ...], index: str
) -> None:
    path = tmp_path / "perdure.db"
    await (await SqliteStore.open(path)).close()
    connection = apsw.Connection(str(path))
    query = f"EXPLAIN QUERY PLAN {getattr(statements.load(), statement)}"
    plan = [row[3] for row in connection.execute(query, values)]
    connection.close()
    assert any(index in step for step in plan), plan
    assert not any(step.startswith("SCAN sessions") and "sessions_due" not in step for step in plan)
