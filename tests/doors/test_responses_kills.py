"""A response outlives its server: killed anywhere, resumed, and nothing of its stream differs from
what one undisturbed process would have shown.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from perdure.core.codec import encode
from perdure.core.inbox import Decide
from perdure.doors.toolmaker import McpServer
from perdure.engine.journal import load
from perdure.models.scripted import Call, Reply, Script
from perdure.serving.tools import server_name
from perdure.stores.projects import ProjectStores
from perdure.stores.sqlite import SqliteStore
from tests.contract.mcp_shop import Shop
from tests.doors.process import Home, home

TEXT = "The quick brown fox jumps over the lazy dog, and then over the fence."
THOUGHT = "Let me think about foxes and dogs for a moment."
TALK = Script((Reply(text=TEXT, reasoning=THOUGHT),), delay_s=0.003, chunk_chars=4)
CALLS = Script(
    (
        Reply(
            text="I look.",
            reasoning="Where?",
            call=(Call("add", {"a": 1, "b": 22}), Call("add", {"a": 3, "b": 4})),
        ),
        Reply(text="Done: {{last_result}}."),
    ),
    delay_s=0.003,
    chunk_chars=3,
)
ADD = {"type": "function", "name": "add", "strict": False, "parameters": {"type": "object"}}
GONE = (openai.APIConnectionError, openai.APIError)
Events = list[dict[str, Any]]


async def taken(stream: Any, into: Events, most: int = 10_000) -> bool:
    """Read a stream into a list; say whether it came to its end."""
    try:
        async for event in stream:
            into.append(event.to_dict())
            if len(into) >= most:
                return False
    except Exception:  # noqa: BLE001  # however a client notices that its server is dead
        return False
    return bool(into) and into[-1]["type"] in ("response.completed", "response.failed")


def check(seen: Events) -> dict[str, Any]:
    """Check a whole stream; return the response it ends with."""
    assert [e["sequence_number"] for e in seen] == list(range(len(seen)))
    final: dict[str, Any] = seen[-1]["response"]
    written: dict[str, str] = {}
    for event in seen:
        if event["type"].endswith((".delta",)) and "item_id" in event:
            written[event["item_id"]] = written.get(event["item_id"], "") + event["delta"]
    added = {e["item"]["id"]: e["output_index"] for e in seen if e["type"].endswith("item.added")}
    assert {item["id"]: n for n, item in enumerate(final["output"])} == added
    for item in final["output"]:
        if item["id"] in written:
            assert written[item["id"]] == said(item)
    return final


def said(item: dict[str, Any]) -> str:
    match item["type"]:
        case "message":
            return "".join(part["text"] for part in item["content"])
        case "reasoning":
            return "".join(part["text"] for part in item["summary"])
        case _:
            return str(item["arguments"])


def gist(response: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what a response came to, without ids."""
    done = [i for i in response["output"] if i.get("status") != "incomplete"]
    return [(i["type"], i.get("name", ""), said(i)) for i in done if i["type"] != "mcp_list_tools"]


async def began(client: AsyncOpenAI, seen: Events, most: int = 10_000, **body: Any) -> str:
    stream = await client.responses.create(background=True, stream=True, input="Go", **body)
    with contextlib.suppress(*GONE):
        await taken(stream, seen, most)
    await stream.close()
    return str(seen[0]["response"]["id"]) if seen else ""


async def resumed(client: AsyncOpenAI, name: str, seen: Events) -> bool:
    after = seen[-1]["sequence_number"] if seen else -1
    stream = await client.responses.retrieve(name, stream=True, starting_after=after)
    try:
        return await taken(stream, seen)
    finally:
        await stream.close()


async def again(client: AsyncOpenAI, name: str) -> Events:
    """Read the whole stream once more."""
    stream = await client.responses.retrieve(name, stream=True)
    found: Events = []
    await taken(stream, found)
    return found


async def undisturbed(here: Home, **body: Any) -> list[tuple[str, str, str]]:
    await here.start()
    seen: Events = []
    await began(await here.openai(), seen, **body)
    final = check(seen)
    await here.kill()
    return gist(final)


@pytest.mark.parametrize("model", ["talk", "calls"])
async def test_killed_after_any_event_and_resumed(tmp_path: Path, model: str) -> None:
    body: dict[str, Any] = {"model": model, "tools": [ADD] if model == "calls" else []}
    async with home(tmp_path / "s.db", {"talk": TALK, "calls": CALLS}) as here:
        wanted = await undisturbed(here, **body)
        for most in (1, 2, 4, 7, 11, 16):
            await here.start()
            seen: Events = []
            name = await began(await here.openai(), seen, most, **body)
            await here.kill()
            await here.start()
            client = await here.openai()
            assert await resumed(client, name, seen)
            assert gist(check(seen)) == wanted
            assert await again(client, name) == seen
            await here.kill()


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_every_write(tmp_path: Path, *, after: bool) -> None:
    body: dict[str, Any] = {"model": "calls", "tools": [ADD]}
    async with home(tmp_path / "s.db", {"calls": CALLS}) as here:
        wanted = await undisturbed(here, **body)
        survived = 0
        for number in range(1, 13, 2):
            await here.start(number, after=after)
            seen: Events = []
            with contextlib.suppress(*GONE):
                await began(await here.openai(), seen, **body)
            if not seen:
                await here.dead()
                continue  # nobody was promised anything
            if here.process is not None and here.process.is_alive():
                await here.kill()
            await here.start()
            client = await here.openai()
            name = seen[0]["response"]["id"]
            if seen[-1]["type"] != "response.completed":
                assert await resumed(client, name, seen)
            assert gist(check(seen)) == wanted
            assert await again(client, name) == seen
            survived += 1
            await here.kill()
        assert survived >= 3


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(tmp_path)
    yield made
    await made.close()


