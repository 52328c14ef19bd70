"""A node that stands still in the midst of a transaction takes nobody else's life."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from perdure.core.errors import SessionBusy
from perdure.ports.store import Batch
from perdure.stores.faults import Faults
from perdure.stores.postgres.store import PostgresStore
from perdure.testing.postgres import PostgresServer
from perdure.testing.store_harness import begin, refused

pytestmark = pytest.mark.postgres
LEASE_S = 1.0


class StandsStill(Faults):
    """Stops inside a transaction, when told, as a process that gets SIGSTOP there."""

    def __init__(self) -> None:
        self.armed = False
        self.stopped = threading.Event()
        self.go_on = threading.Event()

    def before_commit(self, batches: Sequence[Batch]) -> None:
        """See `Faults.before_commit`."""
        if self.armed:
            self.stopped.set()
            self.go_on.wait(20)


async def test_14_a_node_that_stops_while_it_claims_does_not_hold_up_anothers_lease(
    server: PostgresServer, tmp_path: Path
) -> None:
    url = server.make_database(f"stalls_{abs(hash(tmp_path))}") + f"&lease_s={LEASE_S}"
    faults = StandsStill()
    owner, third = await PostgresStore.open(url), await PostgresStore.open(url)
    stopped = await PostgresStore.open(url, faults=faults)
    await begin(owner, "ses_1")
    faults.armed = True
    claiming = asyncio.ensure_future(stopped.claim("ses_1"))
    await asyncio.to_thread(faults.stopped.wait)
    loop = asyncio.get_running_loop()
    until = loop.time() + 4 * LEASE_S
    tries = 0
    while loop.time() < until:
        await refused(SessionBusy, third.claim("ses_1"))
        tries += 1
    assert tries > 1
    faults.armed = False
    faults.go_on.set()
    await refused(SessionBusy, claiming)
    for store in (owner, third, stopped):
        await store.close()
