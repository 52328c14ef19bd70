"""The tables of a SQLite file, before anything opens it as a store."""

import asyncio
from hashlib import sha256
from pathlib import Path

import apsw

from perdure.ports.migrations import MigrationStep
from perdure.stores.sqlite import connect, failures, statements
from perdure.stores.sqlite.store import SqliteStore


class SqliteMigrations:
    """Implements `Migrations` for the file at `path`, which need not exist."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def current(self) -> int:
        """See `Migrations.current`."""
        return await asyncio.to_thread(self._version)

    async def known(self) -> int:
        """See `Migrations.known`."""
        return connect.SCHEMA

    async def pending(self) -> list[MigrationStep]:
        """See `Migrations.pending`."""
        version = await self.current()
        sql = statements.load()
        if version == 0:
            return [_step(connect.SCHEMA, sql.schema)]
        known = connect.steps(sql)
        return [_step(number, known[number]) for number in range(version + 1, connect.SCHEMA + 1)]

    async def apply(self) -> int:
        """See `Migrations.apply`."""
        missing = len(await self.pending())
        if missing:
            await (await SqliteStore.open(self._path)).close()
        return missing

    def _version(self) -> int:
        if not self._path.exists():
            return 0
        try:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        except apsw.Error as error:
            raise failures.translate(error, 0, self._path) from error
        try:
            new = connect.is_new(connection, self._path, statements.load())
            return 0 if new else int(connection.pragma("user_version"))
        except apsw.NotADBError as error:
            raise connect.foreign(self._path) from error
        except apsw.Error as error:
            raise failures.translate(error, connection.system_errno, self._path) from error
        finally:
            connection.close()


def _step(version: int, sql: str) -> MigrationStep:
    return MigrationStep(version, sql, sha256(sql.encode()).hexdigest())
