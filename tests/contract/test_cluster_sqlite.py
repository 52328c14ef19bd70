"""The processes of one file, as they see each other: a small cluster on one machine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.core.errors import NotFound
from perdure.ports.cluster import Cluster
from perdure.stores.sqlite import SqliteStore
from perdure.stores.sqlite.connect import SCHEMA
from perdure.testing.store_harness import begin, refused
from tests.contract.stores import SqliteHarness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SqliteHarness]:
    made = SqliteHarness(tmp_path / "s.db")
    yield made
    await made.close()


async def names(store: SqliteStore) -> list[str]:
    return [row.name for row in await store.nodes()]


async def test_the_living_are_listed_with_what_they_say(harness: SqliteHarness) -> None:
    first, second = await harness.open(), await harness.open()
    assert isinstance(first, Cluster)
    assert await names(first) == sorted([first.node, second.node])
    await first.announce("http://127.0.0.1:8700")
    for name in ("ses_1", "ses_2"):
        await begin(first, name)
    rows = {row.name: row for row in await second.nodes()}
    row = rows[first.node]
    assert (row.address, row.sessions, row.schema) == ("http://127.0.0.1:8700", 2, SCHEMA)
    assert row.alive and row.version and row.host and 0 < row.started_at_us <= row.seen_at_us
    assert rows[second.node].address == "" and rows[second.node].sessions == 0
    await first.announce("")
    assert [row.address for row in await second.nodes()] == ["", ""]


async def test_the_dead_and_those_that_left_are_none(harness: SqliteHarness) -> None:
    first, second, third = [await harness.open() for _ in range(3)]
    await begin(first)
    await first.announce("http://127.0.0.1:8700")
    await harness.kill(first)
    await second.close()
    assert await names(third) == [third.node]
    assert await third.owner("ses_1") is None, "its owner is dead"


async def test_who_owns_what(harness: SqliteHarness) -> None:
    first, second = await harness.open(), await harness.open()
    await first.announce("http://one:8700")
    for name in ("ses_b", "ses_a"):
        await begin(first, name)
    owner = await second.owner("ses_a")
    assert owner is not None
    assert (owner.name, owner.address) == (first.node, "http://one:8700")
    await second.post("ses_a", "k", b"body")
    counts = {row.name: (row.sessions, row.behind) for row in await second.nodes()}
    assert counts == {first.node: (2, 1), second.node: (0, 0)}
    assert await second.owned(first.node) == ["ses_a", "ses_b"]
    assert await second.owned(first.node, 1) == ["ses_a"]
    await first.release(await first.claim("ses_a"))
    assert await second.owner("ses_a") is None
    assert await second.owner("ses_never") is None


async def test_a_node_is_asked_to_end(harness: SqliteHarness) -> None:
    first, second = await harness.open(), await harness.open()
    assert _draining(first, second) == [False, False]
    await second.drain_node(first.node)
    assert _draining(first, second) == [True, False]
    assert [row.draining for row in await second.nodes()] == [
        row.name == first.node for row in await second.nodes()
    ]
    for name in ("nobody", "../x", ""):
        assert (await refused(NotFound, second.drain_node(name))).code == "E-NODE-UNKNOWN"
    folder = first.path.with_name(first.path.name + ".nodes")
    await first.close()
    assert not list(folder.glob("*.drain")), "nothing of it is left"
    assert _draining(first) == [False]


def _draining(*stores: SqliteStore) -> list[bool]:
    return [store.draining for store in stores]
