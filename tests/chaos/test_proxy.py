"""The fault proxy does to a real PostgreSQL and its client what it says that it does."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from perdure.testing.chaos.proxy import FaultProxy, Rule
from perdure.testing.postgres import USER, PostgresServer

pytestmark = pytest.mark.postgres

T = TypeVar("T")
Connection = psycopg.Connection[tuple[object, ...]]


class Way:
    """A database, and the two ways to it: around the proxy, and through it."""

    def __init__(self, server: PostgresServer, proxy: FaultProxy, database: str) -> None:
        self.proxy = proxy
        self._server = server
        self._database = database

    def straight(self) -> Connection:
        return psycopg.connect(self._server.conninfo(self._database), autocommit=True)

    def connect(self, name: str = "test", timeout_s: int = 5) -> Connection:
        host = Path(self.proxy.listen).parent
        words = f"host={host} user={USER} dbname={self._database} application_name={name}"
        return psycopg.connect(f"{words} connect_timeout={timeout_s}")

    async def open(self, name: str = "test") -> Connection:
        return await asyncio.to_thread(self.connect, name)

    def numbers(self) -> list[object]:
        with self.straight() as connection:
            return [row[0] for row in connection.execute("SELECT n FROM t ORDER BY n")]


@pytest.fixture
async def way(server: PostgresServer, tmp_path: Path) -> AsyncIterator[Way]:
    database = f"proxy_{abs(hash(tmp_path))}"
    await asyncio.to_thread(server.make_database, database)
    proxy = await FaultProxy(str(tmp_path / ".s.PGSQL.5432"), server.address).start()
    made = Way(server, proxy, database)
    with made.straight() as connection:
        connection.execute("CREATE TABLE t(n int PRIMARY KEY)")
    yield made
    await proxy.stop()


def insert(connection: Connection, number: int) -> None:
    connection.execute("INSERT INTO t VALUES (%s)", (number,))
    connection.commit()


async def lost(work: Callable[[], object]) -> None:
    with pytest.raises(psycopg.OperationalError):
        await asyncio.to_thread(work)


async def test_it_lets_through_what_it_is_given(way: Way) -> None:
    connection = await way.open()
    for number in range(20):  # from the sixth on the statement is a prepared one
        await asyncio.to_thread(insert, connection, number)
    assert way.numbers() == list(range(20))
    assert way.proxy.links[0].options["application_name"] == "test"
    connection.close()


async def test_33_a_commit_whose_answer_is_dropped_has_landed(way: Way) -> None:
    connection = await way.open()
    rule = way.proxy.rule(Rule("drop_answer", skip=1))
    await asyncio.to_thread(insert, connection, 1)
    await lost(lambda: insert(connection, 2))
    assert rule.struck == 1
    assert way.numbers() == [1, 2]


async def test_33_a_commit_that_is_dropped_has_not(way: Way) -> None:
    connection = await way.open()
    way.proxy.rule(Rule("drop_request"))
    await lost(lambda: insert(connection, 1))
    assert way.numbers() == []
    again = await way.open()
    await asyncio.to_thread(insert, again, 2)  # the rule struck once
    assert way.numbers() == [2]
    again.close()


async def test_a_prepared_statement_is_recognised(way: Way) -> None:
    connection = await way.open()
    for number in range(10):
        await asyncio.to_thread(insert, connection, number)
    rule = way.proxy.rule(Rule("drop_request", re.compile("INSERT INTO t")))
    await lost(lambda: insert(connection, 10))
    assert rule.struck == 1
    assert way.numbers() == list(range(10))


async def test_a_pipeline_is_cut_at_its_commit_alone(way: Way) -> None:
    connection = await way.open()

    def pipelined() -> None:
        with connection.pipeline():
            connection.execute("INSERT INTO t VALUES (1)")
            connection.commit()
            connection.execute("INSERT INTO t VALUES (2)")
            connection.commit()

    way.proxy.rule(Rule("drop_answer", skip=1))
    await lost(pipelined)
    assert way.numbers() == [1, 2]


async def test_a_rule_is_for_the_connections_that_it_names(way: Way) -> None:
    one, two = await way.open("one"), await way.open("two")
    way.proxy.rule(Rule("drop_request", only=lambda k: k.options["application_name"] == "two"))
    await asyncio.to_thread(insert, one, 1)
    await lost(lambda: insert(two, 2))
    assert way.proxy.cut(lambda k: k.options["application_name"] == "one") == 1
    await lost(lambda: insert(one, 3))
    assert way.numbers() == [1]


async def test_half_open_nothing_is_closed_and_nothing_comes(way: Way) -> None:
    connection = await way.open()
    way.proxy.silence()
    waiting = asyncio.ensure_future(lost(lambda: insert(connection, 1)))
    await lost(lambda: way.connect(timeout_s=2))
    assert not waiting.done(), "nobody told the client anything"
    assert way.proxy.links
    await way.proxy.recover()
    await waiting
    assert way.numbers() == []
    again = await way.open()
    await asyncio.to_thread(insert, again, 2)
    again.close()


async def test_an_outage_refuses_and_ends(way: Way) -> None:
    connection = await way.open()
    outage = asyncio.ensure_future(way.proxy.outage(0.5))
    await lost(lambda: insert(connection, 1))
    await lost(way.connect)
    await outage
    again = await way.open()
    await asyncio.to_thread(insert, again, 2)
    assert way.numbers() == [2]
    again.close()


async def test_latency_is_added_each_way(way: Way) -> None:
    connection = await way.open()
    way.proxy.slow(0.1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.to_thread(connection.execute, "SELECT 1")
    assert loop.time() - began >= 0.19
    connection.close()


async def test_it_may_point_elsewhere(way: Way, tmp_path: Path) -> None:
    good, way.proxy.target = way.proxy.target, str(tmp_path / "nobody")
    await lost(way.connect)
    way.proxy.target = good
    (await way.open()).close()
