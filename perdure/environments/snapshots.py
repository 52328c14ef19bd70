"""Content-addressed snapshots of workspaces: take, compare, restore, verify.

A snapshot is a record that names a tree, a shell state and what was excluded. Its id is the hash
of the record, so the same content has the same id and taking it twice stores nothing. Everything
below, packs and trees, is read back only through its digest. Git is not used and `.git` is a
directory like any other: a host-side git could be made to run code by what a workspace holds.
Blocking: call from a thread.
"""

import os
from collections.abc import Callable, Iterator, Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from perdure.core.codec import canonical
from perdure.core.errors import NotFound
from perdure.environments import trees
from perdure.environments.packing import any_digest, bring_together
from perdure.environments.packs import Packs, Reader, Writer
from perdure.environments.restore import Difference, Restorer, differences
from perdure.environments.scan import Cache, Notes, Scan, is_excluded
from perdure.environments.trees import Entry, Tree
from perdure.ports.sandbox import Change, CorruptSnapshot, StoredFile

SHELL_BYTES_MAX: Final = 1024 * 1024
CHANGE_BYTES_MAX: Final = 16 * 1024 * 1024
_PREFIX: Final = "snap_"
_ID_DIGITS: Final = 40
_LOADED_MAX: Final = 50_000


class Record(msgspec.Struct, frozen=True):
    """What a snapshot is. Digests in hexadecimal; `shell` is empty where there was no state."""

    format: int
    tree: str
    shell: str
    exclude: tuple[str, ...]

    def digests(self) -> list[str]:
        """Return the objects that it names."""
        return [self.tree, self.shell] if self.shell else [self.tree]


class Swept(NamedTuple):
    """What was (or would be) removed."""

    packs: int
    stored_bytes: int


class Target(msgspec.Struct, frozen=True):
    """A workspace as the store sees it: its root, its last scan, its rules."""

    root_fd: int
    cache: Cache
    exclude: tuple[str, ...]
    limit_bytes: int
    owner: tuple[int, int] | None = None
    gently: bool = False


class Taken(NamedTuple):
    """A snapshot that was just taken: its id, what the next scan should know, and, where it is to
    be shared, the files of the packs that hold all of it.
    """

    name: str
    cache: Cache
    packs: tuple[str, ...] = ()


_Written = tuple[str, bytes, bytes, Cache]
"""A snapshot's name, the digest of its record, the record, and what the next scan should know."""

Sure = Callable[[Difference], bool]
"""Say whether a difference may be taken back without asking."""


