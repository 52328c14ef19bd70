"""Opening a database: is it ours, may we, and will it keep what it is told?

Everything that could make the durability promise a lie is checked here, by looking, before the
first byte is written.
"""

import os
from pathlib import Path
from threading import Event
from typing import Final, NamedTuple

import apsw

from perdure.core.errors import InvalidRequest, PerdureError, Unavailable
from perdure.stores import refusals
from perdure.stores.files import lock, sync_folder
from perdure.stores.sqlite import failures
from perdure.stores.sqlite.nodes import Node, sweep
from perdure.stores.sqlite.statements import Statements

APPLICATION_ID: Final = 0x50455244  # "PERD"; the file command and other tools can show it
SCHEMA: Final = 5
_BUSY_S: Final = 10.0
_RETRY_S: Final = 0.0005
_CACHE_KIB: Final = 16 * 1024
_WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
# Before 3.51.3 a checkpoint that meets a commit can reset the log too early and lose it.
_WAL_RESET_BUG: Final = ((3, 7, 0), (3, 51, 2))
_FULL: Final = 2
_NORMAL: Final = 1


class Connections(NamedTuple):
    """What a store holds open. One connection per thread, so that none waits for another."""

    writer: apsw.Connection
    reader: apsw.Connection
    checkpointer: apsw.Connection
    node: Node


def open_database(path: Path, node: str, sql: Statements, *, fsync: bool) -> Connections:
    """Open the database, making it if there is none.

    Raises `Unavailable`, or `InvalidRequest` for what is no database of ours.
    """
    opened: list[apsw.Connection] = []
    try:
        _make_file(path)
        opened.append(_connect(path))
        _prepare(opened[0], path, sql)
        _make_durable(opened[0], path, fsync=fsync)
        opened += [_connect(path), _connect(path)]
        opened[1].pragma("query_only", True)
        _make_durable(opened[2], path, fsync=fsync)
        folder = nodes_folder(path)
        sweep(folder)
        return Connections(opened[0], opened[1], opened[2], Node(folder, node))
    except (apsw.Error, OSError, PerdureError) as error:
        system_errno = opened[0].system_errno if opened else 0
        for connection in opened:
            connection.close()
        raise _not_opened(error, system_errno, path) from error


def nodes_folder(path: Path) -> Path:
    """Where the nodes of a database have their lock files."""
    return path.with_name(path.name + ".nodes")


def check_version(version: str) -> None:
    """Raise `Unavailable` (E-STORE-SQLITE-OLD) for a SQLite that can lose commits."""
    number = tuple(int(part) for part in version.split(".")[:3])
    first, last = _WAL_RESET_BUG
    if first <= number <= last:
        raise Unavailable(
            "E-STORE-SQLITE-OLD",
            f"SQLite {version} can lose commits when a checkpoint meets a write."
            " Nothing was opened.",
            "Install a newer apsw: pip install -U apsw brings SQLite 3.51.3 or later.",
        )


def check_path(path: Path) -> None:
    """Raise `InvalidRequest` for names that SQLite would not take for a file."""
    if path.name.startswith(":memory:") or str(path) in {"", "."} or str(path).startswith("file:"):
        raise InvalidRequest(
            "E-STORE-PATH",
            f"{str(path)!r} is not a file's name.",
            "Use memory: for a store that is forgotten at exit, or name a file.",
        )


def check_synchronous(connection: apsw.Connection, path: Path, wanted: int) -> None:
    """Raise `Unavailable` (E-STORE-UNSAFE) unless commits wait for the disk as they should."""
    found = connection.pragma("synchronous")
    if found < wanted:
        raise Unavailable(
            "E-STORE-UNSAFE",
            f"SQLite does not wait for the disk on {path} (synchronous is {found}, not {wanted}).",
            "Open it with fsync=False only where losing the last commits is acceptable.",
        )


def _not_opened(
    error: apsw.Error | OSError | PerdureError, system_errno: int, path: Path
) -> PerdureError:
    if isinstance(error, PerdureError):
        return error
    if isinstance(error, OSError):
        return refusals.of_os_error(error, path)
    if isinstance(error, apsw.NotADBError):
        return foreign(path)
    return failures.translate(error, system_errno, path)


