"""Blobs: kept once, by their content, and never handed out wrong."""

import asyncio
import fcntl
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
import zstandard
from obstore.store import LocalStore, MemoryStore

from perdure.core.errors import CorruptJournal, InvalidRequest, Unavailable
from perdure.ports.blobs import Blobs
from perdure.stores import blobs as module
from perdure.stores.blobs import DirectoryBlobs, MemoryBlobs
from perdure.stores.objects import ObjectBlobs
from perdure.stores.offload import Inline
from perdure.testing.store_harness import refused

TEXT = b"the same again " * 1000
NOISE = Random(0).randbytes(100_000)


@pytest.fixture(params=["memory", "directory", "inline", "objects", "object files"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "memory":
        return MemoryBlobs()
    if request.param == "objects":
        return ObjectBlobs(MemoryStore(), "memory")
    if request.param == "object files":
        return ObjectBlobs(LocalStore(tmp_path), "here")
    return DirectoryBlobs(
        tmp_path / "blobs", offload=Inline() if request.param == "inline" else None
    )


@pytest.fixture
def directory(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path / "deep" / "blobs")


@pytest.mark.parametrize("data", [b"", b"\0", TEXT, NOISE, zstandard.compress(TEXT)])
async def test_what_was_put_is_got(blobs: Blobs, data: bytes) -> None:
    digest = await blobs.put(data)
    assert digest == sha256(data).hexdigest()
    assert await blobs.get(digest) == data
    assert await blobs.put(data) == digest
    assert await blobs.get(digest) == data


@pytest.mark.parametrize("digest", ["0" * 64, "", "../../../etc/passwd", "0" * 63 + "\0", "Z" * 64])
async def test_what_is_not_there_is_missing(blobs: Blobs, digest: str) -> None:
    assert (await refused(CorruptJournal, blobs.get(digest))).code == "E-BLOB-MISSING"


async def test_later_changes_do_not_matter(blobs: Blobs) -> None:
    data = bytearray(TEXT)
    putting = asyncio.ensure_future(blobs.put(data))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    data[:] = b""
    assert await blobs.get(await putting) == TEXT


async def test_the_same_content_is_kept_once(directory: DirectoryBlobs) -> None:
    await asyncio.gather(*(directory.put(TEXT) for _ in range(10)))
    assert len(files(directory)) == 1
    assert leftovers(directory) == []


async def test_it_is_compressed_where_that_helps(directory: DirectoryBlobs) -> None:
    text, noise = await directory.put(TEXT), await directory.put(NOISE)
    assert directory.path(text).stat().st_size < len(TEXT) / 10
    assert directory.path(noise).read_bytes() == NOISE


@pytest.mark.parametrize("data", [TEXT, NOISE])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
async def test_damage_is_named_and_healed(
    directory: DirectoryBlobs, data: bytes, damage: str
) -> None:
    digest = await directory.put(data)
    path = directory.path(digest)
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2] ^= 1
    path.write_bytes({"flip": bytes(stored), "cut": bytes(stored[:-9]), "empty": b""}[damage])
    error = await refused(CorruptJournal, directory.get(digest))
    assert error.code == "E-BLOB-CORRUPT"
    assert digest in error.message
    await directory.put(data)
    assert await directory.get(digest) == data


async def test_a_bomb_is_not_unpacked(directory: DirectoryBlobs) -> None:
    digest = await directory.put(TEXT)
    size = module.BLOB_MAX_BYTES + 1
    header = zstandard.ZstdCompressor().compressobj(size=size)
    directory.path(digest).write_bytes(header.compress(b"x") + header.flush(1))
    assert (await refused(CorruptJournal, directory.get(digest))).code == "E-BLOB-CORRUPT"


async def test_what_is_too_large_is_refused(directory: DirectoryBlobs) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return module.BLOB_MAX_BYTES + 1

    assert (await refused(InvalidRequest, directory.put(Huge()))).code == "E-BLOB-SIZE"


async def test_what_the_dead_left_is_swept_and_the_living_are_not(tmp_path: Path) -> None:
    incoming = tmp_path / "blobs" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "dead").write_bytes(b"half of it")
    with (incoming / "alive").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        blobs = DirectoryBlobs(tmp_path / "blobs")
        await blobs.put(TEXT)
    assert [path.name for path in incoming.iterdir()] == ["alive"]


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    blobs = DirectoryBlobs(tmp_path / "blobs")
    assert (await refused(Unavailable, blobs.put(TEXT))).code == "E-STORE-READONLY"
    assert (await refused(Unavailable, blobs.get("0" * 64))).code == "E-STORE-READONLY"


async def test_reading_makes_nothing(directory: DirectoryBlobs) -> None:
    await refused(CorruptJournal, directory.get("0" * 64))
    assert not directory.root.exists()


def files(blobs: DirectoryBlobs) -> list[Path]:
    return [path for path in blobs.root.glob("??/*") if path.is_file()]


def leftovers(blobs: DirectoryBlobs) -> list[Path]:
    return list((blobs.root / "incoming").iterdir())