class Snapshots:
    """The snapshots of all sessions under one root. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._packs = Packs(folder)

    @property
    def packs(self) -> Packs:
        """The packs that hold them."""
        return self._packs

    def ids(self) -> list[str]:
        """Return the ids of all stored snapshots."""
        return [n for n in self._packs.names() if n.startswith(_PREFIX)]

    def take(self, target: Target, shell: bytes) -> Taken:
        """Store a workspace durably.

        Raises `StoreFull`, `InvalidRequest` (E-WORKSPACE-…).
        """
        with self._packs.writer() as writer:
            name, digest, record, cache = self._written(writer, target, shell)
            if not self._packs.sealed(name):
                writer.put(digest, record)
                writer.seal(name)
        return Taken(name, cache)

    def take_to_share(self, target: Target, shell: bytes) -> Taken:
        """Like `take`, for a depot: the snapshot lies in few packs, and those hold little else."""
        with self._packs.writer() as writer:
            name, digest, record, cache = self._written(writer, target, shell)
            if not self._packs.sealed(name):
                bring_together(self._packs, writer)
                writer.put(digest, record)
                writer.seal(name)
            met = writer.met - {digest}
        held = {self._packs.place(each).pack for each in met} | {self._packs.file(name)}
        return Taken(name, cache, tuple(sorted(held)))

    def adopt(self, name: str) -> None:
        """Make a snapshot known whose objects were brought here in other packs.

        Raises `CorruptSnapshot` when not all of them are here.
        """
        digest = self._packs.search(bytes.fromhex(name.removeprefix(_PREFIX)))
        if digest is None:
            raise CorruptSnapshot("E-SNAPSHOT-CORRUPT", f"The record of {name} is not here.", "")
        with self._packs.reader() as reader:
            data = reader.read(digest, trees.record_digest)
            self._walk(reader, msgspec.json.decode(data, type=Record))
        with self._packs.writer() as writer:
            writer.write(digest, data)
            writer.seal(name)

    def _written(self, writer: Writer, target: Target, shell: bytes) -> _Written:
        """Write what is new in a workspace; return the snapshot's name and its record."""
        scan = Scan(writer, target.cache, exclude=target.exclude, limit_bytes=target.limit_bytes)
        tree = scan.run(target.root_fd)
        shell_digest = b""
        if shell:
            shell_digest = trees.blob_digest(shell)
            writer.put(shell_digest, shell)
        record = canonical(Record(1, tree.hex(), shell_digest.hex(), target.exclude))
        digest = trees.record_digest(record)
        return _PREFIX + digest.hex()[:_ID_DIGITS], digest, record, scan.cache

    def restore(
        self, target: Target, snapshot: str, *, sure: Sure, dry: bool
    ) -> tuple[list[bytes], list[bytes], bytes]:
        """Take a workspace back; return the paths restored, those left alone, the shell state.

        Raises `NotFound`, `CorruptSnapshot`; then nothing was touched.
        """
        with self._packs.reader() as reader:
            record = self._record(reader, snapshot)
            shell = _shell(reader, record)
            exclude = tuple(dict.fromkeys((*target.exclude, *record.exclude)))
            todo = list(self._todo(reader, target, record, exclude))
            known = [d for d in todo if sure(d)]
            for d in known:
                _read_through(reader, d)
            restored = [d.path for d in known]
            if not dry:
                restorer = Restorer(
                    target.root_fd, reader, owner=target.owner, gently=target.gently
                )
                restored = restorer.apply(known)
        done = set(restored)
        return restored, [d.path for d in todo if d.path not in done], shell

    def changes(self, before: str, after: str | Target) -> list[Change]:
        """Return how files, links and FIFOs differ. Raises `NotFound`, `CorruptSnapshot`."""
        with self._packs.reader() as reader:
            old = self._record(reader, before)
            if isinstance(after, str):
                load = loader(reader, {})
                new = load(bytes.fromhex(self._record(reader, after).tree))
                found = differences(load(bytes.fromhex(old.tree)), new, load)
                return [c for d in found if (c := _change(d, _stored(reader)))]
            exclude = tuple(dict.fromkeys((*after.exclude, *old.exclude)))
            # Told the other way round: from what is there back to the snapshot.
            found = self._todo(reader, after, old, exclude)
            turned = (Difference(d.path, d.then, d.now) for d in found)
            live = _live(after.root_fd)
            return [c for d in turned if (c := _change(d, _stored(reader), live))]

    def files(self, snapshot: str, below: bytes) -> list[StoredFile]:
        """Return the files below a directory, by path. Raises `NotFound`, `CorruptSnapshot`."""
        found: list[StoredFile] = []
        start = below.strip(b"/") + b"/" if below.strip(b"/") else b""
        with self._packs.reader() as reader:
            load = loader(reader, {})
            tree = load(bytes.fromhex(self._record(reader, snapshot).tree))
            for d in differences({}, tree, load):
                if d.then is None or d.then.kind != trees.FILE or not d.path.startswith(start):
                    continue
                digest = trees.blob_digest(b"".join(d.then.parts)).hex()
                found.append(StoredFile(os.fsdecode(d.path), d.then.size, digest))
        return sorted(found, key=lambda file: file.path)

    def pieces(self, snapshot: str, path: bytes) -> tuple[bytes, ...]:
        """Return what a file consists of, for `piece`. Raises `NotFound`, `CorruptSnapshot`."""
        with self._packs.reader() as reader:
            load = loader(reader, {})
            tree = load(bytes.fromhex(self._record(reader, snapshot).tree))
            *folders, name = path.split(b"/")
            for folder in folders:
                entry = tree.get(folder)
                if entry is None or entry.kind != trees.DIRECTORY:
                    raise _no_file(snapshot, path)
                tree = load(entry.parts[0])
            file = tree.get(name)
        if file is None or file.kind != trees.FILE:
            raise _no_file(snapshot, path)
        return file.parts

    def piece(self, digest: bytes) -> bytes:
        """Return a piece of a file. Raises `CorruptSnapshot`."""
        with self._packs.reader() as reader:
            return reader.read(digest, trees.blob_digest)

    def sweep(self, live: AbstractSet[str], before_us: int, *, dry: bool) -> Swept:
        """Remove the packs of which no snapshot in `live` needs anything, if they were written
        before that moment. Only while nobody else uses them: who has read the index counts on it.

        Raises `CorruptSnapshot` when a live snapshot is damaged; then nothing was removed.
        """
        needed: set[str] = set()
        with self._packs.reader() as reader:
            for name in live & set(self.ids()):
                needed.add(self._packs.file(name))
                needed |= self._walk(reader, self._record(reader, name))
        return Swept(*self._packs.sweep(needed, before_us, dry=dry))

    def verify(self) -> list[str]:
        """Read everything; return a sentence for each thing that is damaged."""
        troubles = [f"{name}: {why}" for name, why in sorted(self._packs.broken.items())]
        with self._packs.reader() as reader:
            for digest, place in self._packs.objects():
                try:
                    reader.read_at(digest, place, partial(any_digest, digest))
                except CorruptSnapshot as error:
                    troubles.append(error.message)
            for name in self.ids():
                try:
                    self._walk(reader, self._record(reader, name))
                except (CorruptSnapshot, NotFound) as error:
                    troubles.append(f"{name}: {error.message}")
        return troubles

    def _walk(self, reader: Reader, record: Record) -> set[str]:
        """Reach every object of a snapshot; return their packs. Contents are not read."""
        packs = {self._packs.place(bytes.fromhex(each)).pack for each in record.digests()}

        def load(digest: bytes) -> Tree:
            packs.add(self._packs.place(digest).pack)
            return read(digest)

        read = loader(reader, {})
        for d in differences({}, load(bytes.fromhex(record.tree)), load):
            if d.then is not None and d.then.kind == trees.FILE:
                for part in d.then.parts:
                    packs.add(self._packs.place(part).pack)
        return packs

    def _record(self, reader: Reader, name: str) -> Record:
        damage = self._packs.damage(name)
        if not self._packs.sealed(name) and not (damage := self._packs.damage(name)):
            raise NotFound(
                "E-SNAPSHOT-MISSING", f"There is no snapshot {name!r} in this store.", ""
            )
        if damage:
            raise CorruptSnapshot(
                "E-SNAPSHOT-CORRUPT",
                f"Snapshot {name} cannot be read: {damage}.",
                "Nothing was touched. Use an older snapshot, or a backup of the store.",
            )
        digest = self._packs.find(bytes.fromhex(name.removeprefix(_PREFIX)), name)
        if digest is None:
            raise CorruptSnapshot("E-SNAPSHOT-CORRUPT", f"The pack {name} has no record.", "")
        data = reader.read(digest, trees.record_digest)
        return msgspec.json.decode(data, type=Record)

    def _todo(
        self, reader: Reader, target: Target, record: Record, exclude: tuple[str, ...]
    ) -> Iterator[Difference]:
        notes = Notes()
        scan = Scan(notes, target.cache, exclude=exclude, limit_bytes=2**62)
        now = scan.run(target.root_fd)
        load = loader(reader, notes.trees)
        for d in differences(load(now), load(bytes.fromhex(record.tree)), load):
            if not (exclude and _is_below_excluded(d.path, exclude)):
                yield d


