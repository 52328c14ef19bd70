"""What the SQLite store does when it is carried elsewhere. See `perdure.ports.carrying`."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from perdure.ports.carrying import Kept, KeptDoc, Posted, Stretch
from perdure.stores import refusals
from perdure.stores.keys import packed, unpacked
from perdure.stores.sqlite.nodes import clear
from perdure.stores.writes import Tables as AnyTables, Write

if TYPE_CHECKING:
    from perdure.stores.sqlite.reader import Reader
    from perdure.stores.sqlite.tables import Tables


def kept(reader: "Reader", session: str) -> Kept | None:
    """See `Carriable.kept`."""
    from perdure.stores.sqlite.reader import row_of
    from perdure.stores.sqlite.tables import error_row

    sql = reader.sql
    if not refusals.is_name(session):
        return None
    with reader.connection as connection:  # one moment for all that is read
        lineage: list[Any] = connection.execute(sql.read_lineage, (session,)).fetchall()
        if not lineage or lineage[0][2] == lineage[0][3]:
            return None
        number, _, seq, _, hash_, row, _ = lineage[0]
        letters: list[Any] = connection.execute(sql.read_letters, (number,)).fetchall()
        errors: list[Any] = connection.execute(sql.read_errors_of, (number,)).fetchall()
    return Kept(
        session,
        seq,
        hash_,
        row_of(session, seq, row) if row is not None else None,
        tuple(Posted(unpacked(key), digest, body) for key, digest, body in letters),
        tuple(found for (data,) in errors if (found := error_row(data)) is not None),
        tuple(Stretch(name, until) for _, name, _, _, _, _, until in reversed(lineage)),
    )


def kept_docs(reader: "Reader", after: tuple[str, str] | None, limit: int) -> list[KeptDoc]:
    """See `Carriable.kept_docs`."""
    kind, name = after or ("", "")
    values = (packed(kind), packed(name), after is None, limit)
    rows: Iterable[Any] = reader.connection.execute(reader.sql.read_kept_docs, values)
    return [KeptDoc(unpacked(k), unpacked(n), version, data) for k, n, version, data in rows]


def neighbours(folder: Path, own: str) -> list[str]:
    """See `Carriable.neighbours`. Clears up after the dead."""
    paths = sorted(path for path in folder.glob("*.lock") if path.stem != own)
    return [path.stem for path in paths if not clear(path)]


class _Entry(Write):
    """A write that has no other use than to take another store's content in."""

    def __init__(self, enter: Callable[["Tables"], None]) -> None:
        super().__init__()
        self._enter = enter

    def run(self, tables: AnyTables) -> object:
        """See `Write.run`."""
        self._enter(cast("Tables", tables))
        return None


def keep_letters(session: str, letters: Sequence[Posted]) -> Write:
    """See `Carriable.keep_letters`."""
    entered = tuple(letters)

    def enter(tables: "Tables") -> None:
        found = tables.find(session)
        if found is None or found.is_empty:
            raise refusals.unknown(session)
        values = [(found.id, packed(key), digest, body) for key, digest, body in entered]
        tables.connection.executemany(tables.sql.keep_letter, values)

    return _Entry(enter)


def keep_doc(doc: KeptDoc) -> Write:
    """See `Carriable.keep_doc`."""

    def enter(tables: "Tables") -> None:
        values = (packed(doc.kind), packed(doc.name), doc.version, doc.data)
        tables.connection.execute(tables.sql.keep_doc, values)

    return _Entry(enter)
