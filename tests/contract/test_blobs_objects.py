"""Blobs in an object store: the format of a directory, and the errors of every store."""

import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from obstore.store import LocalStore, MemoryStore

from perdure.core.errors import CorruptJournal, InvalidRequest, PerdureError, StoreFull, Unavailable
from perdure.stores.blobs import REFRESH_US, DirectoryBlobs
from perdure.stores.objects import ObjectBlobs, open_blobs, path_of
from perdure.testing.store_harness import refused
from tests.contract.s3_double import S3Double, s3_double

TEXT = b"the same again " * 1000
NOISE = Random(0).randbytes(100_000)
SECRET = "wJalrXUtnFEMI-not-for-logs"


class Hands:
    """A clock that stands where it is put."""

    def __init__(self, us: int) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1_000_000


@pytest.fixture
async def s3(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Double]:
    async with s3_double() as (double, address):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield double


async def test_s3_keeps_them_once_below_the_prefix(s3: S3Double) -> None:
    blobs = ObjectBlobs.at("s3://bucket/team/blobs/")
    digest = await blobs.put(TEXT)
    assert digest == sha256(TEXT).hexdigest()
    assert list(s3.objects) == [f"team/blobs/{digest[:2]}/{digest}"]
    assert len(s3.objects[f"team/blobs/{digest[:2]}/{digest}"]) < len(TEXT) / 10
    s3.now_s = 4_000_000_000.0  # far ahead of every clock: nothing that is there is old
    s3.at_s = dict.fromkeys(s3.objects, s3.now_s)
    assert await blobs.put(TEXT) == digest
    assert [r.partition(" ")[0] for r in s3.requests] == ["HEAD", "PUT", "HEAD"]
    assert await blobs.get(digest) == TEXT
    assert s3.authorisations == {"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE"}


async def test_what_fails_for_a_moment_is_tried_again(s3: S3Double) -> None:
    blobs = ObjectBlobs.at("s3://bucket")
    s3.refuse = [503, 503]
    digest = await blobs.put(NOISE)
    s3.refuse = [503]
    assert await blobs.get(digest) == NOISE


async def test_what_fails_for_good_says_so_and_tells_no_secret(s3: S3Double) -> None:
    blobs = ObjectBlobs.at("s3://bucket/p", retry_s=0.0)
    refusals: list[tuple[list[int], type[PerdureError], str]] = [
        ([503] * 2, Unavailable, "E-BLOBS-UNAVAILABLE"),
        ([403], Unavailable, "E-BLOBS-DENIED"),
        ([507] * 2, StoreFull, "E-STORE-FULL"),
    ]
    for answers, kind, code in refusals:
        s3.refuse = answers
        error = await refused(kind, blobs.put(NOISE))
        s3.refuse = []
        assert error.code == code
        assert SECRET not in f"{error}{error.hint}{error.__cause__}"
    s3.refuse = [404]
    error = await refused(Unavailable, blobs.get("0" * 64))
    assert error.code == "E-BLOBS-UNAVAILABLE"  # no bucket is not the same as no blob
    assert (await refused(CorruptJournal, blobs.get("0" * 64))).code == "E-BLOB-MISSING"


async def test_nobody_there_is_no_missing_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    blobs = ObjectBlobs.at("s3://bucket", retry_s=0.0)
    for asked in (blobs.get("0" * 64), blobs.put(TEXT)):
        assert (await refused(Unavailable, asked)).code == "E-BLOBS-UNAVAILABLE"


async def test_they_are_listed_and_thrown_away(s3: S3Double) -> None:
    blobs = ObjectBlobs.at("s3://bucket/p")
    digests = {await blobs.put(data) for data in (TEXT, NOISE)}
    s3.objects["p/readme.txt"] = b"not ours"
    found = [each async for each in blobs.shelved()]
    assert {each.digest for each in found} == digests
    s3.at_s = dict.fromkeys(s3.objects, 1_000.0)
    for digest in digests:
        assert not await blobs.remove(digest, 1_000_000_000)
        assert await blobs.remove(digest, 1_000_000_001)
        assert not await blobs.remove(digest, 1_000_000_001)
    assert list(s3.objects) == ["p/readme.txt"]


