"""What the PostgreSQL store does when it is carried elsewhere. See `perdure.ports.carrying`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from perdure.ports.carrying import Kept, KeptDoc, Posted, Stretch
from perdure.stores import refusals
from perdure.stores.keys import packed, unpacked
from perdure.stores.writes import Tables as AnyTables, Write

if TYPE_CHECKING:
    from perdure.stores.postgres.reader import Reader
    from perdure.stores.postgres.tables import Tables


def kept(reader: "Reader", session: str) -> Kept | None:
    """See `Carriable.kept`."""
    from perdure.stores.postgres.reader import row_of
    from perdure.stores.postgres.tables import error_row

    if not refusals.is_name(session):
        return None
    sql = reader.sql
    lineage, letters, errors = reader.together(
        (sql.read_lineage, sql.read_letters, sql.read_errors_of), session=session
    )
    if not lineage:
        return None
    _, _, _, seq, hash_, row = lineage[0]
    return Kept(
        session,
        seq,
        bytes(hash_),
        row_of(session, seq, row) if row is not None else None,
        tuple(Posted(unpacked(key), digest, body) for key, digest, body in letters),
        tuple(found for (data,) in errors if (found := error_row(data)) is not None),
        tuple(_stretch(*life[:4]) for life in reversed(lineage)),
    )


def _stretch(session: str, born: int, alive: bool, until: int) -> Stretch:
    return Stretch(session if alive else f"\0{session}\0{born}", until)


def kept_docs(reader: "Reader", after: tuple[str, str] | None, limit: int) -> list[KeptDoc]:
    """See `Carriable.kept_docs`."""
    kind, name = after or ("", "")
    values: dict[str, Any] = {
        "all": after is None, "kind": packed(kind), "name": packed(name), "limit": limit,
    }  # fmt: skip
    (rows,) = reader.together((reader.sql.read_kept_docs,), **values)
    return [KeptDoc(unpacked(k), unpacked(n), version, data) for k, n, version, data in rows]


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
        known = refusals.is_name(session)
        row = tables.one(tables.sql.lock_letters, {"session": session}) if known else None
        if row is None or not row[0]:
            raise refusals.unknown(session)
        for key, digest, body in entered:
            values = {"session": session, "key": packed(key), "digest": digest, "body": body}
            tables.run(tables.sql.insert_letter, values)

    return _Entry(enter)


def keep_doc(doc: KeptDoc) -> Write:
    """See `Carriable.keep_doc`."""
    values = {
        "kind": packed(doc.kind), "name": packed(doc.name), "version": doc.version,
        "data": doc.data,
    }  # fmt: skip
    return _Entry(lambda tables: tables.run(tables.sql.keep_doc, values))
