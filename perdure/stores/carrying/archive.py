"""A store's content in one file. docs/operations.md describes it byte by byte.

A line of text, then one zstd frame of parts: four bytes of length, and a map in MessagePack. The
first part is the header, the last one the manifest; what lies between is the stream of entries.
"""

import os
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec
import zstandard
from msgspec import Struct

from perdure.core.errors import Conflict, CorruptJournal, InvalidRequest, NotFound
from perdure.stores import refusals
from perdure.stores.carrying.entries import Entry, Summary, encoded
from perdure.stores.files import sync_folder

FORMAT: Final = 1
_MAGIC: Final = b"perdure backup\n"
_LENGTH: Final = 4
_PART_MAX: Final = 1 << 31
_LEVEL: Final = 3


class Header(Struct, frozen=True, tag="header"):
    """What the file is. `id` is like no other backup's."""

    format: int
    id: str
    made_at_us: int
    perdure: str
    source: str


class Manifest(Struct, frozen=True, tag="manifest"):
    """What the file must have held: how much, and the SHA-256 of all parts before this one."""

    summary: Summary
    sha256: bytes


_PARTS: Final = msgspec.msgpack.Decoder(Header | Entry | Manifest)


class ArchiveWriter:
    """Writes a file under another name; it gets its own when `finish` has made it durable."""

    def __init__(self, path: Path, header: Header, *, replace: bool = False) -> None:
        if path.exists() and not replace:
            raise Conflict(
                "E-BACKUP-EXISTS", f"{path} exists. Nothing was written.",
                "Name another file, or add --yes to replace it.",
            )  # fmt: skip
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._sum = sha256()
        self._file: IO[bytes] | None = None
        self.bytes = 0
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(descriptor, "wb")
            self._file.write(_MAGIC)
        except OSError as error:
            raise refusals.of_os_error(error, path) from error
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._stream = compressor.stream_writer(self._file, closefd=False)
        self._put(header)

    def add(self, entry: Entry) -> None:
        """Write the next entry. Raises `StoreFull`, `Unavailable`."""
        self._put(entry)

    def finish(self, summary: Summary) -> None:
        """Write the manifest, make the file durable and give it its name."""
        assert self._file is not None
        self._put(Manifest(summary, self._sum.digest()))
        try:
            self._stream.flush(zstandard.FLUSH_FRAME)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.bytes = self._file.tell()
            self._file.close()
            self._part.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise refusals.of_os_error(error, self._path) from error
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:  # not finished: what is there is of no use
            self._file.close()
            self._part.unlink(missing_ok=True)

    def _put(self, part: Struct) -> None:
        data = encoded(part)
        whole = len(data).to_bytes(_LENGTH, "big") + data
        self._sum.update(whole)
        try:
            self._stream.write(whole)
        except OSError as error:
            raise refusals.of_os_error(error, self._path) from error


class Archive:
    """A file that `ArchiveWriter` has made. Reading it to its end checks that it is whole.

    Raises `NotFound`, `InvalidRequest` for what is no backup, `CorruptJournal` (E-BACKUP-CORRUPT)
    for one that was cut off or changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = self._header()

    def parts(self) -> Iterator[Entry]:
        """Yield the entries; after the last one it is certain that none is missing or changed."""
        summary, total = Summary(), sha256()
        manifest: Manifest | None = None
        with self._opened() as file:
            for whole, part in self._read(file):
                if manifest is not None:
                    raise self._corrupt("something follows its manifest")
                if isinstance(part, Manifest):
                    manifest = part
                    continue
                total.update(whole)
                if not isinstance(part, Header):
                    summary.count(part)
                    yield part
        if manifest is None:
            raise self._corrupt("it was cut off before its manifest")
        if (manifest.summary, manifest.sha256) != (summary, total.digest()):
            raise self._corrupt("it does not hold what its manifest says")

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield the same to those who take a stream."""
        for part in self.parts():
            yield part

    def _header(self) -> Header:
        with self._opened() as file:
            first = next(self._read(file), None)
        if first is None or not isinstance(first[1], Header):
            raise self._corrupt("it has no header")
        if first[1].format > FORMAT:
            raise InvalidRequest(
                "E-BACKUP-NEWER",
                f"{self.path} was made by a newer perdure ({first[1].perdure}). It was not read.",
                "Install that version, or a later one.",
            )
        return first[1]

    def _opened(self) -> IO[bytes]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError as error:
            raise NotFound("E-BACKUP-NONE", f"There is no file {self.path}.") from error
        except OSError as error:
            raise refusals.of_os_error(error, self.path) from error
        if file.read(len(_MAGIC)) != _MAGIC:
            file.close()
            raise InvalidRequest(
                "E-BACKUP-FOREIGN", f"{self.path} is not a backup that perdure made.",
                "perdure admin backup FILE makes one.",
            )  # fmt: skip
        return file

    def _read(self, file: IO[bytes]) -> Iterator[tuple[bytes, Header | Entry | Manifest]]:
        stream = zstandard.ZstdDecompressor().stream_reader(file, closefd=False)
        try:
            while head := _exactly(stream, _LENGTH):
                size = int.from_bytes(head, "big")
                data = _exactly(stream, size) if size <= _PART_MAX else b""
                if len(head) < _LENGTH or len(data) < size or not data:
                    return
                yield head + data, _PARTS.decode(data)
        except (zstandard.ZstdError, msgspec.DecodeError) as error:
            raise self._corrupt(str(error)) from error

    def _corrupt(self, why: str) -> CorruptJournal:
        return CorruptJournal(
            "E-BACKUP-CORRUPT",
            f"{self.path} is damaged: {why}.",
            "Use another backup. What was restored of this one may be thrown away.",
        )


def _exactly(stream: zstandard.ZstdDecompressionReader, size: int) -> bytes:
    """Read that many bytes, fewer only at the end."""
    found = bytearray()
    while len(found) < size and (some := stream.read(size - len(found))):
        found += some
    return bytes(found)
