"""Stores that are wrong on purpose, each in one way: a contract suite must notice every one."""

import asyncio
from collections.abc import Mapping
from typing import Final

from perdure.core.journal import Record
from perdure.ports.store import Batch, Claim, Letter
from perdure.stores import refusals
from perdure.stores.memory import MemoryStore
from perdure.stores.memory_journal import Journal


class AcknowledgesBeforeCommit(MemoryStore):
    """Says that it is durable when it is only on its way."""

    def append(self, batch: Batch) -> asyncio.Future[None]:
        super().append(batch)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class AcceptsOldEpochs(MemoryStore):
    """Never looks who is writing."""

    def _check_append(self, journal: Journal | None, batch: Batch) -> None:
        if journal is None:
            raise refusals.lease_lost(batch)
        if journal.seq != batch.expected_seq:
            raise refusals.stale(batch, journal.seq)
        refusals.checked_gaps(batch)


class LosesLetters(MemoryStore):
    """Takes letters out of the inbox even when the records are refused."""

    def _append(self, batch: Batch) -> None:
        self._take(batch)
        super()._append(batch)

    def _take(self, batch: Batch) -> None:
        journal = self._journal(batch.session)
        for key in batch.taken:
            if journal is not None and key in journal.letters:
                journal.letters[key] = journal.letters[key]._replace(body=None)


class AcceptsGaps(MemoryStore):
    """Takes any seq that is new."""

    def _check_append(self, journal: Journal | None, batch: Batch) -> None:
        if journal is None or (journal.owner, journal.epoch) != (self._process, batch.epoch):
            raise refusals.lease_lost(batch)
        if journal.seq > batch.expected_seq:
            raise refusals.stale(batch, journal.seq)


class TearsBatches(MemoryStore):
    """Writes a batch record by record, up to the first that does not fit."""

    def _append(self, batch: Batch) -> None:
        for record in batch.records:
            one = batch._replace(expected_seq=record.seq - 1, records=(record,))
            super()._append(one)
        super()._append(batch._replace(expected_seq=self._end(batch.session), records=()))

    def _end(self, session: str) -> int:
        journal = self._journal(session)
        return journal.seq if journal else 0


class ForgetsKeys(MemoryStore):
    """Deletes a letter that was taken, and its key with it."""

    def _append(self, batch: Batch) -> None:
        super()._append(batch)
        journal = self._journal(batch.session)
        for key in batch.taken:
            if journal is not None:
                journal.letters.pop(key, None)


class HandsOutItsOwnLists(MemoryStore):
    """Returns what it keeps instead of a copy."""

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        journal = self._journal(session)
        return journal.records if journal else []


class KeepsOthersLists(MemoryStore):
    """Keeps what it was given instead of a copy."""

    def append(self, batch: Batch) -> asyncio.Future[None]:
        return self._write(lambda: self._append(batch), batch)


class StealsSessions(MemoryStore):
    """Gives a session to whoever asks."""

    def _claim(self, session: str) -> Claim:
        journal = self._disk.journals.get(session)
        if journal is not None:
            journal.owner = None
        return super()._claim(session)


class NeverNoticesDeath(MemoryStore):
    """Calls every claim clean."""

    def _claim(self, session: str) -> Claim:
        return super()._claim(session)._replace(clean=True)


class KeepsEpochs(MemoryStore):
    """Gives the same epoch to the next owner."""

    def _claim(self, session: str) -> Claim:
        claim = super()._claim(session)
        self._disk.journals[session].epoch = 1
        return claim._replace(epoch=1)


class ShufflesLetters(MemoryStore):
    """Hands letters out by key."""

    async def inbox(self, session: str) -> list[Letter]:
        return sorted(await super().inbox(session))


class AcceptsOtherBodies(MemoryStore):
    """Takes a known key for a repetition without looking at the body."""

    def _post(self, session: str, key: str, body: bytes) -> bool:
        journal = self._journal(session)
        if journal is not None and key in journal.letters:
            return False
        return super()._post(session, key, body)


class ShowsForksTheFuture(MemoryStore):
    """Lets a fork read all events of its origin."""

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        journal = self._journal(session)
        if journal is None or journal.origin is None:
            return await super().read(session, after, limit)
        return [*journal.origin.records, *journal.records][after : after + limit]


class WritesThroughForks(MemoryStore):
    """Appends what is appended to a fork to its origin as well."""

    def _append(self, batch: Batch) -> None:
        super()._append(batch)
        journal = self._journal(batch.session)
        if journal is not None and journal.origin is not None:
            journal.origin.records.extend(batch.records)


class ForksOverSessions(MemoryStore):
    """Forks onto a name that is taken."""

    def _fork(self, source: str, at: int, session: str) -> None:
        self._disk.journals.pop(session, None)
        super()._fork(source, at, session)


class ForksWithFutureStates(MemoryStore):
    """Gives a fork its origin's newest cached state, wherever the cut was."""

    async def load_state(self, session: str) -> tuple[int, bytes] | None:
        journal = self._journal(session)
        origin = journal.origin if journal else None
        return origin.state if origin else await super().load_state(session)


