"""Our stores can be carried into one another."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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
