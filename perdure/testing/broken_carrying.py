"""Stores that lose something when they are carried elsewhere: the contract must notice each."""

from collections.abc import Mapping, Sequence
from typing import Final

from perdure.ports.carrying import Kept, KeptDoc, Posted, Stretch
from perdure.stores.memory import MemoryStore


class ForgetsTakenKeys(MemoryStore):
    """Takes in only the letters that still wait: what a client repeats is done twice."""

    async def keep_letters(self, session: str, letters: Sequence[Posted]) -> None:
        await super().keep_letters(session, [each for each in letters if each.body is not None])


class RevivesLetters(MemoryStore):
    """Says of letters that were taken that they wait, as if their bodies were empty."""

    async def kept(self, session: str) -> Kept | None:
        found = await super().kept(session)
        if found is None:
            return None
        letters = tuple(each._replace(body=each.body or b"") for each in found.letters)
        return found._replace(letters=letters)


class CountsVersionsAnew(MemoryStore):
    """Enters documents as if they were written here."""

    async def keep_doc(self, doc: KeptDoc) -> None:
        if doc.data is not None:
            await self.put_doc(doc.kind, doc.name, doc.data)


class HidesDeletedDocs(MemoryStore):
    """Shows no document that was deleted: its version would stand for two contents."""

    async def kept_docs(
        self, after: tuple[str, str] | None = None, limit: int = 500
    ) -> list[KeptDoc]:
        return [d for d in await super().kept_docs(after, limit) if d.data is not None]


class NamesTheDead(MemoryStore):
    """Calls a deleted holder by the name that it had: another session may have that now."""

    async def kept(self, session: str) -> Kept | None:
        found = await super().kept(session)
        if found is None:
            return None
        past = tuple(Stretch(each.holder.replace("\0", "was "), each.until) for each in found.past)
        return found._replace(past=past)


class ForgetsErrors(MemoryStore):
    """Leaves the index of errors behind."""

    async def kept(self, session: str) -> Kept | None:
        found = await super().kept(session)
        return found and found._replace(errors=())


class SeesNobody(MemoryStore):
    """Believes that it is alone."""

    async def neighbours(self) -> list[str]:
        return []


BROKEN: Final[Mapping[type[MemoryStore], str]] = {
    ForgetsTakenKeys: "test_letters_of_elsewhere_are_entered",
    RevivesLetters: "test_all_that_is_kept_of_a_session",
    CountsVersionsAnew: "test_documents_of_elsewhere_keep_their_versions",
    HidesDeletedDocs: "test_documents_of_all_kinds_are_read_in_pages",
    NamesTheDead: "test_where_events_lie",
    ForgetsErrors: "test_all_that_is_kept_of_a_session",
    SeesNobody: "test_who_else_has_it_open",
}
"""Each with the test of the contract that catches it."""
