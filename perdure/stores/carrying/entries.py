"""What a store's content is made of when it is on its way. See docs/operations.md for the file.

A session comes after those whose events it shares, and a blob before what names it, so that
whoever takes the stream in can do so as it comes. Texts that may hold what is not Unicode are
bytes; rows and errors are the JSON that a store keeps of them.
"""

from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from perdure.core.codec import Reader, encode
from perdure.core.errors import CorruptJournal
from perdure.core.journal import Record
from perdure.ports.carrying import Kept, KeptDoc, Posted
from perdure.ports.store import ErrorRow, SessionRow
from perdure.stores.keys import packed, unpacked

T = TypeVar("T")

_ROWS: Final = Reader[SessionRow](SessionRow)
_ERRORS: Final = Reader[ErrorRow](ErrorRow)


class Letter(Struct, frozen=True, array_like=True):
    """A letter: without a body once it was taken."""

    key: bytes
    digest: bytes
    body: bytes | None = None


class Begins(Struct, frozen=True, tag="session"):
    """A session begins: how it ends, and all of it that is no event. Its first `at` events are
    those of `of`, an earlier session of the stream, and do not come again; `base` is the hash of
    the last of them.
    """

    session: str
    seq: int
    hash: bytes
    of: str = ""
    at: int = 0
    base: bytes = b""
    row: bytes | None = None
    errors: tuple[bytes, ...] = ()
    letters: tuple[Letter, ...] = ()


class Events(Struct, frozen=True, tag="events"):
    """The next events of the session that has begun."""

    records: tuple[Record, ...]


class Ends(Struct, frozen=True, tag="end"):
    """All events of the session have come. Or it was deleted while it was read: forget it."""

    dropped: bool = False


class Blob(Struct, frozen=True, tag="blob"):
    """A large payload, by the SHA-256 of its content."""

    digest: str
    data: bytes


class Document(Struct, frozen=True, tag="doc"):
    """A document; one without data was deleted."""

    kind: bytes
    name: bytes
    version: int
    data: bytes | None = None


Entry: TypeAlias = Begins | Events | Ends | Blob | Document


class Summary(Struct):
    """How much has gone by."""

    sessions: int = 0
    events: int = 0
    letters: int = 0
    documents: int = 0
    blobs: int = 0
    blob_bytes: int = 0

    def count(self, entry: Entry) -> None:
        """Count an entry of a stream."""
        match entry:
            case Begins(letters=letters):
                self.sessions += 1
                self.letters += len(letters)
            case Events(records=records):
                self.events += len(records)
            case Ends(dropped=True):
                self.sessions -= 1
            case Blob(data=data):
                self.blobs += 1
                self.blob_bytes += len(data)
            case Document(data=data) if data is not None:
                self.documents += 1


def begins(kept: Kept, of: str, at: int, base: bytes) -> Begins:
    """Return what a session begins with."""
    return Begins(
        session=kept.session,
        seq=kept.seq,
        hash=kept.hash,
        of=of,
        at=at,
        base=base,
        row=None if kept.row is None else encode(kept.row),
        errors=tuple(encode(error) for error in kept.errors),
        letters=tuple(Letter(packed(each.key), each.digest, each.body) for each in kept.letters),
    )


def row_of(entry: Begins) -> SessionRow | None:
    """Return the session's row."""
    return None if entry.row is None else _read(_ROWS, entry.row)


def errors_of(entry: Begins) -> tuple[ErrorRow, ...]:
    """Return the session's errors."""
    return tuple(_read(_ERRORS, each) for each in entry.errors)


def _read(reader: Reader[T], data: bytes) -> T:
    try:
        return reader.read(data)
    except msgspec.DecodeError as error:
        raise CorruptJournal(
            "E-BACKUP-CORRUPT", f"A row of a list cannot be read: {error}", "Use another backup."
        ) from error


def letters_of(entry: Begins) -> tuple[Posted, ...]:
    """Return the session's letters."""
    return tuple(Posted(unpacked(each.key), each.digest, each.body) for each in entry.letters)


def document(doc: KeptDoc) -> Document:
    """Return a document as an entry."""
    return Document(packed(doc.kind), packed(doc.name), doc.version, doc.data)


def doc_of(entry: Document) -> KeptDoc:
    """Return the document of an entry."""
    return KeptDoc(unpacked(entry.kind), unpacked(entry.name), entry.version, entry.data)


def encoded(entry: Struct) -> bytes:
    """Return an entry as MessagePack."""
    return msgspec.msgpack.encode(entry)
