"""An address with several hosts leads to the one that takes writes, before and after a failover."""

import contextlib
import urllib.parse
from pathlib import Path

import pytest

from perdure.stores.postgres.store import PostgresStore
from perdure.testing.postgres import USER, PostgresServer
from perdure.testing.store_harness import Pen, begin, payloads

pytestmark = pytest.mark.postgres


def folder(server: PostgresServer) -> str:
    return str(Path(server.address).parent)


@pytest.mark.parametrize("quoted", [False, True])
async def test_34_the_standby_named_first_is_passed_over_until_it_is_the_primary(
    quoted: bool,
) -> None:
    with PostgresServer() as primary, contextlib.closing(primary.standby()) as standby:
        hosts = f"{folder(standby)},{folder(primary)}"
        host = urllib.parse.quote(hosts, safe="") if quoted else hosts
        url = f"postgresql:///postgres?user={USER}&host={host}&lease_s=1"
        store = await PostgresStore.open(url)
        pen = await begin(store, events=2)
        primary.kill()
        standby.promote()
        await store.append(pen.batch(b"after the failover"))
        assert len(await payloads(store)) == 3
        claim = await store.claim("ses_1")
        await store.append(Pen(claim).batch(b"still the owner"))
        await store.close()
