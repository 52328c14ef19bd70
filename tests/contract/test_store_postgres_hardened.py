"""What came out when the PostgreSQL store was looked at by somebody who had not written it."""

import asyncio
import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from perdure.core.errors import InvalidRequest, SessionBusy
from perdure.ports.store import Batch, Claim
from perdure.stores.postgres.address import parse
from perdure.stores.postgres.appends import Run, write
from perdure.stores.postgres.claims import Claims
from perdure.stores.postgres.link import Connection, Link
from perdure.stores.postgres.statements import load
from perdure.stores.postgres.store import PostgresStore
from perdure.stores.postgres.tables import Tables
from perdure.stores.system import SystemClock
from perdure.stores.writes import Append
from perdure.testing.store_harness import Pen, begin, chain, payloads
from tests.contract.postgres import database, expire, postgres

__all__ = ["database", "postgres"]  # fixtures

pytestmark = pytest.mark.postgres

SPECIAL = [
    "s3cr#et",
    "s3cr/et",
    "s3cr?et",
    "s3cr[et",
    "s3cr\N{ACCOUNT OF}et",
    "12/s3cret",
    "12?s3cret",
]


@pytest.mark.parametrize("word", SPECIAL)
def test_a_password_that_breaks_the_address_is_not_taken_for_a_host_and_shown(word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(f"postgresql://perdure:{word}@db.example/work")
    said = f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert caught.value.code == "E-STORE-URL"
    assert "s3c" not in said and "et" not in said.replace("letters", "")


def test_what_is_secret_is_not_shown_whatever_it_is_called() -> None:
    secrets = (
        "password=a1&sslpassword=a2&oauth_client_secret=a3&scram_client_key=a4&sslmode=require"
    )
    assert parse(f"postgresql://u@h/d?{secrets}").shown == "postgresql://u@h/d?sslmode=require"


def test_libpq_gets_what_was_written() -> None:
    given = "postgresql://u@h1:1,[::1]:2/d?options=-c%20geqo%3Doff&password=a+b%2Bc"
    assert parse(given).libpq == given.replace("a+b", "a%2Bb")


def test_a_schema_is_as_long_as_its_channel_may_be() -> None:
    assert parse(f"postgresql:///d?schema={'s' * 55}").schema == "s" * 55
    with pytest.raises(InvalidRequest):
        parse(f"postgresql:///d?schema={'s' * 56}")


# -- what other nodes hold up


def table(connection: Connection, store: PostgresStore) -> Tables:
    """Return the tables as another node, with a connection of its own, writes them."""
    return Tables(connection, load(), f"other than {store.node}")


@contextlib.contextmanager
def another(url: str) -> Iterator[Connection]:
    """A connection as a node has it."""
    link = Link(parse(url), "another", SystemClock())
    yield link.connect()
    link.end()


async def test_whoever_finds_a_live_owner_does_not_hold_up_its_word(database: str) -> None:
    store = await PostgresStore.open(database)
    await begin(store)
    with another(database) as one, another(database) as two:
        with one.transaction():  # which may be long: a group of thousands of writes
            with pytest.raises(SessionBusy):
                table(one, store).claim("ses_1")
            two.execute("SELECT node FROM nodes FOR UPDATE NOWAIT")
        expire(database, store.node)
        with one.transaction():
            assert not table(one, store).claim("ses_1").clean
            with pytest.raises(psycopg.errors.LockNotAvailable):  # it hears what we made of it
                two.execute("SELECT node FROM nodes FOR UPDATE NOWAIT")
    await store.close()


@pytest.mark.parametrize(("first", "then"), [("child", "ses_1"), ("ses_1", "child")])
async def test_a_fork_and_its_origin_deleted_at_once_leave_nothing(
    first: str, then: str, database: str
) -> None:
    store = await PostgresStore.open(database)
    await store.release((await begin(store, events=3)).claim)
    await store.fork("ses_1", 2, "child")
    pen = Pen(await store.claim("child"))
    await store.append(pen.batch(b"own"))
    await store.release(pen.claim)
    with another(database) as one, another(database) as two:
        with one.transaction():
            table(one, store).delete_session(first)
            other = asyncio.create_task(asyncio.to_thread(deleted, two, table(two, store), then))
            await asyncio.wait([other], timeout=0.5)  # it may have to wait for us
        await other
        for name in ("sessions", "events", "graves"):
            assert one.execute(f"SELECT * FROM {name}".encode()).fetchall() == []
    await store.close()


def deleted(connection: Connection, tables: Tables, name: str) -> None:
    with connection.transaction():
        tables.delete_session(name)


async def test_a_state_saved_while_another_deletes_the_session_goes_with_it(database: str) -> None:
    store = await PostgresStore.open(database)
    await store.release((await begin(store)).claim)
    with another(database) as one:
        with one.transaction():
            table(one, store).delete_session("ses_1")
            saving = asyncio.ensure_future(store.save_state("ses_1", 1, b"state"))
            await asyncio.wait([saving], timeout=0.5)
        await saving
        assert one.execute("SELECT * FROM states").fetchall() == []
    await store.close()


# -- one that fails does not take others with it


async def test_what_cannot_be_stored_fails_alone_and_with_the_right_word(database: str) -> None:
    store = await PostgresStore.open(database)
    pen = await begin(store)
    odd = chain([b"odd"], pen.seq, pen.hash)[0]._replace(type="a\0b")
    other = await begin(store, "ses_2")
    answers = await asyncio.gather(
        store.post("ses_1", "k", b"body"),
        store.drain_node("no\0node"),
        store.drain_node("no\udcffnode"),
        store.fork("ses_1", 2**63, "child"),
        store.append(Batch("ses_1", pen.epoch, pen.seq, [odd])),
        store.append(Batch("ses_2", other.epoch, other.seq, [odd._replace(type="\udcff")])),
        store.append(other.batch(b"good")),
        return_exceptions=True,
    )
    codes = [getattr(answer, "code", answer) for answer in answers]
    known = [True, *["E-NODE-UNKNOWN"] * 2, "E-EVENT-UNKNOWN", "E-STORE-FAILED"]
    assert codes[:5] == known
    assert isinstance(codes[5], UnicodeEncodeError) and codes[6] is None
    assert await payloads(store, "ses_2") == [b'{"n":1}', b"good"]
    await store.close()


async def test_numbers_beyond_what_a_database_counts_are_read_as_its_last(database: str) -> None:
    store = await PostgresStore.open(database)
    await begin(store)
    big = 2**70
    found = await asyncio.gather(
        store.read("ses_1", big), store.read("ses_1", limit=big), store.due(big, big),
        store.owned("no\0node"), store.owned("\udcff", big), store.abandoned(big),
    )  # fmt: skip
    assert [len(each) for each in found] == [0, 1, 0, 0, 0, 0]
    await store.close()


async def test_an_address_that_nobody_could_use_costs_no_lease(database: str) -> None:
    store = await PostgresStore.open(f"{database}&lease_s=0.6")
    for address in ("http://a\0b", "http://\udcff"):
        await store.announce(address)
        seen = (await store.nodes())[0].seen_at_us
        async with asyncio.timeout(10):
            while (await store.nodes())[0].seen_at_us == seen:
                await store.changed(0.05)
    await store.close()


async def test_many_that_wait_are_no_transaction_that_never_ends(database: str) -> None:
    store = await PostgresStore.open(f"{database}&patience_s=0.5&outage_s=1")
    await begin(store)
    posts = [store.post("ses_1", f"k{n}", b"body") for n in range(6000)]
    assert all(await asyncio.gather(*posts))
    await store.close()


# -- what a node knows of itself


def test_a_claim_made_while_the_database_is_asked_is_not_taken_for_lost() -> None:
    claims = Claims()
    claims.note(Claim("old", 3, 0, b"", clean=True))
    known = claims.known()
    claims.note(Claim("new", 1, 0, b"", clean=True))
    claims.note(Claim("old", 4, 0, b"", clean=True))
    claims.compare(known, [])
    assert claims.holds(Claim("new", 1, 0, b"", clean=True))
    assert claims.holds(Claim("old", 4, 0, b"", clean=True))
    assert not claims.holds(Claim("old", 3, 0, b"", clean=True))


async def test_who_was_forgotten_in_its_sleep_looks_at_what_is_left(database: str) -> None:
    """A monotonic clock may stand still while a machine sleeps, so it is no witness."""
    first = await PostgresStore.open(f"{database}&lease_s=6")
    pen = await begin(first)
    with another(database) as connection:
        connection.execute("DELETE FROM nodes")
    second = await PostgresStore.open(database)
    await second.claim("ses_1")
    await first.announce("http://here")
    async with asyncio.timeout(10):
        while first.holds(pen.claim):
            await first.changed(0.05)
    await first.close()
    await second.close()


async def test_the_witness_of_a_nodes_first_commit_can_be_waited_for(database: str) -> None:
    """It is there from the beginning, so who asks for it waits for a commit that is under way."""
    store = await PostgresStore.open(database)
    with another(database) as one, another(database) as two, one.transaction():
        mine = Tables(one, load(), store.node)
        mine.put_doc("rule", "r", b"1", 0)
        mine.tell(1)  # as the server has it that has not answered yet
        two.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            Tables(two, load(), store.node).told()
    await store.close()


async def test_a_late_commit_does_not_turn_the_witness_back(database: str) -> None:
    store = await PostgresStore.open(database)
    with another(database) as one:
        mine = Tables(one, load(), "me")
        mine.tell(5)
        mine.tell(3)
        assert mine.told() == 5
        write(mine, [Run(Append(Batch("none", 1, 0, [])))], 4)
        assert mine.told() == 5
    await store.close()
