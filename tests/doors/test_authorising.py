"""Tokens that are renewed while somebody else changes their credential."""

import json
import os
from collections.abc import Mapping

import pytest

from perdure.core.errors import Unavailable
from perdure.doors.authorising import Answered, Authoriser
from perdure.doors.credentials import CredentialRecord, Credentials
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.system import SystemClock
from perdure.stores.vault import SealedVault

URL = "https://shop.example/mcp"


@pytest.mark.parametrize("end", ["archive", "delete"])
async def test_a_credential_put_out_of_use_while_it_is_renewed_stays_so(end: str) -> None:
    store = MemoryStore(MemoryDisk())
    vault = SealedVault(store, [bytes(32)], os.urandom)
    held = Credentials(store, vault)
    refresh = {
        "client_id": "me", "token_endpoint": "https://shop.example/token",
        "token_endpoint_auth": {"type": "none"}, "scope": None, "resource": None,
    }  # fmt: skip
    over = "2020-01-01T00:00:00Z"
    auth = {
        "type": "mcp_oauth", "mcp_server_url": URL, "expires_at": over, "refresh": refresh,
    }  # fmt: skip
    record = CredentialRecord("cred_1", "vault_1", 1, 1, "shop", auth)
    secrets = {"access_token": "old", "refresh_token": "r", "expires_at": over}
    await held.keep(record, secrets, expect=0)

    async def post(url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Answered:
        await (held.archive(record, 2) if end == "archive" else held.delete(record))
        return Answered(200, json.dumps({"access_token": "new", "expires_in": 60}).encode())

    with pytest.raises(Unavailable, match="E-CREDENTIAL"):
        await Authoriser(held, SystemClock(), post).token(record.key, URL)
    assert await vault.get(record.key) is None
    left = await held.all.find(record.key)
    assert left is None if end == "delete" else left is not None and left.archived_at == 2
    await store.close()
