"""The tables' versions: numbered statements, forward only, each applied once and under a lock."""

import re
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from psycopg import errors, sql

from perdure.core.errors import Unavailable
from perdure.stores.postgres.link import Connection
from perdure.stores.postgres.statements import FOLDER

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS migrations (
    version integer NOT NULL PRIMARY KEY,
    checksum text NOT NULL,
    oldest integer NOT NULL,
    applied timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
_TRIES: Final = 5


class Migration(NamedTuple):
    """One step. `oldest` is the oldest version whose program still works with the tables after it:
    nodes of two versions may run side by side for as long as they are being upgraded.
    """

    version: int
    sql: str
    checksum: str
    oldest: int


class Applied(NamedTuple):
    """A step that was taken."""

    version: int
    checksum: str
    oldest: int


def steps(folder: Path | None = None) -> list[Migration]:
    """Return all steps that this program knows, in order."""
    found = []
    for path in sorted((folder or FOLDER / "migrations").glob("[0-9]*.sql")):
        text = path.read_text("utf-8")
        said = re.match(r"-- oldest: (\d+)\n", text)
        assert said is not None, f"{path.name} does not say the oldest version that it suits"
        digest = sha256(text.encode()).hexdigest()
        found.append(Migration(int(path.stem), text, digest, int(said[1])))
    return found


def applied(connection: Connection) -> list[Applied]:
    """Return the steps that were taken; none where there are no tables of ours."""
    try:
        rows = connection.execute("SELECT version, checksum, oldest FROM migrations ORDER BY 1")
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return []
    return [Applied(*row) for row in rows]


def pending(known: list[Migration], taken: list[Applied]) -> list[Migration]:
    """Return the steps that are to be taken. Raises `Unavailable` (E-DB-NEWER, E-DB-MIGRATED)."""
    ours = {step.version: step for step in known}
    newest = max(ours)
    for step in taken:
        mine = ours.get(step.version)
        if mine is not None and mine.checksum != step.checksum:
            raise Unavailable(
                "E-DB-MIGRATED",
                f"Step {step.version} of the tables was taken by a perdure whose statements were "
                "others. Nothing was changed.",
                "Use the perdure that made these tables; a released step never changes.",
            )
        if mine is None and step.oldest > newest:
            raise Unavailable(
                "E-DB-NEWER",
                f"The tables are those of a newer perdure (schema {step.version}, which suits "
                f"programs from {step.oldest} on; this one knows {newest}). Nothing was changed.",
                "Install the newer perdure.",
            )
    done = {step.version for step in taken}
    return [step for step in known if step.version not in done]


def migrate(connection: Connection, schema: str, known: list[Migration] | None = None) -> int:
    """Take the steps that are missing, all or none; return how many. Several nodes may try."""
    known = known or steps()
    if not pending(known, applied(connection)):
        return 0
    for attempt in range(_TRIES):
        try:
            return _migrate(connection, schema, known)
        except (errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateSchema):
            if attempt == _TRIES - 1:  # two that make the same schema at once: one sees it made
                raise
    return 0


def _migrate(connection: Connection, schema: str, known: list[Migration]) -> int:
    with connection.transaction():
        make = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema))
        if not _has_schema(connection, schema):  # a user who may not make one may use one
            connection.execute(make)
        connection.execute(_TABLE)
        connection.execute("LOCK TABLE migrations IN ACCESS EXCLUSIVE MODE")
        missing = pending(known, applied(connection))
        for step in missing:
            connection.execute(step.sql.encode())
            connection.execute(
                "INSERT INTO migrations (version, checksum, oldest) VALUES (%s, %s, %s)",
                (step.version, step.checksum, step.oldest),
            )
    return len(missing)


def _has_schema(connection: Connection, schema: str) -> bool:
    found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,))
    return found.fetchone() is not None


def check_safety(connection: Connection, shown: str, *, unsafe: bool) -> str:
    """Return what the server's settings promise, in a sentence.

    Raises `Unavailable` (E-STORE-UNSAFE) when it may lose what it acknowledged, unless `unsafe`,
    and (E-STORE-ENCODING) when it cannot keep every name.
    """
    if (encoding := _setting(connection, "server_encoding")) != "UTF8":
        raise Unavailable(
            "E-STORE-ENCODING",
            f"The database {shown} keeps text as {encoding}, and names are Unicode. "
            "Nothing was opened.",
            "createdb -E UTF8 -T template0 NAME    and name that one",
        )
    setting = {
        name: _setting(connection, name)
        for name in ("fsync", "synchronous_commit", "full_page_writes", "synchronous_standby_names")
    }
    wrong = [
        f"{name} = {setting[name]}"
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if setting[name] == "off"
    ]
    if wrong and not unsafe:
        raise Unavailable(
            "E-STORE-UNSAFE",
            f"The database {shown} may lose what it has acknowledged: {', '.join(wrong)}. "
            "Nothing was opened.",
            "Set it to on; or add unsafe=1 to the address if losing sessions does not matter.",
        )
    version = _setting(connection, "server_version").partition(" ")[0]
    said = f"PostgreSQL {version}, synchronous_commit = {setting['synchronous_commit']}"
    if wrong:
        return f"{said}: UNSAFE ({', '.join(wrong)}): a crash may lose what was acknowledged"
    if setting["synchronous_standby_names"]:
        return f"{said} with synchronous standbys: survives the loss of the primary"
    return f"{said}, no synchronous standby: survives a crash, not the loss of its disk"


def _setting(connection: Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return str(row[0]) if row else ""
