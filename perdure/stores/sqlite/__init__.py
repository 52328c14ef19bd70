"""The default store: one SQLite file, written by one thread with group commit.

Only this package imports apsw, and only when a store is opened.
"""

from perdure.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
