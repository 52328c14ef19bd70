"""The tables of a PostgreSQL database, before anything opens it as a store."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import psycopg

from perdure.ports.clock import Clock
from perdure.ports.migrations import MigrationStep
from perdure.stores.postgres import failures, migrations
from perdure.stores.postgres.address import parse
from perdure.stores.postgres.link import Connection, Link

T = TypeVar("T")


class PostgresMigrations:
    """Implements `Migrations` for the database of an address."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._address = parse(url)
        self._clock = clock

    async def current(self) -> int:
        """See `Migrations.current`."""
        taken = await self._ask(migrations.applied)
        return max((step.version for step in taken), default=0)

    async def known(self) -> int:
        """See `Migrations.known`."""
        return migrations.steps()[-1].version

    async def pending(self) -> list[MigrationStep]:
        """See `Migrations.pending`."""
        taken = await self._ask(migrations.applied)
        missing = migrations.pending(migrations.steps(), taken)
        return [MigrationStep(step.version, step.sql, step.checksum) for step in missing]

    async def apply(self) -> int:
        """See `Migrations.apply`."""
        return await self._ask(lambda c: migrations.migrate(c, self._address.schema))

    async def _ask(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._asked, work)

    def _asked(self, work: Callable[[Connection], T]) -> T:
        link = Link(self._address, "perdure migrations", self._clock)
        try:
            return link.use(work)
        except psycopg.Error as error:
            shown = self._address.shown
            if error.sqlstate and not isinstance(error, psycopg.OperationalError):
                raise failures.translate(error, shown) from None
            raise failures.refused(shown, error) from None
        finally:
            link.end()
