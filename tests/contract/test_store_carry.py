"""Our stores can be carried into one another."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.core.errors import PerdureError
from perdure.stores.memory import MemoryStore
from perdure.testing.broken_carrying import BROKEN
from perdure.testing.store_contract_carry import CarryContract
from tests.contract.stores import MemoryHarness, SqliteHarness


class TestMemory(CarryContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        harness = MemoryHarness()
        yield harness
        await harness.close()


class TestSqlite(CarryContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[SqliteHarness]:
        harness = SqliteHarness(tmp_path / "perdure.db")
        yield harness
        await harness.close()


@pytest.mark.parametrize("kind", [*BROKEN, MemoryStore])
async def test_what_gets_lost_on_the_way_is_noticed(kind: type[MemoryStore]) -> None:
    suite = CarryContract()
    failed = set()
    for name in (name for name in dir(suite) if name.startswith("test_")):
        try:
            await getattr(suite, name)(MemoryHarness(kind))
        except (AssertionError, LookupError, PerdureError):
            failed.add(name)
    assert BROKEN[kind] in failed if kind in BROKEN else not failed
