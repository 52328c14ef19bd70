"""Where a node says that it is, and what it says of its store."""

import ipaddress
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from perdure.serving.membership import address_of
from tests.contract.postgres import database, postgres
from tests.doors.running import running

__all__ = ["database", "postgres"]


def test_what_the_operator_says_counts() -> None:
    assert address_of("http://127.0.0.1:8700", "0.0.0.0", "https://n1.example/") == (
        "https://n1.example"
    )
    assert address_of("http://127.0.0.1:8700", "127.0.0.1", "http://10.0.0.5:1") == (
        "http://10.0.0.5:1"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.5", "node-1.internal", "::1"])
def test_an_address_of_its_own_is_where_it_is(host: str) -> None:
    assert address_of("http://there:8700", host, "") == "http://there:8700"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]"])
def test_on_all_addresses_it_is_what_the_machine_is_called(host: str) -> None:
    found = urlsplit(address_of("http://127.0.0.1:8701", host, ""))
    assert found.port == 8701 and found.hostname is not None
    if found.hostname != socket.gethostname().lower():
        assert not ipaddress.ip_address(found.hostname).is_loopback, "nobody else is reached there"


@pytest.mark.postgres
async def test_a_server_on_postgresql_says_what_it_promises_and_no_password(
    tmp_path: Path, database: str
) -> None:
    store = database.replace("postgresql:///", "postgresql://perdure:hunter2@/")
    store = store.replace("user=perdure&", "")
    async with running(tmp_path, "--store", store) as server:
        assert "hunter2" not in str(dict(server.said))
        assert server.said["store"].startswith("postgresql://perdure@")
        assert server.said["guarantee"].startswith("PostgreSQL")
    assert not list(tmp_path.rglob("*.db")), "nothing was made here instead"
