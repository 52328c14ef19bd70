"""What is PostgreSQL's own: leases that run out, a server that goes away, versions of tables."""

import asyncio
import contextlib
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from perdure.core.errors import InvalidRequest, LeaseLost, NotFound, SessionBusy, Unavailable
from perdure.ports.cluster import Cluster
from perdure.stores.postgres import migrations
from perdure.stores.postgres.address import parse
from perdure.stores.postgres.store import PostgresStore
from perdure.testing.postgres import PostgresServer, programs
from perdure.testing.store_harness import Pen, begin, payloads, refused
from tests.contract.postgres import database, expire, postgres

__all__ = ["database", "postgres"]  # fixtures

pytestmark = pytest.mark.postgres


def with_lease(url: str, seconds: float) -> str:
    return f"{url}&lease_s={seconds}"


async def until(store: PostgresStore, pen: Pen) -> None:
    """Wait until the store knows that the claim is lost."""
    claim = pen.claim
    async with asyncio.timeout(20):
        while store.holds(claim):
            await asyncio.wait([asyncio.ensure_future(store.changed(0.05))])


async def test_a_lease_that_ran_out_is_taken_over_and_its_owner_learns_it(database: str) -> None:
    first = await PostgresStore.open(with_lease(database, 0.6))
    second = await PostgresStore.open(database)
    pen = await begin(first)
    assert first.holds(pen.claim)
    claim = None
    while claim is None:  # its next word may come between the two
        expire(database, first.node)
        with contextlib.suppress(SessionBusy):
            claim = await second.claim("ses_1")
    assert (claim.epoch, claim.clean) == (pen.epoch + 1, False)
    await until(first, pen)  # by its next word, without writing anything
    await refused(LeaseLost, first.append(pen.batch(b"late")))
    await second.append(Pen(claim).batch(b"mine"))
    assert await payloads(second) == [b'{"n":1}', b"mine"]
    await first.close()
    await second.close()


async def test_a_lease_that_ran_out_with_nobody_there_is_simply_renewed(database: str) -> None:
    store = await PostgresStore.open(with_lease(database, 0.6))
    pen = await begin(store)
    expire(database, store.node)
    async with asyncio.timeout(20):
        while not (await store.nodes())[0].alive:
            await store.changed(0.05)
    await store.append(pen.batch(b"still mine"))
    assert store.holds(pen.claim)
    await store.close()


async def test_nodes_know_of_each_other(database: str) -> None:
    first, second = await PostgresStore.open(database), await PostgresStore.open(database)
    assert isinstance(first, Cluster)
    await begin(first)
    await second.announce("http://10.0.0.2:8700")
    async with asyncio.timeout(20):
        while not any(node.address for node in await first.nodes()):
            await first.changed(0.05)
    nodes = {node.name: node for node in await first.nodes()}
    assert nodes.keys() == {first.node, second.node}
    assert nodes[second.node].address == "http://10.0.0.2:8700"
    assert (nodes[first.node].sessions, nodes[first.node].alive) == (1, True)
    assert nodes[first.node].behind == 0
    for key in ("k1", "k2"):
        await second.post("ses_1", key, b"body")
    behind = {node.name: node.behind for node in await second.nodes()}
    assert behind == {first.node: 2, second.node: 0}
    owner = await second.owner("ses_1")
    assert owner is not None and owner.name == first.node
    assert await second.owned(first.node) == ["ses_1"]
    await refused(NotFound, first.drain_node("nobody"))
    await first.drain_node(second.node)
    async with asyncio.timeout(20):
        while not second.draining:
            await second.changed(0.05)
    assert not first.draining
    await second.close()
    assert [node.name for node in await first.nodes()] == [first.node]
    await first.close()


async def test_who_misses_every_notification_still_hears_of_a_change(database: str) -> None:
    first = await PostgresStore.open(database)
    deaf = await PostgresStore.open(database)
    pen = await begin(first)
    while await deaf.changed(0):
        pass
    deaf.poke = lambda: None  # type: ignore[method-assign]  # as if each NOTIFY were lost
    waiting = asyncio.ensure_future(deaf.changed(10))
    await asyncio.sleep(0)
    await first.append(pen.batch(b"2"))
    assert await waiting
    await first.close()
    await deaf.close()


async def test_two_that_make_the_tables_at_once_make_them_once(database: str) -> None:
    stores = await asyncio.gather(*(PostgresStore.open(database) for _ in range(6)))
    await begin(stores[0])
    assert [row.id for row in await stores[5].sessions()] == ["ses_1"]
    for store in stores:
        await store.close()


# -- a server that goes away


@pytest.mark.slow
async def test_a_server_that_goes_away_is_waited_for_and_nothing_is_done_twice(
    tmp_path: Path,
) -> None:
    if programs() is None:
        pytest.skip("no PostgreSQL for the tests")
    with PostgresServer() as server:
        store = await PostgresStore.open(server.url(lease_s="1"))
        pen = await begin(store)
        for number in range(4):
            loop = asyncio.get_running_loop()
            batches = [store.append(pen.batch(b"%d.%d" % (number, i))) for i in range(20)]
            if number % 2:
                await loop.run_in_executor(None, server.kill)
            else:
                await loop.run_in_executor(None, server.stop)
            await loop.run_in_executor(None, server.start)
            await asyncio.gather(*batches)
        found = await payloads(store)
        assert found == [b'{"n":1}'] + [b"%d.%d" % (n, i) for n in range(4) for i in range(20)]
        assert store.holds(pen.claim)
        await store.close()


