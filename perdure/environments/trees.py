"""A directory as an object: its entries, its bytes, its digest.

A tree object lists the entries of one directory in byte order of their names, so that the same
directory has the same digest wherever it lies. The form is fixed-width binary and never pickle:
what a store holds is data. Knows nothing of disks.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

FILE: Final = "f"
DIRECTORY: Final = "d"
LINK: Final = "l"
FIFO: Final = "p"
CHUNK_BYTES: Final = 8 * 1024 * 1024
"""Bigger files are kept in pieces of this size, so that one changed byte costs one piece."""

_HEAD: Final = b"perdure tree 1\n"
_FIXED: Final = struct.Struct(">BHqQHHI")  # kind, mode, mtime, size, name, target, parts
_DIGEST_BYTES: Final = 32


class MalformedTree(ValueError):
    """The bytes are not a tree object of this version."""


class Entry(msgspec.Struct, frozen=True):
    """One name in a directory.

    `mode` holds permission bits without setuid and setgid. `mtime_ns` and `size` are kept for
    files only: a directory's own time says nothing about its content. `parts` are the digests of
    a file's pieces, or the one digest of a directory's tree. `target` is what a link says.
    """

    name: bytes
    kind: str
    mode: int
    mtime_ns: int = 0
    size: int = 0
    parts: tuple[bytes, ...] = ()
    target: bytes = b""

    def same_content(self, other: "Entry") -> bool:
        """Say whether both are equal but for the time of the last change."""
        mine = (self.kind, self.mode, self.size, self.parts, self.target)
        return mine == (other.kind, other.mode, other.size, other.parts, other.target)


Tree = Mapping[bytes, Entry]
EMPTY: Final[Tree] = {}


def blob_digest(data: bytes | memoryview) -> bytes:
    """Return the digest of a piece of a file; never equal to that of a tree."""
    state = hashlib.sha256(b"blob\0")
    state.update(data)
    return state.digest()


def tree_digest(data: bytes) -> bytes:
    """Return the digest of an encoded tree."""
    return hashlib.sha256(b"tree\0" + data).digest()


def record_digest(data: bytes) -> bytes:
    """Return the digest of a snapshot's record."""
    return hashlib.sha256(b"snap\0" + data).digest()


def encode_tree(entries: Iterable[Entry]) -> bytes:
    """Return the one form of a directory with these entries, in whatever order they came."""
    out = [_HEAD]
    for e in sorted(entries, key=lambda entry: entry.name):
        lengths = (len(e.name), len(e.target), len(e.parts))
        out.append(_FIXED.pack(ord(e.kind), e.mode, e.mtime_ns, e.size, *lengths))
        out += (e.name, e.target, *e.parts)
    return b"".join(out)


def decode_tree(data: bytes) -> dict[bytes, Entry]:
    """Return the entries by name, in order. Raises `MalformedTree`."""
    if not data.startswith(_HEAD):
        raise MalformedTree("not a tree of a version this program knows")
    entries: dict[bytes, Entry] = {}
    at = len(_HEAD)
    try:
        while at < len(data):
            entry, at = _decode_entry(data, at)
            entries[entry.name] = entry
    except (struct.error, ValueError) as error:
        raise MalformedTree(f"damaged at byte {at}") from error
    if at != len(data):
        raise MalformedTree("cut short")
    return entries


def _decode_entry(data: bytes, at: int) -> tuple[Entry, int]:
    kind, mode, mtime_ns, size, name_len, target_len, count = _FIXED.unpack_from(data, at)
    name_at = at + _FIXED.size
    target_at = name_at + name_len
    parts_at = target_at + target_len
    end = parts_at + count * _DIGEST_BYTES
    name = data[name_at:target_at]
    if chr(kind) not in (FILE, DIRECTORY, LINK, FIFO) or not is_name(name):
        raise ValueError("no such entry can be")
    parts = tuple(data[i : i + _DIGEST_BYTES] for i in range(parts_at, end, _DIGEST_BYTES))
    target = data[target_at:parts_at]
    return Entry(name, chr(kind), mode & 0o1777, mtime_ns, size, parts, target), end


def is_name(name: bytes) -> bool:
    """Say whether `name` is one component of a path and no way out of its directory."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
