"""Which packs a snapshot lies in, where somebody else must fetch them.

A pack holds what was new when its snapshot was taken. After many steps a snapshot would lie in as
many packs, and use little of most of them. So now and then what is used is written once more, into
the pack of the snapshot at hand. Blocking: call from a thread.
"""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Final

from perdure.environments import trees
from perdure.environments.packs import ENTRY_BYTES, Packs, Writer

PACKS_MAX: Final = 32
SMALL_BYTES: Final = 8 * 1024 * 1024
_USED: Final = 4
"""A pack of which a snapshot uses less than one part in so many is not worth fetching for it."""


def bring_together(packs: Packs, writer: Writer) -> None:
    """Write again what the snapshot in `writer` would otherwise need too many packs for."""
    old = [digest for digest in writer.met if packs.has(digest)]
    left = _to_leave(packs, old)
    if not left:
        return
    with packs.reader() as reader:
        for digest in old:
            if packs.place(digest).pack in left:
                writer.write(digest, reader.read(digest, partial(any_digest, digest)))


def _to_leave(packs: Packs, digests: Iterable[bytes]) -> set[str]:
    used: Counter[str] = Counter()
    for digest in digests:
        place = packs.place(digest)
        used[place.pack] += place.stored + ENTRY_BYTES
    sizes = {name: packs.size(name) for name in used}
    left = {name for name, count in used.items() if count * _USED < sizes[name]}
    if len(used) - len(left) > PACKS_MAX:
        left |= {name for name, size in sizes.items() if size < SMALL_BYTES}
    return left


def any_digest(wanted: bytes, data: bytes) -> bytes:
    """Return `wanted` when the data has it as an object of any kind."""
    kinds = (trees.blob_digest, trees.tree_digest, trees.record_digest)
    return wanted if wanted in (digest(data) for digest in kinds) else b""
