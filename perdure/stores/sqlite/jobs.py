"""What the writing thread of SQLite is asked to do outside any transaction."""

from typing import TYPE_CHECKING

from perdure.stores.writes import Write

if TYPE_CHECKING:
    from perdure.stores.sqlite.tables import Tables


class Aside(Write):
    """Something for the writing thread that wants no transaction."""

    def ask(self, tables: "Tables") -> object:
        """Do it."""
        raise NotImplementedError


class DataVersion(Aside):
    """A number that changes when another connection has committed."""

    def ask(self, tables: "Tables") -> object:
        """See `Aside.ask`."""
        return tables.connection.pragma("data_version")


class CheckpointRest(Aside):
    """Copy what came into the log while the background copied the rest: then it can start anew."""

    def ask(self, tables: "Tables") -> object:
        """See `Aside.ask`."""
        tables.connection.wal_checkpoint()
        return None