async def test_two_model_calls_with_a_tool_of_a_server_between_them(
    tmp_path: Path, shop: Shop
) -> None:
    port, _ = await shop.serve()
    url = f"http://127.0.0.1:{port}/mcp"
    tool = {"type": "mcp", "server_label": "shop", "server_url": url, "require_approval": "never"}
    async with home(tmp_path / "s.db", {}) as here:
        here.scripts["mcp"] = looking(url)
        body: dict[str, Any] = {"model": "mcp", "tools": [tool]}
        wanted = await undisturbed(here, **body)
        assert [kind for kind, _, _ in wanted] == ["message", "mcp_call", "message"]
        for most in (5, 12, 20, 26):
            await here.start()
            seen: Events = []
            name = await began(await here.openai(), seen, most, **body)
            await here.kill()
            await here.start()
            client = await here.openai()
            assert await resumed(client, name, seen)
            assert gist(check(seen)) == wanted
            assert await again(client, name) == seen
            await here.kill()


def looking(url: str) -> Script:
    """A script that calls the server's tool by the name we have for it."""
    name = f"{server_name(McpServer(url, 'shop'))}__look"
    first = Reply(text="Looking it up.", call=(Call(name, {"order": 7}),))
    return Script((first, Reply(text="Found: {{last_result}}.")), delay_s=0.003, chunk_chars=4)


async def test_a_call_that_may_happen_once_is_not_made_again_by_itself(
    tmp_path: Path, shop: Shop
) -> None:
    port, _ = await shop.serve()
    url = f"http://127.0.0.1:{port}/mcp"
    tool: Any = {
        "type": "mcp", "server_label": "shop", "server_url": url, "require_approval": "never"
    }  # fmt: skip
    name = f"{server_name(McpServer(url, 'shop'))}__hang"
    call = Call(name, {"mark": str(tmp_path / "mark")})
    path = tmp_path / "s.db"
    async with home(path, {"mcp": Script((Reply(call=(call,)), Reply(text="So be it.")))}) as here:
        await here.start()
        seen: Events = []
        client = await here.openai()
        stream: Any = await client.responses.create(
            model="mcp",
            input="Go",
            background=True,
            stream=True,
            tools=[tool],
        )
        async for event in stream:
            seen.append(event.to_dict())
            if event.type == "response.mcp_call_arguments.done":
                break
        await here.kill()
        await stream.close()
        await here.start()
        response = seen[0]["response"]["id"]
        store = await SqliteStore.open(path)
        try:
            while not (state := (await load(store, response))[0]).actions:
                await store.changed(5.0)
            (action,) = state.actions.values()
            assert action.kind == "resolve"
            done = Decide(action.id, "done", "a person", result="it was done")
            await store.post(response, "decided", encode(done))
        finally:
            await store.close()
        assert await resumed(await here.openai(), response, seen)
        final = check(seen)
        assert [item["type"] for item in final["output"]][-2:] == ["mcp_call", "message"]
        assert final["output"][-2]["output"] == "it was done"


async def test_a_foreground_stream_that_broke_can_be_fetched(tmp_path: Path) -> None:
    async with home(tmp_path / "s.db", {"talk": TALK}) as here:
        await here.start()
        client = await here.openai()
        stream = await client.responses.create(model="talk", input="Go", stream=True)
        seen: Events = []
        await taken(stream, seen, 5)
        await here.kill()
        await stream.close()
        await here.start()
        assert await resumed(await here.openai(), seen[0]["response"]["id"], seen)
        assert gist(check(seen)) == [("reasoning", "", THOUGHT), ("message", "", TEXT)]


@pytest.mark.parametrize("project", ["default", "other"])
async def test_unfinished_work_goes_on_without_anybody_asking(tmp_path: Path, project: str) -> None:
    path = tmp_path / "s.db"
    async with home(path, {"talk": TALK}) as here:
        await here.start()
        seen: Events = []
        name = await began(await here.openai(project), seen, 4, model="talk")
        await here.kill()
        await here.start()
        base = await SqliteStore.open(path)
        store = ProjectStores(base).of(project)
        try:
            while (row := await store.session(name)) is None or row.status != "idle":
                assert row is None or row.status == "running"
                await base.changed(5.0)
        finally:
            await base.close()
        assert here.process is not None and here.process.is_alive()


async def test_the_check_notices_what_must_not_happen(tmp_path: Path) -> None:
    async with home(tmp_path / "s.db", {"talk": TALK}) as here:
        await here.start()
        seen: Events = []
        await began(await here.openai(), seen, model="talk")
        check(seen)
        pieces = [n for n, e in enumerate(seen) if e["type"] == "response.output_text.delta"]
        piece = pieces[len(pieces) // 2]
        again_shown = numbered([*seen[: piece + 1], seen[piece], *seen[piece + 1 :]])
        left_out = numbered([*seen[:piece], *seen[piece + 1 :]])
        begun_anew = [renamed(e) if n > piece else e for n, e in enumerate(seen)]
        for wrong in (again_shown, left_out, begun_anew, seen[:piece] + seen[piece + 1 :]):
            with pytest.raises((AssertionError, KeyError)):
                check(wrong)


def numbered(events: Events) -> Events:
    return [event | {"sequence_number": n} for n, event in enumerate(events)]


def renamed(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as a server would show it that made ids anew after its restart."""
    return event | {"item_id": "msg_new"} if "item_id" in event else event
