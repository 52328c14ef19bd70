"""Requests beside each other: one that fails, waits or comes twice does not touch the others."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.doors.turns import OneAtATime
from tests.contract.mcp_shop import Shop
from tests.doors.serving import Reply, script, up
from tests.doors.test_responses_socket import LAST, until

TALK = script(Reply(text="Hello."), Reply(text="Hello again."))
DEAD: Any = {
    "type": "mcp", "server_label": "gone",
    "transport": {"type": "http", "server_url": "http://127.0.0.1:9/mcp"},
}  # fmt: skip


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[str]:
    made = Shop(tmp_path)
    port, _ = await made.serve()
    yield f"http://127.0.0.1:{port}/mcp"
    await made.close()


def target(*tools: Any) -> Any:
    said = [{"role": "user", "content": [{"type": "input_text", "text": "time"}]}]
    agent = {"model": "talk", "tools": list(tools)}
    return {
        "type": "new_session", "agent": agent, "environment": {"type": "none"}, "input": said,
    }  # fmt: skip


async def test_an_automation_that_cannot_be_delivered_holds_up_no_other() -> None:
    async with up({"talk": TALK}) as server:
        one: Any = await server.openai("aaa")  # the project that comes first
        other: Any = await server.openai("lab")
        now: dict[str, Any] = {"name": "n", "type": "once", "run_at": int(time.time())}
        for client, given in ((one, target(DEAD)), (one, target()), (other, target())):
            last = await client.beta.agents.automations.create(**now, target=given)
            if given == target():
                async with asyncio.timeout(20):
                    while True:
                        runs = client.beta.agents.automations.invocations.list(last.id)
                        if [run.status async for run in runs] == ["completed"]:
                            break


async def test_one_key_at_once_makes_one_response(shop: str) -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        tool: Any = {"type": "mcp", "server_label": "shop", "server_url": shop}

        async def make() -> str:
            made = await client.responses.create(
                model="talk", input="Hi", tools=[tool], extra_headers={"idempotency-key": "k"}
            )
            return made.id

        assert len(set(await asyncio.gather(*(make() for _ in range(4))))) == 1


async def test_one_key_at_once_adds_items_once(tmp_path: Path) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client = await server.openai()
        conversation = (await client.conversations.create()).id
        item: Any = {"role": "user", "content": "Hi"}

        async def add() -> str:
            made = await client.conversations.items.create(
                conversation, items=[item], extra_headers={"idempotency-key": "k"}
            )
            return str(made.data[0].id)

        assert len(set(await asyncio.gather(*(add() for _ in range(4))))) == 1
        assert len([each async for each in client.conversations.items.list(conversation)]) == 1


async def test_names_are_held_by_one_and_not_remembered() -> None:
    turns, inside = OneAtATime(), list[str]()

    async def take(name: str) -> None:
        async with turns.of(name):
            assert name not in inside
            inside.append(name)
            await asyncio.sleep(0)
            inside.remove(name)

    await asyncio.gather(*(take(name) for name in "abab"))
    assert vars(turns) == {"_locks": {}, "_asking": {}}


async def test_a_viewer_makes_the_server_connect_to_nobody(shop: str) -> None:
    async with up({"talk": TALK}) as server:
        viewer = await server.openai(role="viewer")
        tool: Any = {
            "type": "mcp", "server_label": "shop", "server_url": shop, "authorization": "t0ken",
        }  # fmt: skip
        with pytest.raises(openai.PermissionDeniedError):
            await viewer.responses.input_tokens.count(model="talk", input="Hi", tools=[tool])
        for kind in ("secret", "mcp-server"):
            assert not await server.server.stores.base.docs(kind)


@pytest.mark.parametrize("wrong", [{"user": 10**30}, {"model": ["x"]}, {"model": 7}])
async def test_nonsense_on_a_socket_leaves_its_lane_working(wrong: dict[str, Any]) -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        body: Any = {"type": "response.create", "model": "talk", "input": "Hi"}
        async with client.responses.connect() as connection, asyncio.timeout(20):
            sent: Any = {**body, **wrong}
            await connection.send(sent)
            assert (await connection.recv()).type == "error"
            await connection.send(body)
            assert (await until(connection, *LAST))[-1].type == "response.completed"


async def test_a_connection_names_so_many_streams_and_no_more() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        async with client.responses.connect() as connection, asyncio.timeout(20):
            told: Any = None
            for number in range(257):  # what cannot be answered has a stream, too
                wrong: Any = {"type": "response.create", "model": 7, "stream_id": f"s{number}"}
                await connection.send(wrong)
                told = await connection.recv()
            assert "different stream_ids" in told.message
