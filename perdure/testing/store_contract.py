"""The contract of `perdure.ports.store`, as tests. Every store must pass all of them.

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def harness(self, tmp_path):
            ...  # a StoreHarness

The tests know the port and nothing else; pytest-asyncio runs them.
"""

from perdure.testing.store_contract_abandoned import AbandonedContract
from perdure.testing.store_contract_delete import DeleteContract
from perdure.testing.store_contract_docs import DocsContract
from perdure.testing.store_contract_errors import ErrorsContract
from perdure.testing.store_contract_fork import ForkContract
from perdure.testing.store_contract_inbox import InboxContract
from perdure.testing.store_contract_journal import JournalContract
from perdure.testing.store_contract_lists import ListsContract
from perdure.testing.store_contract_owner import OwnerContract
from perdure.testing.store_contract_prefix import PrefixContract


class StoreContract(
    JournalContract,
    OwnerContract,
    InboxContract,
    ListsContract,
    ForkContract,
    DocsContract,
    ErrorsContract,
    DeleteContract,
    PrefixContract,
    AbandonedContract,
):
    """All of it."""
