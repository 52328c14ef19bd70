"""What opens MCP servers for us is in no error and in no result, and is not sent twice at once."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.doors.toolmaker import McpServer
from perdure.models.scripted import Call
from perdure.ports.model import Model
from tests.doors.guarded import guarded
from tests.doors.serving import Reply, script, up
from tests.doors.test_vaults import TALK, TOKEN, bearer, served as in_session, session

TORN = f"{TOKEN}\nx"


def served(url: str, **more: Any) -> Any:
    return {"type": "mcp", "server_label": "shop", "server_url": url, **more}


async def test_a_token_that_no_header_can_hold_is_not_repeated(tmp_path: Path) -> None:
    async with guarded() as shop, up({"talk": TALK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        vault = await client.beta.agents.vaults.create()
        auth = {**bearer(shop.url), "token": TORN}
        await client.beta.agents.vaults.credentials.create(vault.id, name="shop", auth=auth)
        with pytest.raises(openai.APIStatusError, match="no header may hold") as error:
            await session(client, "talk", [vault.id], [in_session(shop)])
        assert TOKEN not in str(error.value)
        tool = served(shop.url, headers={"x-key": TORN})
        with pytest.raises(openai.APIStatusError, match="no header may hold") as error:
            await client.responses.create(model="talk", input="Hi", tools=[tool])
        assert TOKEN not in str(error.value)
        assert shop.tokens == []


async def test_what_came_with_a_request_is_not_in_results(tmp_path: Path) -> None:
    models: dict[str, Model] = {"talk": TALK}
    async with guarded() as shop, up(models, tmp_path / "s.db") as server:
        shop.valid.add(TOKEN)
        client = await server.openai()
        tool: Any = served(shop.url, authorization=TOKEN, require_approval="never")
        first: Any = await client.responses.create(model="talk", input="Hi", tools=[tool])
        assert first.output[0].tools[0].name == "whoami"
        name = (await server.server.stores.base.docs("mcp-server"))[0].name
        models["shop"] = script(
            Reply(call=(Call(f"{name}__whoami", {}),)), Reply(text="{{last_result}}")
        )
        done = await client.responses.create(model="shop", input="Who?", tools=[tool])
        assert "You are ***" in done.output_text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()


async def test_an_address_with_a_password_is_not_kept() -> None:
    async with up({"talk": TALK}) as server:
        client: Any = await server.openai()
        url = f"http://me:{TOKEN}@127.0.0.1:9/mcp"
        with pytest.raises(openai.PermissionDeniedError) as error:
            await client.responses.create(model="talk", input="Hi", tools=[served(url)])
        assert TOKEN not in str(error.value)
        assert not await server.server.stores.base.docs("mcp-server")


async def test_a_server_that_many_ask_for_at_once_is_connected_to_once() -> None:
    async with guarded() as shop, up({"talk": TALK}) as server:
        shop.valid.add(TOKEN)
        tools = server.server.tools_of("default")
        sent = {"authorization": f"Bearer {TOKEN}"}
        where = McpServer(shop.url, "shop")
        specs = await asyncio.gather(*(tools.mcp(where, sent) for _ in range(4)))
        assert len({json.dumps([each.name for each in spec]) for spec in specs}) == 1
        connections = [t for t in asyncio.all_tasks() if t.get_name().startswith("mcp ")]
        assert len(connections) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"Authorization": f"Bearer {TOKEN}"}},
        {"headers": {"cookie": f"session={TOKEN}"}},
        {"server_url": f"https://me:{TOKEN}@shop.example/mcp"},
        {"authorization": TOKEN},
    ],
)
async def test_an_agent_holds_nothing_that_authorises_us(wrong: dict[str, Any]) -> None:
    async with up({"talk": TALK}) as server:
        client: Any = await server.openai()
        transport = {"type": "http", "server_url": "https://shop.example/mcp", **wrong}
        tool = {"type": "mcp", "server_label": "shop", "transport": transport}
        with pytest.raises(openai.BadRequestError, match="into a vault") as error:
            await client.beta.agents.create(model="talk", tools=[tool])
        assert TOKEN not in str(error.value)
        viewer: Any = await server.openai(role="viewer")
        assert [each async for each in viewer.beta.agents.list()] == []
