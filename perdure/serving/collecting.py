"""Collecting what nothing refers to any more: blobs, and the snapshots that nodes share.

Whoever names a blob or a snapshot put it shortly before, and putting makes it young again. So what
is old is listed first, then everything is read that may name it, and what was not named and is
still old is thrown away. Nothing is locked, and nodes go on working meanwhile.

Any string that looks like a name counts as one, wherever it stands: in an event, a payload, a
letter or a document. A store that cannot be read to its end is not collected at all.
"""

import re
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from perdure.core.errors import Conflict, InvalidRequest
from perdure.core.journal import aside
from perdure.environments.depot import KIND, PARTED, Manifest, Parts, manifest_of
from perdure.ports.blobs import Shelf
from perdure.ports.carrying import KeptDoc
from perdure.ports.clock import Clock
from perdure.ports.store import Doc
from perdure.stores.carrying.reading import CarriableStore

GRACE_S: Final = 24 * 3600.0
"""What is younger is spared. Less would not be safe: see `ports.blobs.Shelf` and the depot."""
_PAGE: Final = 500
_DIGEST: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_SNAPSHOT: Final = re.compile(rb"snap_[0-9a-f]{40}")


class Collected(msgspec.Struct, frozen=True):
    """What was (or would be) thrown away, and what was looked at."""

    blobs: int
    stored_bytes: int
    snapshots: int
    seen_blobs: int
    seen_sessions: int
    live: frozenset[str] = frozenset()


class Collector:
    """One collection. `live` are the snapshots that something refers to, when it is over."""

    def __init__(self, store: CarriableStore, clock: Clock, *, grace_s: float = GRACE_S) -> None:
        if not isinstance(store.blobs, Shelf):
            raise InvalidRequest(
                "E-GC-STORE",
                f"{type(store.blobs).__name__} cannot be collected: blobs there have no age.",
                'blobs = "s3://…" or a directory can.',
            )
        if grace_s < GRACE_S:
            raise InvalidRequest(
                "E-GC-GRACE", f"What is younger than {GRACE_S / 3600:.0f} hours may be in use."
            )
        self._store = store
        self._shelf = store.blobs
        self._limit_us = clock.now_us() - int(grace_s * 1_000_000)
        self._old: dict[str, int] = {}
        self._live: set[str] = set()
        self._read: dict[str, int] = {}
        self._sessions = 0

    async def run(self, *, dry: bool = False) -> Collected:
        """Collect, or say what would be. Raises what reading the store raises: then nothing that
        is in doubt was thrown away.
        """
        seen = 0
        async for each in self._shelf.shelved():
            seen += 1
            if each.put_us < self._limit_us:
                self._old[each.digest] = each.stored_bytes
        manifests, parted = await self._documents()
        for row in await self._store.sessions():
            await self._session(row.id)
        dead = await self._snapshots(manifests, parted, dry=dry)
        blobs = stored_bytes = 0
        for digest, size in self._old.items():
            if dry or await self._shelf.remove(digest, self._limit_us):
                blobs += 1
                stored_bytes += size
        return Collected(blobs, stored_bytes, dead, seen, self._sessions, frozenset(self._live))

    async def _documents(self) -> tuple[list[KeptDoc], dict[str, KeptDoc]]:
        """Mark what documents name; return those of the depot, which are looked at last."""
        manifests: list[KeptDoc] = []
        parted: dict[str, KeptDoc] = {}
        after: tuple[str, str] | None = None
        while page := await self._store.kept_docs(after):
            for doc in page:
                if doc.kind == KIND:
                    manifests.append(doc)
                elif doc.kind == PARTED:
                    parted[_bare(doc.name)] = doc
                else:
                    self._mark(doc.data or b"")
            after = page[-1][:2]
        return manifests, parted

    async def _session(self, name: str) -> None:
        """Mark what a session names: its events, those that it shares but once, its letters."""
        kept = await self._store.kept(name)
        if kept is None:
            return
        self._sessions += 1
        for letter in kept.letters:
            self._mark(letter.body or b"")
        at = 0
        for stretch in kept.past:
            if self._read.get(stretch.holder, 0) < stretch.until:
                async for data in self._events(name, at, stretch.until):
                    self._mark(data)
                self._read[stretch.holder] = stretch.until
            at = stretch.until

    async def _events(self, name: str, at: int, until: int) -> AsyncIterator[bytes]:
        while at < until:
            page = await self._store.read(name, at, min(_PAGE, until - at))
            if not page:
                return  # it was deleted meanwhile
            for record in page:
                at = record.seq
                yield record.data
                if (where := aside(record)) is not None:
                    yield await self._store.blobs.get(where.blob)

    def _mark(self, data: bytes) -> None:
        for found in _DIGEST.findall(data):
            self._old.pop(found.decode(), None)
        self._live.update(found.decode() for found in _SNAPSHOT.findall(data))

    async def _snapshots(
        self, manifests: list[KeptDoc], parted: dict[str, KeptDoc], *, dry: bool
    ) -> int:
        """Mark what live snapshots need and forget the others; return how many those are."""
        dead, needed = 0, set[str]()
        for doc in manifests:
            manifest = _manifest(doc)
            if manifest is None:
                continue
            old = manifest.at_us < self._limit_us and _bare(doc.name) not in self._live
            if old and (dry or await self._forget(doc)):
                dead += 1
                continue
            if old:  # somebody has pushed it just now
                manifest = manifest_of(await self._store.doc(KIND, doc.name)) or manifest
            for kept in manifest.packs:
                self._old.pop(kept.blob, None)
                if kept.parts:
                    needed.add(kept.blob)
        for name, doc in parted.items():
            parts = msgspec.json.decode(doc.data, type=Parts) if doc.data else None
            if parts is None:
                continue
            old = parts.at_us < self._limit_us and name not in needed
            if old and (dry or await self._forget(doc)):
                continue
            for blob in parts.blobs:
                self._old.pop(blob, None)
        return dead

    async def _forget(self, doc: KeptDoc) -> bool:
        """Empty a document, unless somebody has written it since it was read."""
        try:
            await self._store.put_doc(doc.kind, doc.name, b"", expect=doc.version)
        except Conflict:
            return False
        return True


def _manifest(doc: KeptDoc) -> Manifest | None:
    return manifest_of(Doc(doc.name, doc.version, doc.data)) if doc.data else None


def _bare(name: str) -> str:
    """Return a document's name without its project."""
    return name.rpartition("\x1f")[2]