class OverwritesDocuments(MemoryStore):
    """Writes a document whatever version is there."""

    async def put_doc(self, kind: str, name: str, data: bytes, *, expect: int | None = None) -> int:
        return await super().put_doc(kind, name, data)


class ForgetsVersions(MemoryStore):
    """Counts the versions of a document anew when it was deleted."""

    async def delete_doc(self, kind: str, name: str) -> None:
        self._disk.docs.kept.pop((kind, name), None)


class ForgetsEarlierErrors(MemoryStore):
    """Keeps only the last occurrence of an error."""

    def _append(self, batch: Batch) -> None:
        super()._append(batch)
        for error in batch.errors:
            self._disk.journals[batch.session].errors[error.fingerprint] = error


class IndexesRefusedErrors(MemoryStore):
    """Indexes errors even when their events are refused."""

    def _append(self, batch: Batch) -> None:
        for error in batch.errors:
            self._disk.journals[batch.session].count(error)
        super()._append(batch._replace(errors=()))


class NeverWakes(MemoryStore):
    """Does not tell that another connection has written."""

    async def changed(self, timeout_s: float) -> bool:
        return False


class ForgetsWakes(MemoryStore):
    """Keeps when to wake a session in the memory of the process that said so."""

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        mine = self._disk.journals
        found = await super().due(now_us, limit, prefix)
        return [name for name in found if mine[name].owner is self._process]


class WakesEarly(MemoryStore):
    """Rounds to whole seconds."""

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        return await super().due(now_us + 1_000_000, limit, prefix)


class HoldsWhatItLost(MemoryStore):
    """Never learns that it has ended itself."""

    def holds(self, claim: Claim) -> bool:
        return True


class AbandonsTheLiving(MemoryStore):
    """Calls every session abandoned that is being worked on."""

    async def abandoned(self, limit: int = 100) -> list[str]:
        running = [row.id for row in await self.sessions() if row.status == "running"]
        return sorted({*running, *await self.mailboxes()})[:limit]


class AbandonsOnlyTheRunning(MemoryStore):
    """Does not look into inboxes."""

    async def abandoned(self, limit: int = 100) -> list[str]:
        rows = [await self.session(name) for name in await super().abandoned(1 << 30)]
        return [row.id for row in rows if row and row.status == "running"][:limit]


class AbandonsSubagents(MemoryStore):
    """Takes a subagent for a session of its own."""

    async def abandoned(self, limit: int = 100) -> list[str]:
        owners = {name: each.owner for name, each in self._disk.journals.items()}
        left = [row for row in await self.sessions() if row.parent and row.status == "running"]
        free = [row.id for row in left if not (owner := owners[row.id]) or not owner.alive]
        return sorted([*await super().abandoned(limit), *free])[:limit]


class DeletesOnlyTheRow(MemoryStore):
    """Takes a deleted session off the lists and keeps the rest."""

    def _delete_session(self, session: str) -> None:
        if (journal := self._disk.journals.get(session)) is not None:
            journal.records, journal.row, journal.origin = [], None, None


class DeletesThePastOfForks(MemoryStore):
    """Deletes events that a fork reads."""

    def _delete_session(self, session: str) -> None:
        journal = self._disk.journals.get(session)
        super()._delete_session(session)
        if journal is not None:
            journal.records = []


class DeletesUnderOwners(MemoryStore):
    """Never looks whether somebody works on what it deletes."""

    def _delete_session(self, session: str) -> None:
        self._disk.journals.pop(session, None)


class BeginsEpochsAnew(MemoryStore):
    """Gives a name that is used anew the epochs that it had before."""

    def _delete_session(self, session: str) -> None:
        super()._delete_session(session)
        self._disk.epochs_over = 0


class ListsEverybody(MemoryStore):
    """Does not look at the prefix."""

    async def mailboxes(self, prefix: str = "") -> list[str]:
        return await super().mailboxes()


BROKEN: Final[Mapping[str, type[MemoryStore]]] = {
    kind.__name__: kind
    for kind in (
        AcknowledgesBeforeCommit,
        AcceptsOldEpochs,
        LosesLetters,
        AcceptsGaps,
        TearsBatches,
        ForgetsKeys,
        HandsOutItsOwnLists,
        KeepsOthersLists,
        StealsSessions,
        NeverNoticesDeath,
        KeepsEpochs,
        ShufflesLetters,
        AcceptsOtherBodies,
        ShowsForksTheFuture,
        WritesThroughForks,
        ForksOverSessions,
        ForksWithFutureStates,
        OverwritesDocuments,
        ForgetsVersions,
        ForgetsEarlierErrors,
        IndexesRefusedErrors,
        NeverWakes,
        ForgetsWakes,
        WakesEarly,
        HoldsWhatItLost,
        AbandonsTheLiving,
        AbandonsOnlyTheRunning,
        AbandonsSubagents,
        DeletesOnlyTheRow,
        DeletesThePastOfForks,
        DeletesUnderOwners,
        BeginsEpochsAnew,
        ListsEverybody,
    )
}
