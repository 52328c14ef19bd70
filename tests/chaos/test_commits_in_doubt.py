"""A connection that breaks around a commit: what landed is found out, and nothing lands twice."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.core.errors import Unavailable
from perdure.stores.postgres.store import PostgresStore
from perdure.testing.chaos.proxy import FaultProxy, Link, Rule
from perdure.testing.postgres import USER, PostgresServer
from perdure.testing.store_harness import begin, payloads, refused

pytestmark = pytest.mark.postgres

APPEND = re.compile("WITH moved")


def writer(link: Link) -> bool:
    return link.options.get("application_name", "").endswith("writer")


class Way:
    """A database behind a proxy."""

    def __init__(self, proxy: FaultProxy, url: str) -> None:
        self.proxy = proxy
        self.url = url

    async def open(self, **options: str) -> PostgresStore:
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return await PostgresStore.open(self.url + more)


@pytest.fixture
async def way(server: PostgresServer, tmp_path: Path) -> AsyncIterator[Way]:
    proxy = await FaultProxy(str(tmp_path / ".s.PGSQL.5432"), server.address).start()
    schema = f"d{abs(hash(tmp_path)):x}"
    yield Way(proxy, f"postgresql:///postgres?user={USER}&host={tmp_path}&schema={schema}")
    await proxy.stop()


@pytest.mark.parametrize("kind", ["drop_answer", "drop_request"])
async def test_33_a_batch_in_doubt_lands_once(way: Way, kind: str) -> None:
    store = await way.open()
    pen = await begin(store)
    for number in range(6):  # with its statement new, and prepared
        rule = way.proxy.rule(Rule(kind, APPEND, writer))  # type: ignore[arg-type]
        await store.append(pen.batch(b"%d" % number))
        assert rule.struck == 1
    assert await payloads(store) == [b'{"n":1}', *(b"%d" % n for n in range(6))]
    await store.close()


@pytest.mark.parametrize("kind", ["drop_answer", "drop_request"])
async def test_33_a_letter_and_a_document_in_doubt_land_once(way: Way, kind: str) -> None:
    store = await way.open()
    await begin(store)
    way.proxy.rule(Rule(kind, only=writer))  # type: ignore[arg-type]
    assert await store.post("ses_1", "k", b"body")
    way.proxy.rule(Rule(kind, only=writer))  # type: ignore[arg-type]
    assert await store.put_doc("rule", "r", b"1", expect=0) == 1
    way.proxy.rule(Rule(kind, only=writer))  # type: ignore[arg-type]
    claim = await store.claim("ses_2")
    assert claim.seq == 0 and store.holds(claim)
    assert [letter.body for letter in await store.inbox("ses_1")] == [b"body"]
    assert not await store.post("ses_1", "k", b"body")
    await store.close()


async def test_what_was_given_up_in_doubt_is_no_witness_for_what_comes_next(way: Way) -> None:
    store = await way.open(outage_s="0.3")
    pen = await begin(store)
    rule = way.proxy.rule(Rule("drop_answer", APPEND, writer))
    lost = store.append(pen.batch(b"landed, and nobody heard"))
    while not rule.struck:
        await store.changed(0.01)
    way.proxy.refuse()
    assert (await refused(Unavailable, lost)).code == "E-STORE-AWAY"
    await way.proxy.recover()
    way.proxy.rule(Rule("drop_request", APPEND, writer))
    await store.append(pen.batch(b"next"))
    assert (await payloads(store))[1:] == [b"landed, and nobody heard", b"next"]
    way.proxy.rule(Rule("drop_request", only=writer))
    assert await store.post("ses_1", "k", b"body")
    assert len(await store.inbox("ses_1")) == 1
    await store.close()


@pytest.mark.parametrize("role", ["lease", "writer", "reader 0", "reader 1"])
async def test_32_a_connection_that_says_nothing_is_left(way: Way, role: str) -> None:
    store = await way.open(lease_s="1", patience_s="0.3")
    pen = await begin(store)
    before = way.proxy.accepted
    way.proxy.silence(lambda link: link.options["application_name"].endswith(role))
    if role == "lease":
        while way.proxy.accepted == before:  # it comes back on another connection
            await store.changed(0.05)
    elif role == "writer":
        await store.append(pen.batch(b"2"))
        assert len(await payloads(store)) == 2
    else:
        for _ in range(2):
            assert len(await payloads(store)) == 1
    assert way.proxy.accepted > before
    await store.append(pen.batch(b"last"))
    await store.close()
