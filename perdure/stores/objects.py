"""Blobs in an object store: S3 and what speaks like it, Google Cloud Storage, Azure.

The names and the bytes are those of `DirectoryBlobs`, so a bucket and a directory can be copied
into one another. Credentials are the provider's business, by the variables of its own tools; none
is read from an address or shown. `obstore` is imported here only, and late.

A directory (`file:///…`) is not given to `obstore`: it does not sync what it writes, and a blob
that was answered must outlive a power cut.
"""

import asyncio
import re
from collections.abc import Awaitable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from perdure.core.errors import InvalidRequest, PerdureError, Unavailable
from perdure.ports.blobs import Blobs, Shelved
from perdure.ports.clock import Clock
from perdure.stores import refusals
from perdure.stores.blobs import (
    REFRESH_US,
    DirectoryBlobs,
    check_size,
    damaged,
    is_digest,
    missing,
    packed,
    unpacked,
)
from perdure.stores.system import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from obstore.store import ObjectStore

T = TypeVar("T")

_CLOUDS: Final = ("s3", "gs", "az")
_RETRY_S: Final = 120.0
_NO_ROOM: Final = re.compile(
    r"os error (28|122|27)\b|No space left|StorageFull|QuotaExceeded|507 Insufficient"
)
_NO_BUCKET: Final = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_DENIED: Final = re.compile(r"\b40[13] (Forbidden|Unauthorized)|InvalidAccessKeyId|Signature")
_QUERY: Final = re.compile(r"\?\S*")  # an address may carry a signature behind its question mark


class ObjectBlobs:
    """Blobs as objects of `store`, an object store that obstore has opened. Make it with `at`."""

    def __init__(self, store: "ObjectStore", where: str, *, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._where = where

    @classmethod
    def at(cls, url: str, *, retry_s: float = _RETRY_S) -> "ObjectBlobs":
        """Open `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; nothing is
        asked yet. What fails for a moment is tried again for `retry_s` seconds.

        Raises `InvalidRequest` (E-BLOBS-URL), `Unavailable` (E-BLOBS-MISSING).
        """
        check_url(url)
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as error:
            raise Unavailable(
                "E-BLOBS-MISSING",
                f"{_shown(url)} needs the package obstore, which is not installed.",
                "pip install 'perdure[objects]'",
            ) from error
        # Few tries would be over before the time is; the time is what is promised.
        limits: Any = {"max_retries": 60, "retry_timeout": timedelta(seconds=retry_s)}
        try:
            return cls(from_url(url, retry_config=limits), _shown(url))
        except (BaseError, ValueError) as error:
            raise _bad_url(url, _first_line(error)) from error

    async def put(self, data: bytes) -> str:
        """See `Blobs.put`. Raises `Unavailable` (E-BLOBS-…) when the object store refuses."""
        import obstore

        check_size(data)
        kept = bytes(data)
        digest = await asyncio.to_thread(lambda: sha256(kept).hexdigest())
        stored = await asyncio.to_thread(packed, kept)
        path = path_of(digest)
        if not await self._is_there(path, len(stored)):
            # Written over, not created: the content is the same, and whoever is first has won.
            await self._told(obstore.put_async(self._store, path, stored))
        return digest

    async def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        import obstore

        if not is_digest(digest):
            raise missing(digest)
        path = path_of(digest)

        async def fetch() -> bytes:
            found = await obstore.get_async(self._store, path)
            return bytes(await found.bytes_async())

        try:
            stored = await self._told(fetch())
        except FileNotFoundError:
            raise missing(digest) from None
        data = await asyncio.to_thread(unpacked, stored, digest)
        if data is None:
            raise damaged(digest, f"{self._where}/{path}")
        return data

    async def shelved(self) -> "AsyncIterator[Shelved]":
        """See `Shelf.shelved`."""
        import obstore

        stream = obstore.list(self._store, chunk_size=1000)
        while True:
            try:
                page = await self._told(anext(stream))
            except StopAsyncIteration:
                return
            for each in page:
                name = each["path"].rpartition("/")[2]
                if is_digest(name):
                    yield Shelved(name, _us(each["last_modified"]), each["size"])

    async def remove(self, digest: str, before_us: int) -> bool:
        """See `Shelf.remove`. Nothing here deletes on a condition, so it is asked just before."""
        import obstore

        path = path_of(digest)
        try:
            found = await self._told(obstore.head_async(self._store, path))
            if _us(found["last_modified"]) >= before_us:
                return False
            await self._told(obstore.delete_async(self._store, path))
        except FileNotFoundError:
            return False
        return True

    async def _is_there(self, path: str, size: int) -> bool:
        """Whether it is there and stays: one that is old is written anew, so that no collection of
        what nobody names takes it meanwhile; and so is one that was cut.
        """
        import obstore

        try:
            found = await self._told(obstore.head_async(self._store, path))
        except FileNotFoundError:
            return False
        age_us = self._clock.now_us() - _us(found["last_modified"])
        return found["size"] == size and age_us < REFRESH_US

    async def _told(self, asked: Awaitable[T]) -> T:
        """Wait for an answer, in our errors. Raises `FileNotFoundError` for what is not there."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            return await asked
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise self._failed(error) from error
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise self._denied(error) from error
        except (BaseError, OSError) as error:
            if _NO_ROOM.search(str(error)):
                raise refusals.full(self._where) from error
            if _DENIED.search(_first_line(error)):
                raise self._denied(error) from error
            raise self._failed(error) from error

    def _denied(self, error: Exception) -> PerdureError:
        return Unavailable(
            "E-BLOBS-DENIED",
            f"{self._where} does not let us in: {_first_line(error)}.",
            "Give this process the provider's own variables: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME "
            "and AZURE_STORAGE_ACCOUNT_KEY.",
        )

    def _failed(self, error: Exception) -> PerdureError:
        return Unavailable(
            "E-BLOBS-UNAVAILABLE",
            f"{self._where} cannot be used: {_first_line(error)}. What was acknowledged is safe.",
            "Look whether the bucket exists and can be reached from here; work goes on from what "
            "is stored.",
        )


def open_blobs(url: str) -> Blobs:
    """Return the blobs at an address: `file:///directory`, or see `ObjectBlobs.at`.

    Raises `InvalidRequest` (E-BLOBS-URL), `Unavailable` (E-BLOBS-MISSING).
    """
    check_url(url)
    if url.startswith("file:///"):
        return DirectoryBlobs(Path(unquote(urlsplit(url).path)))
    return ObjectBlobs.at(url)


def check_url(url: str) -> None:
    """Raise `InvalidRequest` (E-BLOBS-URL) for what names no place, or tells a secret."""
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _bad_url(
            f"{parts.scheme}://…", "credentials and options do not belong in it, and are not shown"
        )
    known = parts.scheme in _CLOUDS and bool(parts.netloc)
    if not known and not (url.startswith("file:///") and parts.path.strip("/")):
        raise _bad_url(url, "no such place is known")


def path_of(digest: str) -> str:
    """Return where a blob is below the prefix: as in a directory."""
    return f"{digest[:2]}/{digest}"


def _us(moment: "datetime") -> int:
    return int(moment.timestamp() * 1_000_000)


def _shown(url: str) -> str:
    return url.rstrip("/")


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return _QUERY.sub("?…", line)[:300]


def _bad_url(url: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        "E-BLOBS-URL",
        f"{url!r} cannot hold blobs: {why}.",
        "Write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or file:///directory;"
        " credentials come from the provider's variables.",
    )
