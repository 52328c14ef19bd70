"""The versions of a store's tables: what there is, what this program knows, what would be done."""

from typing import NamedTuple, Protocol


class MigrationStep(NamedTuple):
    """Statements that bring the tables to `version`. `checksum` is the SHA-256 of `sql`, in
    hexadecimal.
    """

    version: int
    sql: str
    checksum: str


class Migrations(Protocol):
    """The tables of one store, looked at without changing them, until `apply`."""

    async def current(self) -> int:
        """Return the version of the tables; 0 where there are none."""
        ...

    async def known(self) -> int:
        """Return the version that this program makes."""
        ...

    async def pending(self) -> list[MigrationStep]:
        """Return the steps that are missing, in order. Raises `Unavailable` (E-DB-NEWER) for tables
        that this program cannot work with.
        """
        ...

    async def apply(self) -> int:
        """Take the missing steps, all or none, under a lock; return how many that were. Raises
        `Unavailable`.
        """
        ...
