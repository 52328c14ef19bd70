"""The options in the address of a database: one that nobody knows is named. No server is asked."""

import pytest

from perdure.core.errors import InvalidRequest
from perdure.stores.postgres.store import PostgresStore

OURS = "Ours are schema, lease_s, outage_s, patience_s, unsafe"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("leases", "lease_s"), ("Schema", "schema"), ("sslmod", "sslmode"), ("xyzzy", "")],
)
async def test_an_option_that_nobody_knows_is_named(typed: str, meant: str) -> None:
    url = f"postgresql://u:s3cret@/x?host=/nowhere&{typed}=3&outage_s=0&sslmode=disable"
    with pytest.raises(InvalidRequest) as caught:
        await PostgresStore.open(url)
    assert caught.value.code == "E-STORE-URL" and f"option '{typed}'" in caught.value.message
    assert caught.value.hint.startswith(f"Did you mean {meant}? {OURS}" if meant else OURS)
    assert "s3cret" not in str(caught.value)
