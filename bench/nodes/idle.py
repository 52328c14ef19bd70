"""What claims and wake-ups cost when the database is full of sessions that do nothing."""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import psycopg

from bench.measure import Control, spread
from bench.nodes.figures import Call, Hints, Idle, Look
from bench.nodes.meter import cpu_seconds
from bench.workload import FakeModel, OneModel, Watch, agent_of, run_session
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.stores.postgres import statements
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.testing.postgres import PostgresServer

FEW: Final = 100
_WAVE: Final = 25
_NOW_US: Final = 2_000_000_000_000_000
# What a node does again and again, or when it wakes a session: none may read a table as a whole.
_STATEMENTS: Final = (
    "lock_session", "find_session", "claim", "release", "append", "abandoned", "owned", "owner",
    "read_due", "read_mailboxes", "read_inbox", "read_events", "read_state", "read_session",
    "save_state", "insert_letter", "find_letter",
)  # fmt: skip
_VALUE: Final = re.compile(r"%\((\w+)\)[bs]")
_NODES: Final = (2, 300)
_LOOKS: Final = 2000
_EARS: Final = 20
_LARGE: Final = ("sessions", "events", "letters", "states")

# Sessions as one turn leaves them: events, letters that were taken, a cached state; a tenth of them
# wait for a time that is far away.
_FILL: Final = (
    """INSERT INTO sessions (session, born, epoch, owner, seq, hash, busy, wake_us, updated_us,
        row_data)
    SELECT 'idle-' || n, 1, epoch, NULL, seq, hash, false,
        CASE WHEN n %% 10 = 0 THEN 4000000000000000 + n ELSE 0 END, updated_us + n, row_data
    FROM sessions, generate_series(1, %(count)s) AS n WHERE session = 'template'""",
    """INSERT INTO events (session, born, seq, type, data, hash)
    SELECT 'idle-' || n, 1, seq, type, data, hash
    FROM generate_series(1, %(count)s) AS n, events WHERE session = 'template'""",
    """INSERT INTO letters (session, key, digest, body)
    SELECT 'idle-' || n, key, digest, NULL
    FROM generate_series(1, %(count)s) AS n, letters WHERE session = 'template'""",
    """INSERT INTO states (session, born, seq, data)
    SELECT 'idle-' || n, 1, 6, decode(repeat('5a', 400), 'hex')
    FROM generate_series(1, %(count)s) AS n""",
)


class Place(NamedTuple):
    """A database with so many idle sessions; two stores, as two nodes have them."""

    conninfo: str
    size: int
    store: PostgresStore
    other: PostgresStore
    times: dict[str, list[float]]
    draw: random.Random


async def idle(server: PostgresServer, many: int, waves: int, control: Control) -> Idle:
    """Measure each call with few and with many, in turns."""
    places = [await _filled(server, count) for count in (FEW, many)]
    try:
        for wave in range(waves):
            control.burst(20)
            await _calls(places, wave)
        size, events = _sizes(places[-1])
        scans = _scans(places[-1])
        wal = await _touched(places[-1])
        looks = [await _look(server, places[-1], nodes) for nodes in _NODES]
        hints = await _hints(server, waves)
    finally:
        for place in places:
            await place.store.close()
            await place.other.close()
    few, most = (place.times for place in places)
    calls = [Call(what, spread(few[what]), spread(most[what])) for what in few]
    return Idle(FEW, many, calls, size, events, wal, looks, hints, scans)


async def _filled(server: PostgresServer, count: int) -> Place:
    name = f"idle{count}"
    url = server.make_database(name)
    await _template(url)
    with psycopg.connect(server.conninfo(name), autocommit=True) as connection:
        connection.execute("SET search_path = perdure")
        # One statement each, and none of it is what is measured.
        connection.execute("SET synchronous_commit = off")
        for statement in _FILL:
            connection.execute(statement.encode(), {"count": count})
        connection.execute("DELETE FROM sessions WHERE session = 'template'")
        connection.execute("DELETE FROM events WHERE session = 'template'")
        connection.execute("VACUUM ANALYZE")  # what autovacuum does within a minute
        connection.execute("CHECKPOINT")
    stores = [await PostgresStore.open(url) for _ in range(2)]
    return Place(server.conninfo(name), count, stores[0], stores[1], {}, random.Random(count))


async def _template(url: str) -> None:
    """Make one session of a single turn: the model answers, nothing is called."""
    watch, store = Watch(), await PostgresStore.open(url)
    kit = Kit(
        store, SystemClock(), RandomIds(), OneModel(FakeModel(watch, 0)), bounds=Bounds(idle_s=60.0)
    )
    async with Engine(kit) as engine:
        await run_session(await engine.session("template", agent_of(watch, "once")), watch)
    await store.close()


async def _calls(places: list[Place], wave: int) -> None:
    """Make each call here, then there: what else happens on the machine hits both alike."""
    for turn in range(_WAVE):
        for place in places if turn % 2 else places[::-1]:
            draw = place.draw
            name = f"idle-{draw.randint(1, FEW)}"
            await _claimed(place, "claim, of the same hundred", name)
            # Its page is read, and goes into the log as a whole: nobody has touched it for long.
            await _claimed(place, "claim, of any", f"idle-{draw.randint(1, place.size)}")
    for turn in range(_WAVE * 2):
        for place in places if turn % 2 else places[::-1]:
            await _looks(place)
    for number in range(10):
        for place in places if number % 2 else places[::-1]:
            name = f"idle-{place.draw.randint(1, FEW)}"
            await _woken(place, name, f"{wave}-{number}")