def _make_file(path: Path) -> None:
    """Make the file before SQLite does: only its owner may read what agents said and did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes_folder(path).mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_handler(_Patience())
    return connection


class _Patience:
    """Asks for a lock that another process has every half millisecond, for ten seconds.

    SQLite's own way is to ask less and less often, up to ten times a second: beside a process that
    writes all the time, whose pauses are short, that is seconds of waiting.
    """

    def __init__(self) -> None:
        self._never = Event()

    def __call__(self, tries: int) -> bool:
        self._never.wait(_RETRY_S)
        return tries < _BUSY_S / _RETRY_S


def _prepare(connection: apsw.Connection, path: Path, sql: Statements) -> None:
    """Make sure that it has our tables in the version we know."""
    if _is_due(connection, path, sql):
        # Two processes may find the same new file; changing its mode does not wait as a write does.
        turn = lock(nodes_folder(path) / "creating")
        try:
            if is_new(connection, path, sql):
                _set_wal(connection, path)
                _create(connection, sql)
            elif _is_due(connection, path, sql):
                _migrate(connection, path, sql)
        finally:
            os.close(turn)
    _set_wal(connection, path)


def _is_due(connection: apsw.Connection, path: Path, sql: Statements) -> bool:
    """Whether the tables are to be made, or to be brought to our version."""
    return is_new(connection, path, sql) or connection.pragma("user_version") < SCHEMA


def steps(sql: Statements) -> dict[int, str]:
    """Return what brings tables of the version before to each version."""
    return {2: sql.migrate_2, 3: sql.migrate_3, 4: sql.migrate_4, 5: sql.migrate_5}


def is_new(connection: apsw.Connection, path: Path, sql: Statements) -> bool:
    """Whether there are no tables yet. Raises `InvalidRequest` (E-DB-FOREIGN) for what is not ours,
    `Unavailable` (E-DB-NEWER).
    """
    application = connection.pragma("application_id")
    version = connection.pragma("user_version")
    if application == APPLICATION_ID:
        if version > SCHEMA:
            raise Unavailable(
                "E-DB-NEWER",
                f"{path} was written by a newer perdure (schema {version}, this one knows"
                f" {SCHEMA}). Nothing was changed.",
                "Install the newer perdure again; or open a backup made before the upgrade.",
            )
        return False
    if application or connection.execute(sql.table_count).get:
        raise foreign(path)
    return True


def _create(connection: apsw.Connection, sql: Statements) -> None:
    connection.execute(sql.begin)
    connection.execute(sql.schema)
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", SCHEMA)
    connection.execute(sql.commit)


def _migrate(connection: apsw.Connection, path: Path, sql: Statements) -> None:
    """Bring the tables of an older perdure to our version: all of it, or nothing."""
    folder = nodes_folder(path)
    sweep(folder)
    if any(folder.glob("*.lock")):
        # It would go on with its own idea of the tables, and misread what we write.
        raise Unavailable(
            "E-DB-IN-USE",
            f"{path} was made by an older perdure, and one has it open. Nothing was changed.",
            "End the older one first: fuser shows which process has the file open.",
        )
    known = steps(sql)
    connection.execute(sql.begin)
    try:
        for version in range(connection.pragma("user_version") + 1, SCHEMA + 1):
            connection.execute(known[version])
        connection.pragma("user_version", SCHEMA)
        connection.execute(sql.commit)
    except apsw.Error:
        if connection.in_transaction:
            connection.execute(sql.rollback)
        raise


def _set_wal(connection: apsw.Connection, path: Path) -> None:
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise Unavailable(
            "E-STORE-UNSAFE",
            f"SQLite cannot keep a write-ahead log for {path} (mode {mode}).",
            "Put the file on a local disk: network file systems cannot do this safely.",
        )


def _make_durable(connection: apsw.Connection, path: Path, *, fsync: bool) -> None:
    # On macOS a plain fsync stops at the drive's cache; elsewhere these two mean nothing.
    connection.pragma("fullfsync", True)
    connection.pragma("checkpoint_fullfsync", True)
    connection.pragma("synchronous", _FULL if fsync else _NORMAL)
    check_synchronous(connection, path, _FULL if fsync else _NORMAL)
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("journal_size_limit", _WAL_KEPT_BYTES)
    connection.pragma("cache_size", -_CACHE_KIB)


def foreign(path: Path) -> InvalidRequest:
    """Return the error for a file that is not ours."""
    return InvalidRequest(
        "E-DB-FOREIGN",
        f"{path} is not a perdure database. Nothing was changed.",
        "Name another file; a new one is made if there is none.",
    )


def library_version() -> str:
    """Return the version of SQLite that is in use."""
    return apsw.sqlite_lib_version()
