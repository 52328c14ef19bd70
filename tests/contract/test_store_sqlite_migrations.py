"""Files of older versions are brought to ours: whole, once, and with all that was in them."""

from pathlib import Path

import apsw
import pytest

from perdure.core.agent import AgentSpec
from perdure.core.codec import encode
from perdure.core.errors import Unavailable
from perdure.core.events import Event, NoteRecorded, Payload, SessionCreated
from perdure.core.journal import GENESIS, write
from perdure.ports.store import SessionRow
from perdure.stores.sqlite import SqliteStore, connect, statements
from perdure.stores.sqlite.nodes import Node
from perdure.stores.verify import verify
from perdure.testing.store_harness import refused
from tests.contract.journals import record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "perdure.db"


def make_version(number: int, path: Path) -> bytes:
    """Write a file as that version did, with one session of three events; return its end."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute((Path(__file__).parent / f"schema_{number}.sql").read_text("utf-8"))
    connection.pragma("application_id", connect.APPLICATION_ID)
    connection.pragma("user_version", number)
    end = GENESIS
    told: list[Payload] = [
        SessionCreated("ses_1", AgentSpec("helper", "scripted:x")),
        NoteRecorded("two"),
        NoteRecorded("three"),
    ]
    for seq, payload in enumerate(told, 1):
        made = write(Event(seq, f"{seq:026d}", seq, 0, payload), end).record
        values = (1, made.seq, made.type, made.data, made.hash)
        connection.execute(
            "INSERT INTO events (session, seq, type, data, hash) VALUES (?, ?, ?, ?, ?)", values
        )
        end = made.hash
    connection.execute(
        "INSERT INTO sessions (name, epoch, seq, hash) VALUES ('ses_1', 4, 3, ?)", (end,)
    )
    connection.execute("INSERT INTO states (session, seq, data) VALUES (1, 2, x'00')")
    connection.close()
    return end


OLDER = range(1, connect.SCHEMA)


@pytest.mark.parametrize("version", OLDER)
async def test_a_file_of_an_older_version_is_brought_to_ours(path: Path, version: int) -> None:
    end = make_version(version, path)
    for _ in range(2):
        store = await SqliteStore.open(path)
        assert (await store.read("ses_1"))[-1].hash == end
        assert await store.load_state("ses_1") == (2, b"\0")
        assert await verify(store) == []
        await store.close()
    store = await SqliteStore.open(path)
    claim = await store.claim("ses_1")
    assert (claim.epoch, claim.seq, claim.hash) == (5, 3, end)
    await record(store, claim, NoteRecorded("four"))
    await store.fork("ses_1", 3, "ses_2")
    assert len(await store.read("ses_2")) == 3
    await store.close()


@pytest.mark.parametrize("version", OLDER)
async def test_it_then_has_the_tables_of_a_new_file(
    path: Path, tmp_path: Path, version: int
) -> None:
    make_version(version, path)
    tables = []
    for each in (path, tmp_path / "new.db"):
        await (await SqliteStore.open(each)).close()
        connection = apsw.Connection(str(each))
        assert connection.pragma("user_version") == connect.SCHEMA
        rows = connection.execute(
            'SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.pk'
            " FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS c"
            " WHERE m.type = 'table' ORDER BY m.name, c.cid"
        )
        indexes = "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' ORDER BY name"
        tables.append([*rows, *connection.execute(indexes)])
        connection.close()
    assert tables[0] == tables[1]


async def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    make_version(1, path)
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE errors (in_the_way)")
    await refused(Unavailable, SqliteStore.open(path))
    assert other.pragma("user_version") == 1
    columns = other.execute("SELECT name FROM pragma_table_info('sessions')").fetchall()
    assert ("origin",) not in columns, "the first statement had gone through"
    other.execute("DROP TABLE errors")
    other.close()
    await (await SqliteStore.open(path)).close()


async def test_a_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    other = apsw.Connection(str(path))
    other.pragma("user_version", connect.SCHEMA + 1)
    error = await refused(Unavailable, SqliteStore.open(path))
    assert error.code == "E-DB-NEWER"
    assert other.pragma("user_version") == connect.SCHEMA + 1
    other.close()


async def test_what_is_due_is_found_without_looking_at_all_sessions(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    other = apsw.Connection(str(path))
    query = "EXPLAIN QUERY PLAN " + statements.load().read_due
    plan = [row[3] for row in other.execute(query, (5, 10, "p\x1f", "p "))]
    assert len(plan) == 1 and "sessions_due" in plan[0], plan
    other.close()


async def test_what_is_unfinished_is_found_without_looking_at_all_sessions(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    other = apsw.Connection(str(path))
    query = "EXPLAIN QUERY PLAN " + statements.load().read_unfinished
    plan = [row[3] for row in other.execute(query)]
    assert any("sessions_running" in step for step in plan), plan
    assert any("inbox_waiting" in step for step in plan), plan
    assert not [step for step in plan if step == "SCAN sessions"], plan
    other.close()


async def test_what_an_older_version_left_running_is_known_afterwards(path: Path) -> None:
    make_version(4, path)
    connection = apsw.Connection(str(path))
    rows = [
        SessionRow(id="ses_run", status="running", title='"parent":"no"'),
        SessionRow(id="ses_sub", status="running", parent="ses_run"),
        SessionRow(id="ses_said", status="idle", title='"status":"running"'),
    ]
    for row in rows:
        values = (row.id, GENESIS, encode(row))
        connection.execute("INSERT INTO sessions (name, hash, row) VALUES (?, ?, ?)", values)
    connection.close()
    store = await SqliteStore.open(path)
    assert await store.abandoned() == ["ses_run"]
    await store.close()


async def test_an_older_process_must_end_first(path: Path) -> None:
    make_version(1, path)
    folder = connect.nodes_folder(path)
    folder.mkdir()
    older = Node(folder, "older")
    error = await refused(Unavailable, SqliteStore.open(path))
    assert error.code == "E-DB-IN-USE"
    older.drop()
    await (await SqliteStore.open(path)).close()


async def test_a_fork_copies_nothing(path: Path) -> None:
    store = await SqliteStore.open(path)
    claim = await record(
        store,
        await store.claim("ses_1"),
        SessionCreated("ses_1", AgentSpec("helper", "scripted:x")),
        *(NoteRecorded(f"{n}") for n in range(500)),
    )
    await store.fork("ses_1", claim.seq, "ses_2")
    other = apsw.Connection(str(path))
    assert other.execute("SELECT count(*) FROM events").get == claim.seq
    sql = statements.load()
    for query, values in (
        (sql.find_event, ("ses_2", 9)),
        (sql.read_past, ("ses_2", 9)),
        (sql.read_state, ("ses_2",)),
    ):
        plan = [row[3] for row in other.execute("EXPLAIN QUERY PLAN " + query, values)]
        assert not [step for step in plan if step in ("SCAN e", "SCAN s", "SCAN sessions")], plan
    other.close()
    await store.close()
