"""Vaults: secrets go in, are used where they belong, and are found nowhere else."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from perdure.doors.settings import ServerSettings
from perdure.doors.toolmaker import McpServer
from perdure.models.scripted import Call
from perdure.ports.model import Model
from perdure.serving.tools import server_name
from tests.doors.guarded import Guarded, guarded
from tests.doors.serving import Reply, Up, script, up

TALK = script(Reply(text="Hello."))
TOKEN, REFRESH, CLIENT = "canary-token-81723", "canary-refresh-55", "canary-client-90"
CANARIES = (TOKEN, REFRESH, CLIENT, "canary-next-44120", "canary-value-7711", "canary-old-3")


async def test_vaults_are_made_read_changed_listed_and_deleted() -> None:
    async with up({"talk": TALK}) as server:
        vaults = (await server.openai()).beta.agents.vaults
        first = await vaults.create(name="  One ", metadata={"team": "a"})
        second = await vaults.create()
        assert (first.name, first.metadata, second.name) == ("One", {"team": "a"}, None)
        changed = await vaults.update(first.id, name=None, metadata={"team": "b"})
        assert (changed.name, changed.metadata) == (None, {"team": "b"})
        assert [v.id async for v in vaults.list(order="asc", limit=1)] == [first.id, second.id]
        assert [v.id async for v in vaults.list(metadata={"team": "b"})] == [first.id]
        assert [v.id async for v in vaults.list(status="archived")] == []
        gone = await vaults.delete(first.id)
        assert (gone.id, gone.deleted, gone.object) == (first.id, True, "vault.deleted")
        with pytest.raises(openai.NotFoundError):
            await vaults.retrieve(first.id)


async def test_an_archived_vault_is_listed_and_of_no_more_use(tmp_path: Path) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        vaults = client.beta.agents.vaults
        vault = await vaults.create(name="old")
        made = await vaults.credentials.create(vault.id, name="k", auth=bearer("http://h/mcp"))
        await client.post(f"/vaults/{vault.id}/archive", cast_to=object)
        assert [v.id async for v in vaults.list(status="archived")] == [vault.id]
        assert [v.id async for v in vaults.list(status=["active"])] == []
        listed = vaults.credentials.list(vault.id, status="archived")
        assert [c.id async for c in listed] == [made.id]
        assert await server.server.vault_of("default").get(f"{vault.id}/{made.id}") is None
        for refused in (
            vaults.update(vault.id, name="new"),
            vaults.credentials.create(vault.id, name="n", auth=bearer("http://h/mcp")),
            session(client, "talk", [vault.id], []),
        ):
            with pytest.raises(openai.APIStatusError) as error:
                await refused
            assert error.value.status_code in (400, 404)


async def test_what_is_wrong_with_a_credential_is_said_without_repeating_it() -> None:
    wrong: list[Any] = [
        {"type": "static_bearer", "mcp_server_url": "http://h"},
        {"type": "static_bearer", "mcp_server_url": "http://h", "token": {"deep": TOKEN}},
        {"type": "environment_variable", "secret_name": "a b", "secret_value": TOKEN,
         "networking": {"type": "unrestricted"}},
        {"type": "environment_variable", "secret_name": "A", "secret_value": TOKEN},
        {"type": "mcp_oauth", "mcp_server_url": "http://h", "access_token": TOKEN,
         "expires_at": "soon"},
        {"type": TOKEN[:3], "token": TOKEN},
    ]  # fmt: skip
    async with up({"talk": TALK}) as server:
        vaults = (await server.openai()).beta.agents.vaults
        vault = await vaults.create()
        for auth in wrong:
            with pytest.raises(openai.BadRequestError) as error:
                await vaults.credentials.create(vault.id, name="n", auth=auth)
            assert TOKEN not in str(error.value)


async def test_another_project_and_a_viewer_cannot_reach_a_vault() -> None:
    async with up({"talk": TALK}) as server:
        vaults = (await server.openai()).beta.agents.vaults
        vault = await vaults.create()
        foreign = (await server.openai("other")).beta.agents.vaults
        with pytest.raises(openai.NotFoundError):
            await foreign.retrieve(vault.id)
        assert [v.id async for v in foreign.list()] == []
        with pytest.raises(openai.PermissionDeniedError):
            await (await server.openai(role="viewer")).beta.agents.vaults.delete(vault.id)


async def test_a_token_is_sent_to_its_server_and_found_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    models: dict[str, Model] = {"talk": TALK}
    async with guarded() as shop, up(models, tmp_path / "s.db") as server:
        shop.valid.add(TOKEN)
        client: Any = await server.openai()
        vault = await client.beta.agents.vaults.create()
        made = await client.beta.agents.vaults.credentials.create(
            vault.id, name="shop", auth=bearer(shop.url)
        )
        models["shop"] = who(shop, f"{vault.id}/{made.id}")
        began = await session(client, "shop", [vault.id], [served(shop)])
        said = await told(client, began.id)
        assert set(shop.tokens) == {TOKEN}
        assert "You are ***" in json.dumps(said)
        assert found(await everything(server, client, tmp_path, caplog)) == []


async def test_an_expired_token_is_renewed_and_sealed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    models: dict[str, Model] = {"talk": TALK}
    async with guarded() as shop, up(models, tmp_path / "s.db") as server:
        shop.next_tokens = ["canary-next-44120"]
        client: Any = await server.openai()
        vault = await client.beta.agents.vaults.create()
        credentials = client.beta.agents.vaults.credentials
        made = await credentials.create(
            vault.id, name="shop", auth=oauth(shop, "2020-01-01T00:00:00Z")
        )
        models["shop"] = who(shop, f"{vault.id}/{made.id}")
        began = await session(client, "shop", [vault.id], [served(shop, credential_id=made.id)])
        await told(client, began.id)
        assert set(shop.tokens) == {"canary-next-44120"}
        assert shop.forms == [
            {"grant_type": "refresh_token", "refresh_token": REFRESH, "scope": "read"}
        ]
        assert shop.basic == [f"me:{CLIENT}"]
        now = await credentials.retrieve(made.id, vault_id=vault.id)
        assert now.auth.type == "mcp_oauth"
        assert now.auth.expires_at is not None
        assert now.auth.expires_at > "2026"
        sealed = await server.server.vault_of("default").get(f"{vault.id}/{made.id}")
        assert sealed is not None
        assert json.loads(sealed.reveal())["refresh_token"] == "canary-next-44120-refresh"
        assert found(await everything(server, client, tmp_path, caplog)) == []


async def test_a_token_that_cannot_be_renewed_is_an_error_without_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with guarded() as shop, up({"talk": TALK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        vault = await client.beta.agents.vaults.create()
        await client.beta.agents.vaults.credentials.create(
            vault.id, name="shop", auth=oauth(shop, "2020-01-01T00:00:00Z")
        )
        with pytest.raises(openai.APIStatusError) as error:
            await session(client, "talk", [vault.id], [served(shop)])
        assert "gave no new token" in str(error.value)
        assert shop.tokens == []
        assert found([str(error.value), *await everything(server, client, tmp_path, caplog)]) == []


async def test_rotating_changes_secrets_and_not_where_they_go(tmp_path: Path) -> None:
    async with guarded() as shop, up({"talk": TALK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        vault = await client.beta.agents.vaults.create()
        credentials = client.beta.agents.vaults.credentials
        made = await credentials.create(
            vault.id, name="shop", auth=bearer(shop.url, "canary-old-3")
        )
        auth: Any = {"type": "static_bearer", "token": TOKEN, "mcp_server_url": "http://evil/mcp"}
        changed = await credentials.update(made.id, vault_id=vault.id, auth=auth)
        assert changed.auth.type == "static_bearer"
        assert changed.auth.mcp_server_url == shop.url
        shop.valid.add(TOKEN)
        await session(client, "talk", [vault.id], [served(shop)])
        assert set(shop.tokens) == {TOKEN}
        other: Any = {"type": "mcp_oauth", "access_token": "x"}
        with pytest.raises(openai.BadRequestError):
            await credentials.update(made.id, vault_id=vault.id, auth=other)


async def test_a_credential_is_used_at_its_own_server_only(tmp_path: Path) -> None:
    async with guarded() as shop, guarded() as other, up({"talk": TALK}) as server:
        shop.valid.add(TOKEN)
        client: Any = await server.openai()
        vault = await client.beta.agents.vaults.create()
        made = await client.beta.agents.vaults.credentials.create(
            vault.id, name="shop", auth=bearer(shop.url)
        )
        with pytest.raises(openai.PermissionDeniedError):
            await session(client, "talk", [vault.id], [served(other, credential_id=made.id)])
        with pytest.raises(openai.NotFoundError):  # of a vault that the session does not have
            await session(client, "talk", [], [served(shop, credential_id=made.id)])
        assert (shop.tokens, other.tokens) == ([], [])


async def test_clients_cannot_make_the_server_connect_to_where_it_stands() -> None:
    settings = ServerSettings(private_hosts=("allowed.example",))
    async with guarded() as shop, up({"talk": TALK}, settings=settings) as server:
        client: Any = await server.openai()
        with pytest.raises(openai.APIStatusError) as error:
            await session(client, "talk", [], [served(shop)])
        assert "not public" in str(error.value)
        vault = await client.beta.agents.vaults.create()
        auth = oauth(shop, "2020-01-01T00:00:00Z")
        await client.beta.agents.vaults.credentials.create(vault.id, name="shop", auth=auth)
        with pytest.raises(openai.APIStatusError):
            await session(client, "talk", [vault.id], [served(shop)])
        assert (shop.tokens, shop.forms) == ([], [])


def bearer(url: str, token: str = TOKEN) -> Any:
    return {"type": "static_bearer", "mcp_server_url": url, "token": token}


def oauth(shop: Guarded, expires_at: str) -> Any:
    way = {"type": "client_secret_basic", "client_secret": CLIENT}
    return {
        "type": "mcp_oauth", "mcp_server_url": shop.url, "access_token": TOKEN,
        "expires_at": expires_at, "refresh": {
            "client_id": "me", "refresh_token": REFRESH, "scope": "read",
            "token_endpoint": shop.token_endpoint, "token_endpoint_auth": way,
        },
    }  # fmt: skip


def served(shop: Guarded, **more: Any) -> Any:
    transport = {"type": "http", "server_url": shop.url}
    return {"type": "mcp", "server_label": "shop", "transport": transport, **more}


def who(shop: Guarded, credential: str) -> Model:
    """Return a model that asks the shop who we are, and repeats it."""
    name = server_name(McpServer(shop.url, "shop", credential=credential))
    return script(
        Reply(text="Who?", call=(Call(f"{name}__whoami", {}),)), Reply(text="{{last_result}}")
    )


async def session(client: Any, model: str, vaults: list[str], tools: list[Any]) -> Any:
    """Run a session to its rest; return it."""
    stream = await client.beta.agents.sessions.create(
        agent={"model": model, "tools": tools}, environment={"type": "none"}, input="Hi",
        vault_ids=vaults, stream=True,
    )  # fmt: skip
    events = [event async for event in stream]
    assert events[-1].type == "agent.session.idle"
    return events[-1].session


async def told(client: Any, name: str) -> list[Any]:
    """Return the items of a session."""
    return [item.to_dict() async for item in client.beta.agents.sessions.items.list(name)]


async def everything(
    server: Up, client: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> list[str]:
    """Return all there is to read: every file, every response, every line of the log."""
    paths = ["/vaults", "/agents", "/agents/sessions"]
    for listed in list(paths):
        found = await read(client, listed)
        paths += [f"{listed}/{each['id']}" for each in json.loads(found)["data"]]
    paths += [f"{p}/credentials" for p in paths if p.startswith("/vaults/")]
    for path in [p for p in paths if p.startswith("/agents/sessions/")]:
        paths += [f"{path}/items", f"{path}/turns", f"{path}/traces"]
    files = [p.read_bytes().decode("latin-1") for p in sorted(folder.rglob("*")) if p.is_file()]
    ours = [r for r in caplog.records if not r.name.startswith("openai")]
    logged = [f"{r.getMessage()} {r.exc_text or ''} {r.args!r}" for r in ours if not of_client(r)]
    return [*files, *logged, *[await read(client, path) for path in paths]]


def of_client(record: logging.LogRecord) -> bool:
    """Whether a record is of the test's own programs: the shop's frames, the client's requests."""
    return record.name.startswith(("mcp.server", "sse_starlette"))


async def read(client: Any, path: str) -> str:
    response = await client.get(path, cast_to=httpx2.Response)
    return str(response.text)


def found(texts: list[str]) -> list[tuple[str, int]]:
    """Return the secrets that are in there somewhere, as they are or in base64."""
    wanted = [*CANARIES, *(base64.b64encode(c.encode()).decode()[:-4] for c in CANARIES)]
    return [(each, n) for n, text in enumerate(texts) for each in wanted if each in text]