async def test_a_server_that_stays_away_is_no_reason_to_wait_for_ever() -> None:
    if programs() is None:
        pytest.skip("no PostgreSQL for the tests")
    with PostgresServer() as server:
        store = await PostgresStore.open(server.url(outage_s="0.2"))
        pen = await begin(store)
        await asyncio.get_running_loop().run_in_executor(None, server.kill)
        error = await refused(Unavailable, store.append(pen.batch(b"2")))
        assert error.code == "E-STORE-AWAY"
        assert (await refused(Unavailable, store.sessions())).code == "E-STORE-AWAY"
        await store.close()


# -- what is refused


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "full_page_writes"])
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(setting: str) -> None:
    if programs() is None:
        pytest.skip("no PostgreSQL for the tests")
    with PostgresServer(settings={setting: "off"}) as server:
        error = await refused(Unavailable, PostgresStore.open(server.url()))
        assert error.code == "E-STORE-UNSAFE" and f"{setting} = off" in error.message
        store = await PostgresStore.open(server.url(unsafe="1"))
        assert "UNSAFE" in store.guarantee
        await store.close()


async def test_a_password_is_never_said(postgres: PostgresServer) -> None:
    url = "postgresql://somebody:verysecret@127.0.0.1:1/db?schema=x&password=othersecret"
    error = await refused(Unavailable, PostgresStore.open(url))
    said = f"{error} {error.message} {error.hint} {error.__cause__!r} {error.__context__!r}"
    assert "verysecret" not in said and "othersecret" not in said
    assert "somebody" in error.message


@pytest.mark.parametrize("query", ["schema=A b", "lease_s=soon", "lease_s=0", "schema=x;drop"])
def test_what_cannot_be_meant(query: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(f"postgresql://u:pw@h/d?{query}")
    assert raised.value.code == "E-STORE-URL" and "pw" not in str(raised.value)


# -- tables of two versions


def connected(url: str) -> psycopg.Connection[tuple[object, ...]]:
    address = parse(url)
    connection = psycopg.connect(address.libpq, autocommit=True)
    path = sql.SQL("SET search_path = {}").format(sql.Identifier(address.schema))
    connection.execute(path)
    return connection


def step(version: int, oldest: int, statement: str) -> migrations.Migration:
    return migrations.Migration(version, statement, f"sum of {statement}", oldest)


async def test_an_old_program_works_beside_a_new_one_while_it_may(database: str) -> None:
    old = await PostgresStore.open(database)
    pen = await begin(old)
    newer = [*migrations.steps(), step(2, 1, "ALTER TABLE sessions ADD COLUMN shade text")]
    with connected(database) as connection:
        assert migrations.migrate(connection, parse(database).schema, newer) == 1
        assert migrations.migrate(connection, parse(database).schema, newer) == 0
    await old.append(pen.batch(b"on new tables"))
    also_old = await PostgresStore.open(database)
    assert await payloads(also_old) == [b'{"n":1}', b"on new tables"]
    await old.close()
    await also_old.close()


async def test_tables_that_are_too_new_are_left_alone(database: str) -> None:
    await (await PostgresStore.open(database)).close()
    newer = [*migrations.steps(), step(2, 2, "ALTER TABLE sessions ADD COLUMN shade text NOT NULL")]
    with connected(database) as connection:
        migrations.migrate(connection, parse(database).schema, newer)
    error = await refused(Unavailable, PostgresStore.open(database))
    assert error.code == "E-DB-NEWER"


async def test_a_step_that_was_another_is_noticed(database: str) -> None:
    await (await PostgresStore.open(database)).close()
    with connected(database) as connection:
        connection.execute("UPDATE migrations SET checksum = 'other'")
    error = await refused(Unavailable, PostgresStore.open(database))
    assert error.code == "E-DB-MIGRATED"


async def test_a_step_that_fails_leaves_everything_as_it_was(database: str) -> None:
    await (await PostgresStore.open(database)).close()
    wrong = [
        *migrations.steps(),
        step(2, 1, "ALTER TABLE sessions ADD COLUMN shade text"),
        step(3, 1, "ALTER TABLE nothing ADD COLUMN shade text"),
    ]
    with connected(database) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        migrations.migrate(connection, parse(database).schema, wrong)
    with connected(database) as connection:
        assert [each.version for each in migrations.applied(connection)] == [1]
    await (await PostgresStore.open(database)).close()


async def test_a_database_that_cannot_keep_every_name_is_refused(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE narrow ENCODING 'LATIN1' TEMPLATE template0")
    error = await refused(Unavailable, PostgresStore.open(postgres.url("narrow")))
    assert error.code == "E-STORE-ENCODING"
