"""Putting the parts of a store together, with the database at hand."""

from collections.abc import Callable
from typing import Final

import psycopg

from perdure.core.errors import PerdureError
from perdure.ports.clock import Clock
from perdure.stores.faults import Faults
from perdure.stores.postgres import failures, migrations, statements
from perdure.stores.postgres.address import Address
from perdure.stores.postgres.bell import Bell
from perdure.stores.postgres.claims import Claims
from perdure.stores.postgres.lease import Lease, Who
from perdure.stores.postgres.link import Connection, Link
from perdure.stores.postgres.parts import Parts
from perdure.stores.postgres.reader import Reader
from perdure.stores.postgres.statements import Statements
from perdure.stores.postgres.watchdog import Watchdog
from perdure.stores.postgres.writer import Writer

_ALL: Final = 2**31 - 1


def assemble(
    address: Address,
    who: tuple[str, str, str],
    faults: Faults,
    clock: Clock,
    heard: Callable[[], None] | None,
    *,
    readers: int,
) -> Parts:
    """Connect, see that the tables are ours and safe, and begin to be alive.

    Without `heard` there are no threads: a simulator calls `Lease.beat` itself. Raises
    `Unavailable`.
    """
    name = who[0]
    link = Link(address, f"{name} lease", clock, patience_s=max(0.5, address.lease_s / 2))
    sql, claims = statements.load(), Claims()
    try:
        guarantee = _prepared(link)
        lease = _alive(link, sql, who, claims)
    except psycopg.Error as error:
        link.end()
        raise _not_opened(error, address) from None
    except PerdureError:
        link.end()
        raise
    writing = Link(address, f"{name} writer", clock)
    long_s = 3 * address.patience_s
    reading = [
        Link(address, f"{name} reader {n}", clock, patience_s=long_s) for n in range(readers)
    ]
    bell = watchdog = None
    if heard is not None:
        ringing = Link(address, f"{name} bell", clock)
        bell = Bell(ringing, Link(address, f"{name} ear", clock), heard)
        bell.start()
        lease.start()
        watchdog = Watchdog([link, writing, *reading, ringing])
    writer = Writer(writing, sql, lease, faults, bell.ring if bell else _nothing)
    looking = [Reader(each, sql) for each in reading]
    return Parts(address, writer, looking, lease, claims, bell, watchdog, guarantee)


def _alive(link: Link, sql: Statements, who: tuple[str, str, str], claims: Claims) -> Lease:
    """Say that we live, and forget those who have been dead for long."""

    def check(connection: Connection) -> None:
        known = claims.known()
        values = {"node": who[0], "limit": _ALL}
        claims.compare(known, connection.execute(sql.owned.encode(), values).fetchall())

    lease = Lease(link, sql, Who(*who, migrations.steps()[-1].version), check)
    lease.beat()
    link.use(lambda connection: connection.execute(sql.sweep.encode()))
    # The witness of our commits, so that who asks for it waits even for the first of them.
    witness = {"node": who[0], "version": 0}
    link.use(lambda connection: connection.execute(sql.tell.encode(), witness))
    return lease


def _prepared(link: Link) -> str:
    """Make or upgrade the tables; return what the server promises."""
    address = link.address

    def prepare(connection: Connection) -> str:
        guarantee = migrations.check_safety(connection, address.shown, unsafe=address.unsafe)
        migrations.migrate(connection, address.schema)
        return guarantee

    return link.use(prepare)


def _not_opened(error: psycopg.Error, address: Address) -> PerdureError:
    if error.sqlstate and not isinstance(error, psycopg.OperationalError):
        return failures.translate(error, address.shown)
    return failures.refused(address.shown, error)


def _nothing() -> None:
    """Nobody is to be told."""
