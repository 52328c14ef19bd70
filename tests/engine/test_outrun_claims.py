"""A node that owned a session for a moment, and reads what its next owner has written since."""

import pytest

from perdure.core import events as e
from perdure.core.errors import CorruptJournal, LeaseLost
from perdure.core.events import Event
from perdure.core.journal import GENESIS, link, write
from perdure.engine.agent import Agent
from perdure.engine.journal import Journal
from perdure.engine.kit import Kit
from perdure.models.registry import Models
from perdure.ports.store import Batch
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.system import RandomIds, SystemClock


def kit_on(store: MemoryStore) -> Kit:
    return Kit(store, SystemClock(), RandomIds(), Models({}, {}))


def created() -> Event:
    spec = Agent("agent", "scripted:none").spec([])
    return Event(1, f"{1:026}", 1, 0, e.SessionCreated("s", spec))


async def test_14_a_claim_that_was_outrun_is_lost_and_the_journal_is_not_broken() -> None:
    store = MemoryStore(MemoryDisk())
    outrun = await store.claim("s")
    claim = await store.claim("s")
    record = write(created(), GENESIS).record
    await store.append(Batch("s", claim.epoch, 0, [record]))
    with pytest.raises(LeaseLost):
        await Journal.open(kit_on(store), outrun)


async def test_36_a_journal_that_contradicts_its_owner_s_claim_is_broken() -> None:
    store = MemoryStore(MemoryDisk())
    claim = await store.claim("s")
    record = write(created(), GENESIS).record
    await store.append(Batch("s", claim.epoch, 0, [record]))
    wrong = claim._replace(seq=1, hash=link(GENESIS, b"another"))
    with pytest.raises(CorruptJournal, match="E-JOURNAL-HEAD"):
        await Journal.open(kit_on(store), wrong)