async def test_a_bucket_and_a_directory_are_read_alike(tmp_path: Path) -> None:
    directory = DirectoryBlobs(tmp_path / "a")
    digests = [await directory.put(data) for data in (TEXT, NOISE, b"")]
    objects = ObjectBlobs(LocalStore(tmp_path / "a"), "a")
    assert [await objects.get(d) for d in digests] == [TEXT, NOISE, b""]
    other = ObjectBlobs(LocalStore(tmp_path / "b", mkdir=True), "b")
    assert await other.put(TEXT) == digests[0]
    assert await DirectoryBlobs(tmp_path / "b").get(digests[0]) == TEXT


async def test_damage_is_named_and_what_was_cut_is_healed(tmp_path: Path) -> None:
    blobs = ObjectBlobs(LocalStore(tmp_path), "here")
    digest = await blobs.put(TEXT)
    path = tmp_path / path_of(digest)
    path.write_bytes(path.read_bytes()[:-3])
    error = await refused(CorruptJournal, blobs.get(digest))
    assert error.code == "E-BLOB-CORRUPT"
    assert f"here/{path_of(digest)}" in error.message
    await blobs.put(TEXT)
    assert await blobs.get(digest) == TEXT


@pytest.mark.parametrize("kind", ["directory", "objects"])
async def test_what_is_put_again_counts_as_new(tmp_path: Path, kind: str) -> None:
    """So that nothing that is named now is taken by a collection for what nobody names."""
    clock = Hands(0)
    blobs: DirectoryBlobs | ObjectBlobs = DirectoryBlobs(tmp_path, clock=clock)
    if kind == "objects":
        blobs = ObjectBlobs(LocalStore(tmp_path), "here", clock=clock)
    digest = await blobs.put(TEXT)
    [(_, first_us, size)] = [each async for each in blobs.shelved()]
    clock.us = first_us + REFRESH_US - 1
    await blobs.put(TEXT)
    assert [each async for each in blobs.shelved()] == [(digest, first_us, size)]
    clock.us = first_us + REFRESH_US + 1
    await blobs.put(TEXT)
    [(_, again_us, _)] = [each async for each in blobs.shelved()]
    assert again_us > first_us
    assert not await blobs.remove(digest, again_us)
    assert await blobs.remove(digest, again_us + 1)
    assert [each async for each in blobs.shelved()] == []


async def test_a_place_in_memory_works_alike() -> None:
    blobs = ObjectBlobs(MemoryStore(), "memory")
    assert await blobs.get(await blobs.put(NOISE)) == NOISE


@pytest.mark.parametrize(
    "url",
    ["ftp://x/y", "s3://", "s3:bucket", "/srv/blobs", "file://srv", "file:///", "https://x/y", ""],
)
def test_what_names_no_place_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_blobs(url)
    assert caught.value.code == "E-BLOBS-URL"
    assert "s3://bucket" in caught.value.hint


@pytest.mark.parametrize("url", [f"s3://key:{SECRET}@bucket/p", f"az://c/p?sig={SECRET}"])
def test_a_secret_in_an_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_blobs(url)
    assert SECRET not in f"{caught.value}{caught.value.hint}"


async def test_a_directory_is_one_that_syncs(tmp_path: Path) -> None:
    blobs = open_blobs(f"file://{tmp_path}/with%20space")
    assert isinstance(blobs, DirectoryBlobs)
    digest = await blobs.put(TEXT)
    assert (tmp_path / "with space" / path_of(digest)).is_file()


def test_without_the_package_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(Unavailable) as caught:
        open_blobs("s3://bucket/p")
    assert caught.value.code == "E-BLOBS-MISSING"
    assert caught.value.hint == "pip install 'perdure[objects]'"
