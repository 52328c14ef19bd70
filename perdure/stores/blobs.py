"""Large payloads by the hash of their content: in memory, and in a directory.

A file's name is the SHA-256 of the plain content, so the same content is kept once and what is
read back can be checked, however it was compressed.
"""

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import zstandard

from perdure.core.errors import CorruptJournal, InvalidRequest, Unavailable
from perdure.ports.blobs import Shelved
from perdure.ports.clock import Clock
from perdure.stores import refusals
from perdure.stores.files import sync_folder, try_lock
from perdure.stores.offload import Offload, Threads
from perdure.stores.system import SystemClock

BLOB_MAX_BYTES: Final = 1024 * 1024 * 1024
REFRESH_US: Final = 6 * 3600 * 1_000_000
"""What is put again counts as new if it is older than this; see `ports.blobs.Shelf`."""
_LEVEL: Final = 1
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_WORTH: Final = 0.9  # compressed only if it saves a tenth


class MemoryBlobs:
    """Blobs that live as long as their `MemoryDisk`."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        """See `Blobs.put`."""
        digest = sha256(data).hexdigest()
        self._data.setdefault(digest, bytes(data))
        return digest

    async def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        found = self._data.get(digest)
        if found is None:
            raise missing(digest)
        return found


class DirectoryBlobs:
    """Blobs as files below `root`, which is made when the first one comes."""

    def __init__(
        self,
        root: str | Path,
        *,
        fsync: bool = True,
        offload: Offload | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.root = Path(root)
        self._clock = clock or SystemClock()
        self._fsync = fsync
        self._offload = offload or Threads()
        self._incoming = self.root / "incoming"
        self._ready = False

    async def put(self, data: bytes) -> str:
        """See `Blobs.put`. Raises `InvalidRequest` (E-BLOB-SIZE) for more than 1 GiB."""
        check_size(data)
        kept = bytes(data)
        return await self._offload.call(lambda: self._put(kept))

    async def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        return await self._offload.call(lambda: self._get(digest))

    async def shelved(self) -> AsyncIterator[Shelved]:
        """See `Shelf.shelved`."""
        for folder in await self._offload.call(lambda: sorted(self.root.glob("??"))):
            for each in await self._offload.call(partial(_times, folder)):
                yield each

    async def remove(self, digest: str, before_us: int) -> bool:
        """See `Shelf.remove`."""
        return await self._offload.call(lambda: self._remove(self.path(digest), before_us))

    def _remove(self, path: Path, before_us: int) -> bool:
        try:
            if path.stat().st_mtime_ns // 1000 >= before_us:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise refusals.of_os_error(error, self.root) from error
        return True

    def path(self, digest: str) -> Path:
        """Where the blob of that name is, or would be."""
        return self.root / digest[:2] / digest

    def _put(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        path = self.path(digest)
        try:
            if not self._is_there(path, digest):
                self._make_folders(path)
                self._write(path, packed(data))
            elif self._clock.now_us() - path.stat().st_mtime_ns // 1000 > REFRESH_US:
                os.utime(path)
            # Also for one that was there: whoever wrote it may not have come this far yet.
            self._sync(path.parent)
            self._sync(self.root)
        except OSError as error:
            raise refusals.of_os_error(error, self.root) from error
        return digest

    def _get(self, digest: str) -> bytes:
        if not is_digest(digest):
            raise missing(digest)
        try:
            stored = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise missing(digest) from None
        except OSError as error:
            raise refusals.of_os_error(error, self.root) from error
        data = unpacked(stored, digest)
        if data is None:
            raise damaged(digest, self.path(digest))
        return data

    def _is_there(self, path: Path, digest: str) -> bool:
        """A damaged file counts as absent: here is its content again, so it can be healed."""
        try:
            return unpacked(path.read_bytes(), digest) is not None
        except FileNotFoundError:
            return False

    def _make_folders(self, path: Path) -> None:
        if not self._ready:
            self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            self._sync(self.root.parent)
            self._ready = True
        path.parent.mkdir(mode=0o700, exist_ok=True)

    def _sweep(self) -> None:
        """Remove what processes left that died while writing; the living hold a lock on theirs."""
        for path in self._incoming.iterdir():
            try:
                fd = try_lock(path)
            except FileNotFoundError:
                continue
            if fd is not None:
                path.unlink(missing_ok=True)
                os.close(fd)

    def _write(self, path: Path, stored: bytes) -> None:
        name, fd = self._temporary()
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(stored)
                file.flush()
                if self._fsync:
                    os.fsync(fd)
                name.replace(path)
        except OSError:
            name.unlink(missing_ok=True)
            raise

    def _temporary(self) -> tuple[Path, int]:
        for _ in range(10):
            name = self._incoming / secrets.token_hex(16)
            fd = try_lock(name, create=True)
            if fd is not None:  # else somebody sweeps, and took the new file for a leftover
                return name, fd
        raise Unavailable("E-STORE-BUSY", f"{self._incoming} is being swept without an end.")

    def _sync(self, folder: Path) -> None:
        if self._fsync:
            sync_folder(folder)


def _times(folder: Path) -> list[Shelved]:
    found: list[Shelved] = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if is_digest(path.name):
                info = path.stat()
                found.append(Shelved(path.name, info.st_mtime_ns // 1000, info.st_size))
    return found


def check_size(data: bytes) -> None:
    """Raise `InvalidRequest` (E-BLOB-SIZE) for more than a store takes."""
    if len(data) > BLOB_MAX_BYTES:
        raise InvalidRequest(
            "E-BLOB-SIZE",
            f"A payload of {len(data)} bytes is more than the {BLOB_MAX_BYTES} a store takes.",
        )


def missing(digest: str) -> CorruptJournal:
    """Nothing has this name."""
    return CorruptJournal(
        "E-BLOB-MISSING",
        f"The payload {digest} is not in the store.",
        "Restore it from a backup: the directory of blobs belongs to the database.",
    )


def damaged(digest: str, path: Path | str) -> CorruptJournal:
    """The file is there, and is not what its name says."""
    return CorruptJournal(
        "E-BLOB-CORRUPT",
        f"The payload {digest} is not what was stored: {path} was changed or is damaged.",
        "Restore that file from a backup.",
    )


def is_digest(text: str) -> bool:
    """Whether the text can name a blob."""
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


def packed(data: bytes) -> bytes:
    """Return what is stored for that content: compressed, where this saves a tenth."""
    small = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    return small if len(small) < _WORTH * len(data) else data


def unpacked(stored: bytes, digest: str) -> bytes | None:
    """Return the content with that digest, or None when this is not it."""
    if stored.startswith(_MAGIC):
        data = _decompressed(stored)
        if data is not None and sha256(data).hexdigest() == digest:
            return data
    # Also for what looks compressed: the content itself may be such a file.
    return stored if sha256(stored).hexdigest() == digest else None


def _decompressed(stored: bytes) -> bytes | None:
    try:
        size = zstandard.frame_content_size(stored)
        if not 0 <= size <= BLOB_MAX_BYTES:
            return None
        return zstandard.ZstdDecompressor().decompress(stored)
    except zstandard.ZstdError:
        return None
