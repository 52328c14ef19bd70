"""Objects on disk: one pack file per snapshot, each with an index at its end.

    pack  = MAGIC, objects one after the other, index, trailer
    index = (digest, offset, stored length, raw length, how it is stored, CRC-32 as stored)*
    trailer = offset of the index, number of entries, SHA-256 of the index, END

A pack appears under its name only when it is complete and on the disk (fsync of the file, then of
the directory), so a crash leaves either all of it or none. Every object is checked against its
digest when it is read: a flipped bit is named, never restored. Knows nothing of what the objects
mean. Blocking: call from a thread.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, Self

import zstandard

from perdure.core.errors import StoreFull
from perdure.ports.sandbox import CorruptSnapshot

_MAGIC: Final = b"PERDPAK1"
_END: Final = b"1KAPDREP"
_INDEX: Final = struct.Struct(">32sQIIBI")
_TRAILER: Final = struct.Struct(">QI32s8s")
_PLAIN, _ZSTD = 0, 1
_SUFFIX: Final = ".pack"
ENTRY_BYTES: Final = _INDEX.size
"""What the index costs for one object."""
_OPEN_PACKS_MAX: Final = 32
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Check = Callable[[bytes], bytes]


class Place(NamedTuple):
    """Where an object lies."""

    pack: str
    offset: int
    stored: int
    raw: int
    how: int
    crc: int


class Packs:
    """All packs of one directory, with an index in memory. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[bytes, Place] = {}
        self._names: set[str] = set()
        self._broken: dict[str, str] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.refresh()

    @property
    def broken(self) -> dict[str, str]:
        """Packs that cannot be used, and why."""
        return dict(self._broken)

    def refresh(self) -> None:
        """Take in packs that other processes have written."""
        with self._lock:
            found = {n for n in os.listdir(self._folder) if n.endswith(_SUFFIX)}  # noqa: PTH208
            # Where an object lies twice, the larger pack is the one to read: what was brought
            # together stays together.
            for name in sorted(found - self._names, key=lambda each: (self.size(each), each)):
                try:
                    self._places.update(_read_index(self._folder / name))
                except (OSError, ValueError) as error:
                    self._broken[name] = str(error)
                self._names.add(name)

    @property
    def folder(self) -> Path:
        """Where the packs lie."""
        return self._folder

    def size(self, file: str) -> int:
        """Return the size of a pack's file in bytes; 0 where there is none."""
        try:
            return (self._folder / file).stat().st_size
        except FileNotFoundError:
            return 0

    def names(self) -> list[str]:
        """Return the names under which packs were sealed, damaged ones too."""
        self.refresh()
        return sorted(n.removesuffix(_SUFFIX) for n in self._names)

    @staticmethod
    def file(name: str) -> str:
        """Return the file of the pack of that name."""
        return name + _SUFFIX

    def sealed(self, name: str) -> bool:
        """Say whether a pack of that name exists and its index is whole."""
        file = name + _SUFFIX
        if file not in self._names:
            self.refresh()
        return file in self._names and file not in self._broken

    def damage(self, name: str) -> str:
        """Return what is wrong with the pack of that name, or ""."""
        return self._broken.get(name + _SUFFIX, "")

    def has(self, digest: bytes) -> bool:
        """Say whether the object is in a pack."""
        return digest in self._places

    def find(self, prefix: bytes, name: str) -> bytes | None:
        """Return the digest in the pack `name` that begins with `prefix`."""
        if not self.sealed(name):
            return None
        index = _read_index(self._folder / (name + _SUFFIX))
        return next((d for d in index if d.startswith(prefix)), None)

    def search(self, prefix: bytes) -> bytes | None:
        """Return an object of any pack whose digest begins with `prefix`."""
        self.refresh()
        return next((d for d in list(self._places) if d.startswith(prefix)), None)

    def place(self, digest: bytes) -> Place:
        """Return where the object lies. Raises `CorruptSnapshot`, naming damaged packs."""
        place = self._places.get(digest)
        if place is None:
            self.refresh()
            place = self._places.get(digest)
        if place is None:
            damaged = "; ".join(f"{n}: {why}" for n, why in sorted(self._broken.items()))
            raise CorruptSnapshot(
                "E-SNAPSHOT-CORRUPT",
                f"Object {digest.hex()[:16]} is missing. Damaged packs: {damaged or 'none'}.",
                "Nothing was taken from it. Use an older snapshot, or a backup of the store.",
            )
        return place

    def reader(self) -> "Reader":
        """Return a reader; use it as a context manager."""
        return Reader(self._folder, self)

    def writer(self) -> "Writer":
        """Return a writer of one new pack; use it as a context manager."""
        return Writer(self._folder, self)

    def adopt(self, name: str, places: dict[bytes, Place]) -> None:
        """Take in a pack that was just sealed."""
        with self._lock:
            self._names.add(name)
            self._broken.pop(name, None)
            self._places.update(places)

    def sweep(self, needed: AbstractSet[str], before_us: int, *, dry: bool) -> tuple[int, int]:
        """Remove the files of whole packs that are not needed; return how many, and their bytes."""
        count = total = 0
        with self._lock:
            for name in sorted(self._names - self._broken.keys() - needed):
                info = (self._folder / name).stat()
                if info.st_mtime_ns // 1000 < before_us:
                    count, total = count + 1, total + info.st_size
                    if not dry:
                        (self._folder / name).unlink()
                        self._names.discard(name)
        return count, total

    def objects(self) -> Iterator[tuple[bytes, Place]]:
        """Yield every object of every whole pack, duplicates too."""
        self.refresh()
        for name in sorted(self._names - set(self._broken)):
            yield from _read_index(self._folder / name).items()


