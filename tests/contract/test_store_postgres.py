"""The PostgreSQL store keeps the contract: with its threads, and inline as a simulator runs it."""

from collections.abc import AsyncIterator

import pytest

from perdure.stores.memory import MemoryStore
from perdure.stores.offload import Inline
from perdure.testing.store_contract import StoreContract
from perdure.testing.store_contract_carry import CarryContract
from tests.contract.postgres import database, postgres
from tests.contract.stores import MemoryHarness, PostgresHarness
from tests.contract.test_stores_agree import Caller

__all__ = ["database", "postgres"]  # fixtures

pytestmark = pytest.mark.postgres


class TestPostgresStore(StoreContract, CarryContract):
    @pytest.fixture
    async def harness(self, database: str) -> AsyncIterator[PostgresHarness]:
        harness = PostgresHarness(database)
        yield harness
        await harness.close()


class TestPostgresStoreInline(StoreContract, CarryContract):
    @pytest.fixture
    async def harness(self, database: str) -> AsyncIterator[PostgresHarness]:
        harness = PostgresHarness(database, Inline())
        yield harness
        await harness.close()


@pytest.mark.parametrize("seed", range(20))
async def test_it_gives_the_same_answers_as_the_reference(seed: int, database: str) -> None:
    reference, tested = MemoryHarness(MemoryStore), PostgresHarness(database, Inline())
    callers = [Caller(seed, reference), Caller(seed, tested)]
    for caller in callers:
        await caller.run(120)
    for mine, theirs in zip(callers[0].answers, callers[1].answers, strict=True):
        assert mine == theirs
    await reference.close()
    await tested.close()
