"""The depot: snapshots where every node finds them.

A snapshot on this machine lies in packs. In the depot each pack is a blob, a large one several, and
a document of the store says which packs a snapshot needs. So what is pushed is what is new, in few
requests however many files there are, and a node that takes a session over fetches a bounded number
of packs.

A push is over when all of it is durable: only then may an event name the snapshot. What nobody
names any more may be collected, sparing what was put less than a day ago. So nothing is taken for
there because it once was: after six hours it is put again, which costs a question.
"""

import asyncio
import errno
import secrets
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from perdure.core.codec import canonical, digest
from perdure.core.errors import NotFound, PerdureError, StoreFull, Unavailable
from perdure.environments.packs import Packs
from perdure.environments.snapshots import Snapshots, Taken
from perdure.ports.blobs import Blobs
from perdure.ports.clock import Clock
from perdure.ports.sandbox import CorruptSnapshot
from perdure.ports.store import Doc

T = TypeVar("T")

KIND: Final = "snapshot"
"""The documents that say which packs a snapshot needs; their names are the snapshots' ids."""
PARTED: Final = "snapshot.pack"
"""The documents that say of which blobs a large pack consists."""
PART_BYTES: Final = 8 * 1024 * 1024
FRESH_US: Final = 6 * 3600 * 1_000_000
_AT_ONCE: Final = 8
_KNOWN_MAX: Final = 20_000
_PREFIX: Final = "depot-"
_NOTES: Final = "depot"


class Catalogue(Protocol):
    """The documents of a store. Every `Store` is one."""

    async def put_doc(
        self, kind: str, name: str, data: bytes, *, expect: int | None = None
    ) -> int: ...

    async def doc(self, kind: str, name: str) -> Doc | None: ...


class Kept(msgspec.Struct, frozen=True):
    """A pack in the depot. `blob` is the pack itself, or, with `parts`, the name of the document
    that lists so many blobs.
    """

    blob: str
    size: int
    parts: int = 0