def _no_file(snapshot: str, path: bytes) -> NotFound:
    shown = path.decode("utf-8", "replace")
    return NotFound("E-PATH-MISSING", f"There is no file {shown!r} in snapshot {snapshot}.")


def loader(reader: Reader, fresh: dict[bytes, bytes]) -> Callable[[bytes], Tree]:
    """Return a function from digest to tree that looks into `fresh` first."""
    loaded: dict[bytes, Tree] = {}

    def load(digest: bytes) -> Tree:
        tree = loaded.get(digest)
        if tree is None:
            data = fresh.get(digest)
            if data is None:
                data = reader.read(digest, trees.tree_digest)
            if len(loaded) >= _LOADED_MAX:
                loaded.clear()
            tree = loaded[digest] = trees.decode_tree(data)
        return tree

    return load


def _is_below_excluded(path: bytes, exclude: tuple[str, ...]) -> bool:
    names = path.split(b"/")
    return any(is_excluded(b"/".join(names[: i + 1]), exclude) for i in range(len(names)))


def _shell(reader: Reader, record: Record) -> bytes:
    return reader.read(bytes.fromhex(record.shell), trees.blob_digest) if record.shell else b""


def _read_through(reader: Reader, d: Difference) -> None:
    """Find damage before the first file is touched."""
    if d.then is None or d.then.kind != trees.FILE or (d.now and d.now.parts == d.then.parts):
        return
    for part in d.then.parts:
        reader.read(part, trees.blob_digest)


Fetch = Callable[[bytes, Entry], bytes | None]


def _change(d: Difference, before: Fetch, after: Fetch | None = None) -> Change | None:
    old = d.now if d.now is None or d.now.kind != trees.DIRECTORY else None
    new = d.then if d.then is None or d.then.kind != trees.DIRECTORY else None
    if (old is None and new is None) or (old and new and old.same_content(new)):
        return None
    kind = "added" if old is None else "removed" if new is None else "changed"
    return Change(
        path=os.fsdecode(d.path),
        kind=kind,
        before=before(d.path, old) if old else None,
        after=(after or before)(d.path, new) if new else None,
    )


def _stored(reader: Reader) -> Fetch:
    def fetch(_: bytes, entry: Entry) -> bytes | None:
        if entry.kind != trees.FILE:
            return entry.target
        if entry.size > CHANGE_BYTES_MAX:
            return None
        return b"".join(reader.read(part, trees.blob_digest) for part in entry.parts)

    return fetch


def _live(root_fd: int) -> Fetch:
    def fetch(path: bytes, entry: Entry) -> bytes | None:
        if entry.kind != trees.FILE:
            return entry.target
        return None if entry.size > CHANGE_BYTES_MAX else read_live(root_fd, path)

    return fetch


def read_live(root_fd: int, path: bytes) -> bytes | None:
    """Read a file below the root, following nothing; None when it is gone."""
    fd = os.dup(root_fd)
    try:
        *folders, name = path.split(b"/")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        for folder in folders:
            inner = os.open(folder, flags | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        file = os.open(name, flags, dir_fd=fd)
        with os.fdopen(file, "rb") as stream:
            return stream.read(CHANGE_BYTES_MAX)
    except OSError:
        return None
    finally:
        os.close(fd)