async def _looks(place: Place) -> None:
    store = place.store
    await _timed(place, "abandoned", lambda: store.abandoned(100))
    await _timed(place, "due", lambda: store.due(_NOW_US, 100))
    await _timed(place, "mailboxes", store.mailboxes)
    await _timed(place, "changed", lambda: store.changed(0.0))


async def _claimed(place: Place, what: str, name: str) -> None:
    begun = time.perf_counter()
    claim = await place.store.claim(name)
    place.times.setdefault(what, []).append(time.perf_counter() - begun)
    await place.store.release(claim)


async def _timed(place: Place, what: str, call: Callable[[], Awaitable[object]]) -> object:
    begun = time.perf_counter()
    answer = await call()
    place.times.setdefault(what, []).append(time.perf_counter() - begun)
    return answer


async def _woken(place: Place, name: str, key: str) -> None:
    """Post at one node; take the time until the other knows which session has mail."""
    while await place.other.changed(0.0):
        pass

    async def hear() -> None:
        while not (await place.other.changed(5.0) and name in await place.other.mailboxes()):
            pass

    waiting = asyncio.create_task(hear())
    await asyncio.sleep(0.05)

    async def wake() -> None:
        await place.store.post(name, key, b"{}")
        await waiting

    await _timed(place, "posted at one node, seen by another", wake)
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        connection.execute("UPDATE perdure.letters SET body = NULL WHERE session = %s", (name,))


def _sizes(place: Place) -> tuple[float, int]:
    """Return the bytes and the events of one idle session, its share of all indexes included."""
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        total = connection.execute(
            "SELECT sum(pg_total_relation_size('perdure.' || name))::bigint, "
            "(SELECT count(*) FROM perdure.events WHERE session = 'idle-1') "
            "FROM unnest(%s::text[]) AS name",
            (list(_LARGE),),
        ).fetchone()
    assert total is not None
    return total[0] / place.size, total[1]


def _scans(place: Place) -> list[str]:
    """Return each statement whose plan reads a whole table that grows with the sessions."""
    sql, found = statements.load(), []
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        connection.execute("SET search_path = perdure")
        for name in _STATEMENTS:
            numbers: dict[str, int] = {}
            plain = _VALUE.sub(
                lambda value: f"${numbers.setdefault(value[1], len(numbers) + 1)}",  # noqa: B023
                getattr(sql, name),
            )
            # The plan for any values: the one that a prepared statement comes to.
            explain = "EXPLAIN (GENERIC_PLAN, COSTS OFF) " + plain
            lines = [row[0] for row in connection.execute(explain.encode())]
            found += [
                f"{name}: {line.strip(' ->')}"
                for line in lines
                for table in _LARGE
                if f"Seq Scan on {table}" in line
            ]
    return found


async def _look(server: PostgresServer, place: Place, nodes: int) -> Look:
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO perdure.changes SELECT 'n' || n, n FROM generate_series(1, %s) AS n "
            "ON CONFLICT DO NOTHING",
            (nodes,),
        )
        connection.execute("ANALYZE perdure.changes")
    before = cpu_seconds(server.processes())
    for _ in range(_LOOKS):
        await place.store.changed(0.0)
        await place.store.mailboxes()
    return Look(nodes, (cpu_seconds(server.processes()) - before) * 1e6 / _LOOKS)


async def _touched(place: Place) -> float:
    """Return by how much the log grows for a claim of a session that nobody has touched since the
    last checkpoint: whole pages of its line and of indexes.
    """
    claims = [f"idle-{n}" for n in place.draw.sample(range(1, place.size + 1), _WAVE * 4)]
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        before = _logged(connection)
        for name in claims:
            await place.store.release(await place.store.claim(name))
        return (_logged(connection) - before) / len(claims)


async def _hints(server: PostgresServer, waves: int) -> Hints:
    alone = await _rung(server, waves, 0)
    return Hints(alone, max(0.0, await _rung(server, waves, _EARS) - alone) / _EARS)


async def _rung(server: PostgresServer, waves: int, ears: int) -> float:
    """Ring with so many connections that hear it; return microseconds of the server a time."""
    times = 200 * waves
    with contextlib.ExitStack() as stack:
        bell, *hearing = (
            stack.enter_context(psycopg.connect(server.conninfo(), autocommit=True))
            for _ in range(ears + 1)
        )
        for each in hearing:
            each.execute("LISTEN perdure_bench")
        before = cpu_seconds(server.processes())
        for _ in range(times):
            bell.execute("SELECT pg_notify('perdure_bench', '')")
            await asyncio.sleep(0.003)  # rung any faster, several are heard as one
        return (cpu_seconds(server.processes()) - before) * 1e6 / times


def _logged(connection: psycopg.Connection[tuple[int]]) -> int:
    statement = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]