class Reader:
    """Reads objects, keeping a bounded number of packs open."""

    def __init__(self, folder: Path, packs: Packs) -> None:
        self._folder = folder
        self._packs = packs
        self._open: dict[str, int] = {}
        self._zstd = zstandard.ZstdDecompressor()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def read(self, digest: bytes, check: Check) -> bytes:
        """Return the object; `check` computes its digest. Raises `CorruptSnapshot`."""
        return self.read_at(digest, self._packs.place(digest), check)

    def read_at(self, digest: bytes, place: Place, check: Check) -> bytes:
        """Return the object that lies at `place`. Raises `CorruptSnapshot`."""
        try:
            data = self._fetch(place)
        except (OSError, ValueError, zstandard.ZstdError) as error:
            raise _corrupt(place, digest, str(error)) from error
        if check(data) != digest:
            raise _corrupt(place, digest, "its bytes do not match its digest")
        return data

    def _fetch(self, place: Place) -> bytes:
        stored = os.pread(self._file(place.pack), place.stored, place.offset)
        if len(stored) != place.stored:
            raise ValueError("the file is cut short")
        if zlib.crc32(stored) != place.crc:
            # The digest would not tell for bits that zstd passes over.
            raise ValueError("its stored bytes have changed")
        if place.how == _PLAIN:
            return stored
        data = self._zstd.decompress(stored, max_output_size=place.raw)
        if len(data) != place.raw:
            raise ValueError("its length is wrong")
        return data

    def _file(self, name: str) -> int:
        fd = self._open.get(name)
        if fd is None:
            if len(self._open) >= _OPEN_PACKS_MAX:
                os.close(self._open.pop(next(iter(self._open))))
            fd = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
            self._open[name] = fd
        return fd


class Writer:
    """Writes one pack. Leaving the block without `seal` leaves nothing behind."""

    def __init__(self, folder: Path, packs: Packs) -> None:
        self._folder = folder
        self._packs = packs
        self._temporary = folder / f"tmp-{secrets.token_hex(8)}"
        self._file: BinaryIO | None = None
        self._places: dict[bytes, tuple[int, int, int, int, int]] = {}
        self._at = 0
        self.met: set[bytes] = set()
        """Every object that was asked for or written: all that the snapshot consists of."""
        self._zstd = zstandard.ZstdCompressor(level=1, write_content_size=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._file is not None:
            # A full disk makes close fail as well; the file goes away all the same.
            with contextlib.suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise StoreFull(
                "E-STORE-FULL",
                "There is no room for a snapshot; nothing was stored.",
                "Free some space and try again.",
            ) from error

    def has(self, digest: bytes) -> bool:
        """Say whether the object is here or in an older pack."""
        found = digest in self._places or self._packs.has(digest)
        if found:
            self.met.add(digest)
        return found

    def put(self, digest: bytes, data: bytes) -> None:
        """Write the object unless it is there already."""
        if not self.has(digest):
            self.write(digest, data)

    def write(self, digest: bytes, data: bytes) -> None:
        """Write the object, whatever older packs hold."""
        self.met.add(digest)
        if digest in self._places:
            return
        file = self._file or self._begin()
        packed = self._zstd.compress(data)
        how, stored = (_ZSTD, packed) if len(packed) < len(data) else (_PLAIN, data)
        file.write(stored)
        self._places[digest] = (self._at, len(stored), len(data), how, zlib.crc32(stored))
        self._at += len(stored)

    def seal(self, name: str) -> None:
        """Make the pack durable under its name. A pack of that name already there is kept."""
        file = self._file or self._begin()
        index = b"".join(_INDEX.pack(d, *place) for d, place in self._places.items())
        file.write(index)
        checksum = hashlib.sha256(index).digest()
        file.write(_TRAILER.pack(self._at, len(self._places), checksum, _END))
        file.flush()
        os.fsync(file.fileno())
        final = self._folder / (name + _SUFFIX)
        if _publish(self._temporary, final, replace=bool(self._packs.damage(name))):
            _sync_folder(self._folder)
            own = {d: Place(final.name, *place) for d, place in self._places.items()}
            self._packs.adopt(final.name, own)

    def _begin(self) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._temporary, flags, 0o600), "wb", buffering=1 << 20)
        self._file.write(_MAGIC)
        self._at = len(_MAGIC)
        return self._file


def _publish(temporary: Path, final: Path, *, replace: bool) -> bool:
    """Give the file its name unless the name is taken: others may rely on what is there.

    With `replace` what is there is known to be damaged, and nobody can.
    """
    if replace:
        temporary.replace(final)
        return True
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if final.exists():  # a file system without hard links
            return False
        temporary.rename(final)
    return True


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_index(path: Path) -> dict[bytes, Place]:
    """Return the index of a pack. Raises `ValueError` when the pack is torn or not a pack."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(_MAGIC) + _TRAILER.size:
            raise ValueError("torn: shorter than an empty pack")
        file.seek(size - _TRAILER.size)
        at, count, checksum, end = _TRAILER.unpack(file.read(_TRAILER.size))
        if end != _END or at + count * _INDEX.size + _TRAILER.size != size:
            raise ValueError("torn: its end is missing")
        file.seek(0)
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not a pack")
        file.seek(at)
        index = file.read(count * _INDEX.size)
    if hashlib.sha256(index).digest() != checksum:
        raise ValueError("its index is damaged")
    return {d: Place(path.name, *place) for d, *place in _INDEX.iter_unpack(index)}


def _corrupt(place: Place, digest: bytes, why: str) -> CorruptSnapshot:
    return CorruptSnapshot(
        "E-SNAPSHOT-CORRUPT",
        f"Object {digest.hex()[:16]} in {place.pack} is damaged: {why}.",
        "Nothing was taken from it. Use an older snapshot, or a backup of the store.",
    )
