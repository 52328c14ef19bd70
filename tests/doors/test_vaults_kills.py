"""A token is renewed by a server that is killed meanwhile: what was sealed stays whole."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import openai

from perdure.doors.settings import ServerSettings
from perdure.models.scripted import Reply, Script
from perdure.serving.vault_key import vault_keys
from perdure.stores.sqlite import SqliteStore
from perdure.stores.vault import SealedVault
from tests.doors.guarded import Guarded, guarded
from tests.doors.process import Home, home

TALK = Script((Reply(text="Hello."),))
OLD, OLD_REFRESH = "canary-old-3", "canary-refresh-55"
WRITES = ("append", "put_doc", "post", "claim")


def oauth(shop: Guarded) -> Any:
    way = {"type": "client_secret_basic", "client_secret": "canary-client-90"}
    return {
        "type": "mcp_oauth", "mcp_server_url": shop.url, "access_token": OLD,
        "expires_at": "2020-01-01T00:00:00Z", "refresh": {
            "client_id": "me", "refresh_token": OLD_REFRESH,
            "token_endpoint": shop.token_endpoint, "token_endpoint_auth": way,
        },
    }  # fmt: skip


async def kept(path: Path, shop: Guarded) -> tuple[str, str]:
    """Make a store with a vault and a token in it that has run out; return their ids."""
    path.parent.mkdir()
    async with home(path, {"talk": TALK}) as here:
        await here.start()
        client: Any = await here.openai()
        vault = await client.beta.agents.vaults.create()
        made = await client.beta.agents.vaults.credentials.create(
            vault.id, name="shop", auth=oauth(shop)
        )
    return vault.id, made.id


async def used(here: Home, vault: str, shop: Guarded) -> bool:
    """Have a session begin that needs the token; False: the server died."""
    client: Any = await here.openai()
    transport = {"type": "http", "server_url": shop.url}
    mcp = {"type": "mcp", "server_label": "shop", "transport": transport}
    try:
        await client.beta.agents.sessions.create(
            agent={"model": "talk", "tools": [mcp]}, environment={"type": "none"}, vault_ids=[vault]
        )
    except openai.APIConnectionError:
        await here.dead()
        return False
    return True


async def sealed(path: Path, name: str) -> tuple[str, str]:
    """Return the token and the token for the next one, as they are sealed."""
    file = path.with_name(path.name + ".vault-key")
    vault = await vault_keys(ServerSettings(), {}, file, os.urandom, forgetful=False)
    store = await SqliteStore.open(path)
    try:
        secret = await SealedVault(store, vault.keys, os.urandom).get(name)
    finally:
        await store.close()
    assert secret is not None
    found = json.loads(secret.reveal())
    return found["access_token"], found["refresh_token"]


async def test_a_renewal_that_was_killed_anywhere_leaves_the_old_tokens_or_the_new(
    tmp_path: Path,
) -> None:
    asked = []
    async with guarded() as shop:
        vault, credential = await kept(tmp_path / "seed" / "s.db", shop)
        for number in range(1, 16):
            path = tmp_path / str(number) / "s.db"
            shutil.copytree(tmp_path / "seed", path.parent)
            shop.forms.clear()
            shop.valid.clear()
            shop.next_tokens = ["canary-next-1", "canary-next-2"]
            both = [(OLD, OLD_REFRESH), ("canary-next-1", "canary-next-1-refresh")]
            async with home(path, {"talk": TALK}) as here:
                await here.start(number, at=WRITES)
                lived = await used(here, vault, shop)
                if here.alive:
                    await here.kill()
                left = await sealed(path, f"{vault}/{credential}")
                assert left in both
                if lived:
                    break  # it was never killed on the way: there are no more writes
                await here.start()
                assert await used(here, vault, shop)
                await here.kill()
            # Asked again with the old one if it still is sealed; never again when it is not.
            refreshed = [form["refresh_token"] for form in shop.forms]
            asked.append(len(refreshed))
            last = f"canary-next-{len(refreshed)}"
            assert refreshed == [OLD_REFRESH] * len(refreshed)
            assert await sealed(path, f"{vault}/{credential}") == (last, f"{last}-refresh")
            assert shop.tokens[-1] == last
    assert {1, 2} <= set(asked)  # it was killed before the new ones were sealed, and behind that
