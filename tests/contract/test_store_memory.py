"""The store in memory keeps the contract, and the contract catches the stores that do not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.core.errors import PerdureError, StoreFull
from perdure.ports.store import Batch
from perdure.stores import refusals
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.broken_stores import BROKEN
from perdure.testing.store_contract import StoreContract
from perdure.testing.store_harness import Pen, begin, payloads, refused
from tests.contract.stores import MemoryHarness, Script

WAIT_S = 2


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        harness = MemoryHarness()
        yield harness
        await harness.close()


class TestSlowMemoryStore(StoreContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        harness = MemoryHarness(commit_s=0.001)
        yield harness
        await harness.close()


async def failures(kind: type[MemoryStore]) -> list[str]:
    """The names of the contract's tests that such a store does not pass."""
    suite = StoreContract()
    names = [name for name in dir(suite) if name.startswith("test_")]
    assert len(names) > 40
    failed = []
    for name in names:
        try:
            await asyncio.wait_for(getattr(suite, name)(MemoryHarness(kind)), WAIT_S)
        except (AssertionError, LookupError, PerdureError, TimeoutError):
            failed.append(name)
    return failed


async def test_the_contract_accepts_a_store_that_is_right() -> None:
    assert await failures(MemoryStore) == []


CAUGHT_BY = {
    "AcknowledgesBeforeCommit": "test_an_acknowledged_batch_survives_a_crash",
    "AcceptsOldEpochs": "test_an_old_owner_cannot_write",
    "LosesLetters": "test_taking_and_recording_are_one",
    "AcceptsGaps": "test_a_stale_append_writes_nothing",
    "TearsBatches": "test_a_batch_with_a_gap_is_refused_whole",
    "ForgetsKeys": "test_a_key_is_remembered_when_its_letter_is_taken",
    "HandsOutItsOwnLists": "test_later_changes_to_what_was_read_do_not_matter",
    "KeepsOthersLists": "test_later_changes_to_what_was_given_do_not_matter",
    "StealsSessions": "test_a_live_owner_keeps_its_session",
    "NeverNoticesDeath": "test_a_dead_owner_is_noticed",
    "KeepsEpochs": "test_claiming_again_gives_a_new_epoch",
    "ShufflesLetters": "test_letters_wait_in_order",
    "AcceptsOtherBodies": "test_a_key_counts_once",
    "ShowsForksTheFuture": "test_a_fork_begins_where_it_was_cut",
    "WritesThroughForks": "test_a_fork_and_its_origin_go_their_own_ways",
    "ForksOverSessions": "test_a_name_that_is_taken",
    "ForksWithFutureStates": "test_a_state_from_before_the_cut_serves_the_fork",
    "OverwritesDocuments": "test_a_document_that_is_not_as_expected",
    "ForgetsVersions": "test_a_version_never_stands_for_two_contents",
    "ForgetsEarlierErrors": "test_the_same_error_is_counted",
    "IndexesRefusedErrors": "test_refused_events_bring_no_errors",
    "NeverWakes": "test_a_change_before_the_question_counts",
    "ForgetsWakes": "test_the_newest_row_says_when_to_wake",
    "WakesEarly": "test_what_is_due_comes_in_order",
    "HoldsWhatItLost": "test_a_claim_holds_until_its_connection_ends",
    "AbandonsTheLiving": "test_what_a_dead_owner_left_running_is_abandoned",
    "AbandonsOnlyTheRunning": "test_letters_that_nobody_takes",
    "AbandonsSubagents": "test_subagents_are_not",
    "DeletesOnlyTheRow": "test_nothing_is_left_of_a_deleted_session",
    "DeletesThePastOfForks": "test_a_fork_keeps_its_past",
    "DeletesUnderOwners": "test_a_living_owner_keeps_its_session",
    "BeginsEpochsAnew": "test_a_name_used_anew_is_another_session",
    "ListsEverybody": "test_lists_hold_only_names_that_begin_so",
}


def test_every_broken_store_has_its_test() -> None:
    assert CAUGHT_BY.keys() == BROKEN.keys()


@pytest.mark.parametrize("name", BROKEN)
async def test_the_contract_catches_a_store_that(name: str) -> None:
    assert CAUGHT_BY[name] in await failures(BROKEN[name])


async def test_a_full_disk_refuses_the_whole_group_and_heals() -> None:
    store = MemoryStore(MemoryDisk(), faults=Script(3, error=refusals.full("memory")))
    one, two = Pen(await store.claim("ses_1")), Pen(await store.claim("ses_2"))
    lost = [store.append(pen.batch(b"lost")) for pen in (one, two)]
    for each in lost:
        await refused(StoreFull, each)
    one.seq, one.hash = 0, bytes(32)
    await store.append(one.batch(b"kept"))
    assert await payloads(store) == [b"kept"]


@pytest.mark.parametrize(("after", "left"), [(False, 1), (True, 2)])
async def test_a_process_can_die_on_either_side_of_a_commit(after: bool, left: int) -> None:
    disk, faults = MemoryDisk(), Script(3, after=after)
    faults.store = MemoryStore(disk, faults=faults)
    pen = await begin(faults.store)
    answer = faults.store.append(pen.batch(b"2"))
    await asyncio.wait([answer], timeout=0.01)
    assert not answer.done(), "the dead do not answer"
    survivor = MemoryStore(disk)
    claim = await survivor.claim("ses_1")
    assert (claim.seq, claim.clean) == (left, False)


async def test_an_answer_can_be_lost_though_the_batch_landed() -> None:
    faults = Script(3, after=True, error=refusals.full("memory"))
    store = MemoryStore(MemoryDisk(), faults=faults)
    pen = await begin(store)
    await refused(PerdureError, store.append(pen.batch(b"2")))
    assert len(await store.read("ses_1")) == 2


async def test_all_that_wait_share_one_commit() -> None:
    faults = Script(0)
    store = MemoryStore(MemoryDisk(), faults=faults)
    pens = [Pen(await store.claim(f"ses_{n}")) for n in range(20)]
    before = faults.commits
    await asyncio.gather(*(store.append(pen.batch(b"1")) for pen in pens))
    assert faults.commits == before + 1


async def test_a_batch_names_its_session_in_what_the_faults_see() -> None:
    seen: list[Batch] = []

    class Watch(Faults):
        def before_commit(self, batches: object) -> None:
            assert isinstance(batches, tuple)
            seen.extend(batches)

    store = MemoryStore(MemoryDisk(), faults=Watch())
    await begin(store, "ses_seen")
    assert [batch.session for batch in seen] == ["ses_seen"]