class Parts(msgspec.Struct, frozen=True):
    """The blobs of a large pack, each of `part_bytes` but the last."""

    at_us: int
    part_bytes: int
    blobs: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot needs. None of it was put before `at_us` (microseconds)."""

    format: int
    at_us: int
    packs: tuple[Kept, ...]


class Note(msgspec.Struct, frozen=True):
    """That a pack of this machine is in the depot: the manifest of `snapshot` names it."""

    kept: Kept
    snapshot: str
    at_us: int


class Depot:
    """The snapshots of all nodes that share a store. One for a project."""

    def __init__(self, blobs: Blobs, catalogue: Catalogue, clock: Clock) -> None:
        self._blobs = blobs
        self._catalogue = catalogue
        self._clock = clock
        self._pushed: dict[str, int] = {}
        self._notes: dict[Path, Note] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def push(self, packs: Packs, taken: Taken) -> None:
        """Make a snapshot durable for all nodes. Raises `StoreFull`, `Unavailable`."""
        if self._is_fresh(self._pushed.get(taken.name, 0)):
            return
        manifest = manifest_of(await self._catalogue.doc(KIND, taken.name))
        if manifest is None or not self._is_fresh(manifest.at_us):
            now_us = self._clock.now_us()
            found = await _every([self._kept(packs, file, now_us) for file in taken.packs])
            notes = [old or Note(kept, taken.name, now_us) for kept, old in found]
            oldest_us = min(note.at_us for note in notes)
            manifest = Manifest(1, oldest_us, tuple(kept for kept, _ in found))
            await self._catalogue.put_doc(KIND, taken.name, canonical(manifest))
            for file, note in zip(taken.packs, notes, strict=True):
                await self._note(packs.folder / file, note)
        if len(self._pushed) >= _KNOWN_MAX:
            self._pushed.clear()
        self._pushed[taken.name] = manifest.at_us

    async def fetch(self, snapshots: Snapshots, name: str) -> None:
        """Bring a snapshot to this machine, unless it is here.

        Raises `NotFound` (E-SNAPSHOT-MISSING) when it is nowhere, `CorruptSnapshot`,
        `CorruptJournal` for a blob that is missing, `Unavailable`.
        """
        packs = snapshots.packs
        if await asyncio.to_thread(packs.sealed, name):
            return
        manifest = manifest_of(await self._catalogue.doc(KIND, name))
        if manifest is None:
            raise NotFound(
                "E-SNAPSHOT-MISSING",
                f"The snapshot {name} is neither on this machine nor where all nodes find it.",
                "It was taken before nodes shared their snapshots, perhaps: go on with the session "
                "on the machine where it was, or fork it at another event.",
            )
        here = await asyncio.to_thread(_known, packs.folder / _NOTES)
        missing = [kept for kept in manifest.packs if kept.blob not in here]
        files = await _every([self._bring(packs, kept) for kept in missing])
        await asyncio.to_thread(snapshots.adopt, name)
        for file, kept in zip(files, missing, strict=True):
            await self._note(packs.folder / file, Note(kept, name, manifest.at_us))

    async def _kept(self, packs: Packs, file: str, now_us: int) -> tuple[Kept, Note | None]:
        """Return where a pack is in the depot, putting it there unless a note says that it is."""
        known = await self._noted(packs.folder / file)
        if known is not None:
            return known.kept, known
        size = await asyncio.to_thread(packs.size, file)
        if not size:
            raise CorruptSnapshot("E-SNAPSHOT-CORRUPT", f"{file} is not there any more.", "")
        starts = range(0, size, PART_BYTES)
        blobs = await _every([self._put(packs.folder / file, at) for at in starts])
        if len(blobs) == 1:
            return Kept(blobs[0], size), None
        name = digest(blobs)
        parts = Parts(now_us, PART_BYTES, tuple(blobs))
        await self._catalogue.put_doc(PARTED, name, canonical(parts))
        return Kept(name, size, len(blobs)), None

    async def _put(self, path: Path, at: int) -> str:
        async with self._turns:
            return await self._blobs.put(await asyncio.to_thread(_part, path, at))

    async def _bring(self, packs: Packs, kept: Kept) -> str:
        """Fetch a pack into a file of its own. Its content is checked when it is used."""
        file = packs.file(_PREFIX + kept.blob[:40])
        temporary = packs.folder / f"tmp-{secrets.token_hex(8)}"
        parts = await parts_of(kept, self._catalogue)
        try:
            temporary.touch(mode=0o600)
            places = ((blob, i * parts.part_bytes) for i, blob in enumerate(parts.blobs))
            await _every([self._get(temporary, blob, at) for blob, at in places])
            await asyncio.to_thread(temporary.replace, packs.folder / file)
        except OSError as error:
            raise _no_room(error, packs.folder) from error
        finally:
            temporary.unlink(missing_ok=True)
        return file

    async def _get(self, path: Path, blob: str, at: int) -> None:
        async with self._turns:
            await asyncio.to_thread(_write_at, path, at, await self._blobs.get(blob))

    async def _noted(self, path: Path) -> Note | None:
        """Return what was noted about a pack of ours, if it is recent and still true.

        A note outlives the process, and perhaps the store: one that was restored from a backup
        does not have what was pushed since. So the first time it is held against the store.
        """
        known = self._notes.get(path)
        if known is None and (read := await asyncio.to_thread(_read_note, path)) is not None:
            manifest = manifest_of(await self._catalogue.doc(KIND, read.snapshot))
            known = read if manifest and read.kept in manifest.packs else None
        return known if known is not None and self._is_fresh(known.at_us) else None

    async def _note(self, path: Path, note: Note) -> None:
        if self._notes.get(path) != note:
            await asyncio.to_thread(_write_note, path, note)
        if len(self._notes) >= _KNOWN_MAX:
            self._notes.clear()
        self._notes[path] = note

    def _is_fresh(self, at_us: int) -> bool:
        return abs(self._clock.now_us() - at_us) < FRESH_US


def manifest_of(doc: Doc | None) -> Manifest | None:
    """Return what a document says; None for none, and for one that was collected.

    Raises `CorruptSnapshot`.
    """
    if doc is None or not doc.data:
        return None
    try:
        return msgspec.json.decode(doc.data, type=Manifest)
    except msgspec.DecodeError as error:
        raise CorruptSnapshot(
            "E-SNAPSHOT-CORRUPT", f"What the store says about {doc.name} cannot be read.", ""
        ) from error


async def parts_of(kept: Kept, catalogue: Catalogue) -> Parts:
    """Return the blobs that a pack consists of. Raises `CorruptSnapshot`."""
    if not kept.parts:
        return Parts(0, 0, (kept.blob,))
    doc = await catalogue.doc(PARTED, kept.blob)
    try:
        return msgspec.json.decode(doc.data if doc else b"", type=Parts)
    except msgspec.DecodeError as error:
        raise CorruptSnapshot(
            "E-SNAPSHOT-CORRUPT", f"The store does not say what {kept.blob} consists of.", ""
        ) from error


async def _every(jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all at once; when one fails, end the others and raise its error."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _note_of(path: Path) -> Path:
    return path.parent / _NOTES / path.name


def _read_note(path: Path) -> Note | None:
    try:
        return msgspec.json.decode(_note_of(path).read_bytes(), type=Note)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write_note(path: Path, note: Note) -> None:
    place = _note_of(path)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = place.with_name(f".{secrets.token_hex(8)}")
    temporary.write_bytes(canonical(note))
    temporary.replace(place)


def _known(folder: Path) -> set[str]:
    """Return where those packs of this machine are in the depot that are there."""
    found: set[str] = set()
    for place in folder.iterdir() if folder.is_dir() else ():
        path = folder.parent / place.name
        if path.is_file() and (note := _read_note(path)) is not None:
            found.add(note.kept.blob)
    return found


def _part(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(PART_BYTES)


def _write_at(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _no_room(error: OSError, folder: Path) -> PerdureError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(
            "E-STORE-FULL",
            f"There is no room in {folder} for a snapshot from another node.",
            "Free some space and try again.",
        )
    return Unavailable("E-STORE-IO", f"{folder} cannot be written: {error}.", "")
