"""The SQLite store keeps the contract: with its threads, and inline as a simulator runs it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.stores.offload import Inline
from perdure.testing.store_contract import StoreContract
from tests.contract.stores import SqliteHarness


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[SqliteHarness]:
        harness = SqliteHarness(tmp_path / "perdure.db")
        yield harness
        await harness.close()


class TestSqliteStoreInline(StoreContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[SqliteHarness]:
        harness = SqliteHarness(tmp_path / "perdure.db", Inline())
        yield harness
        await harness.close()
