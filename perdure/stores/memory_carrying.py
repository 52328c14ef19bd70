"""What a `MemoryStore` does when it is carried elsewhere. See `perdure.ports.carrying`."""

from collections.abc import Mapping, Sequence
from typing import Any

from perdure.ports.carrying import Kept, KeptDoc, Posted, Stretch
from perdure.stores import refusals
from perdure.stores.keys import packed
from perdure.stores.memory_journal import Journal, Posted as Entered


class MemoryCarrying:
    """The part of `MemoryStore` that implements `Carriable`."""

    _disk: Any
    _write: Any
    _journal: Any
    _check_open: Any

    async def kept(self, session: str) -> Kept | None:
        """See `Carriable.kept`."""
        journal: Journal | None = self._journal(session)
        return _kept(session, journal, self._disk.journals) if journal else None

    async def keep_letters(self, session: str, letters: Sequence[Posted]) -> None:
        """See `Carriable.keep_letters`."""
        await self._write(lambda: self._keep_letters(session, tuple(letters)))

    async def kept_docs(
        self, after: tuple[str, str] | None = None, limit: int = 500
    ) -> list[KeptDoc]:
        """See `Carriable.kept_docs`."""
        self._check_open()
        kept: Mapping[tuple[str, str], tuple[int, bytes | None]] = self._disk.docs.kept
        names = sorted(kept, key=_order)
        behind = [name for name in names if after is None or _order(name) > _order(after)]
        return [KeptDoc(*name, *kept[name]) for name in behind[:limit]]

    async def keep_doc(self, doc: KeptDoc) -> None:
        """See `Carriable.keep_doc`."""
        await self._write(lambda: self._keep_doc(doc))

    async def neighbours(self) -> list[str]:
        """See `Carriable.neighbours`."""
        self._check_open()
        return [other.node for other in self._disk.connections if other is not self]

    def _keep_letters(self, session: str, letters: Sequence[Posted]) -> None:
        journal: Journal | None = self._journal(session)
        if journal is None or not journal.records:
            raise refusals.unknown(session)
        for letter in letters:
            journal.letters.setdefault(letter.key, Entered(letter.digest, letter.body))

    def _keep_doc(self, doc: KeptDoc) -> None:
        kept: dict[tuple[str, str], tuple[int, bytes | None]] = self._disk.docs.kept
        version, _ = kept.get((doc.kind, doc.name), (0, None))
        if doc.version > version or (doc.version == version and doc.data is None):
            kept[doc.kind, doc.name] = (doc.version, doc.data)


def _kept(session: str, journal: Journal, journals: Mapping[str, Journal]) -> Kept | None:
    if not journal.records:
        return None
    names = {id(each): name for name, each in journals.items()}
    past = [
        Stretch(names.get(id(part.journal), f"\0{id(part.journal)}"), part.until)
        for part in journal.past()
    ]
    letters = (Posted(key, each.digest, each.body) for key, each in journal.letters.items())
    errors = sorted(journal.errors.values(), key=lambda row: packed(row.fingerprint))
    return Kept(
        session, journal.seq, journal.hash, journal.row, tuple(letters), tuple(errors),
        tuple(reversed(past)),
    )  # fmt: skip


def _order(name: tuple[str, str]) -> tuple[bytes, bytes]:
    return packed(name[0]), packed(name[1])
