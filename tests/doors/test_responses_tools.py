"""Every kind of tool as OpenAI's SDK declares it, and as it comes back."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from perdure.core.agent import AgentSpec, ToolSpec
from perdure.core.errors import Unavailable
from perdure.doors.settings import ServerSettings
from perdure.doors.toolmaker import McpServer
from perdure.models.scripted import Alternative, Call
from perdure.serving.tools import server_name
from perdure.testing.fake_vendors import FakeVendor
from tests.contract.mcp_shop import Shop
from tests.doors.serving import Reply, script, up

LOCAL = ServerSettings(private_hosts=("127.0.0.1",))
ADD: Any = {"type": "function", "name": "add", "strict": False, "parameters": {"type": "object"}}
Shopping = tuple[Shop, str]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shopping]:
    made = Shop(tmp_path)
    port, _ = await made.serve()
    yield made, f"http://127.0.0.1:{port}/mcp"
    await made.close()


def ours(url: str, tool: str) -> str:
    """Return our name for a tool of the shop."""
    return f"{server_name(McpServer(url, 'shop'))}__{tool}"


def served(url: str, **more: Any) -> Any:
    return {"type": "mcp", "server_label": "shop", "server_url": url, **more}


def types(response: Any) -> list[str]:
    return [item.type for item in response.output]


async def test_an_mcp_call_that_has_to_be_approved(shop: Shopping) -> None:
    _, url = shop
    buy = Reply(text="Shall I?", call=(Call(ours(url, "pay"), {"order": 7}),))
    models = {"buy": script(buy, Reply(text="Paid: {{last_result}}."))}
    async with up(models, settings=LOCAL) as server:
        client = await server.openai()
        tools = [served(url)]
        first: Any = await client.responses.create(model="buy", input="Buy", tools=tools)
        assert types(first) == ["mcp_list_tools", "message", "mcp_approval_request"]
        listed, _, asked = first.output
        assert listed.server_label == "shop"
        assert {"look", "pay"} <= {tool.name for tool in listed.tools}
        assert (asked.name, asked.server_label, asked.arguments) == ("pay", "shop", '{"order":7}')
        for approve in (True, False):
            answer: Any = {
                "type": "mcp_approval_response", "approve": approve, "reason": "too dear",
                "approval_request_id": asked.id,
            }  # fmt: skip
            done: Any = await client.responses.create(
                model="buy", input=[answer], tools=tools, previous_response_id=first.id
            )
            if not approve:
                assert types(done) == ["message"]
                assert "too dear" in done.output_text
                continue
            assert types(done) == ["mcp_call", "message"]
            call = done.output[0]
            assert (call.name, call.server_label, call.status) == ("pay", "shop", "completed")
            assert (call.output, call.error) == ('pay {"order": 7}', None)
            assert call.approval_request_id == asked.id
            assert done.output_text == 'Paid: pay {"order": 7}.'


@pytest.mark.parametrize(
    ("rule", "asks"),
    [
        ("never", False),
        ("always", True),
        ({"always": {"tool_names": ["pay"]}}, True),
        ({"always": {"tool_names": ["look"]}}, False),
        ({"never": {"tool_names": ["pay"]}}, False),
        ({"never": {"read_only": True}}, True),
    ],
)
async def test_which_calls_are_asked_about(shop: Shopping, rule: Any, *, asks: bool) -> None:
    _, url = shop
    buy = Reply(call=(Call(ours(url, "pay"), {"order": 7}),))
    async with up({"buy": script(buy, Reply(text="Done."))}, settings=LOCAL) as server:
        client = await server.openai()
        tools = [served(url, require_approval=rule)]
        made: Any = await client.responses.create(model="buy", input="Buy", tools=tools)
        assert ("mcp_approval_request" in types(made)) is asks
        assert ("mcp_call" in types(made)) is not asks


async def test_only_allowed_tools_are_listed_and_only_once(shop: Shopping) -> None:
    _, url = shop
    models = {"talk": script(Reply(text="Hi."), Reply(text="Again."))}
    async with up(models, settings=LOCAL) as server:
        client = await server.openai()
        tools = [served(url, allowed_tools=["look"], require_approval="never")]
        first: Any = await client.responses.create(model="talk", input="Hi", tools=tools)
        assert [tool.name for tool in first.output[0].tools] == ["look"]
        again: Any = await client.responses.create(
            model="talk", input="Hi", tools=tools, previous_response_id=first.id
        )
        assert types(again) == ["message"], "the conversation holds the list already"


async def test_a_server_that_does_not_answer_is_told_at_once() -> None:
    async with up({"talk": script(Reply(text="Hi."))}, settings=LOCAL) as server:
        client = await server.openai()
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(
                model="talk", input="Hi", tools=[served("http://127.0.0.1:9/mcp")]
            )
        assert caught.value.status_code == 424
        assert "Error retrieving tool list from MCP server: 'shop'" in str(caught.value)


async def test_credentials_are_not_shown_or_stored(shop: Shopping, tmp_path: Path) -> None:
    _, url = shop
    models = {"talk": script(Reply(text="Hi."))}
    async with up(models, tmp_path / "s.db", settings=LOCAL) as server:
        client = await server.openai()
        tools = [served(url, authorization="tell-nobody", headers={"x-key": "tell-nobody"})]
        made: Any = await client.responses.create(model="talk", input="Hi", tools=tools)
        assert "tell-nobody" not in made.model_dump_json()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"tell-nobody" not in file.read_bytes()


async def test_credentials_are_sent_by_the_next_server_process_too(tmp_path: Path) -> None:
    sent: Any = {"authorization": "Bearer tell-nobody"}
    async with FakeVendor() as vendor:
        url = f"{vendor.url}/mcp"
        async with up(
            {"talk": script(Reply(text="Hi."))}, tmp_path / "s.db", settings=LOCAL
        ) as one:
            with pytest.raises(Unavailable):
                await one.server.tools_of("default").mcp(McpServer(url, "shop"), sent)
            docs = await one.server.stores.base.docs("mcp-server")
        before = len(vendor.requests)
        async with up(
            {"talk": script(Reply(text="Hi."))}, tmp_path / "s.db", settings=LOCAL
        ) as two:
            tool = ToolSpec("x", "", msgspec.Raw(b"{}"), source=f"mcp:{docs[0].name}")
            with pytest.raises(Unavailable):
                await two.server.tools_of("default").tools(
                    AgentSpec("a", "test:talk", tools=(tool,))
                )
        assert len(vendor.requests) > before
        assert vendor.requests[-1].headers["authorization"] == sent["authorization"]


async def test_a_custom_tool() -> None:
    run = Reply(call=(Call("calc", {"input": "2 + 3"}),))
    async with up({"run": script(run, Reply(text="It is {{last_result}}."))}) as server:
        client = await server.openai()
        tools: Any = [{"type": "custom", "name": "calc", "description": "Counts."}]
        stream = await client.responses.create(model="run", input="?", tools=tools, stream=True)
        seen = [event async for event in stream]
        kinds = [event.type for event in seen]
        assert "response.custom_tool_call_input.delta" in kinds
        first: Any = seen[-1]
        call = first.response.output[0]
        assert (call.type, call.name, call.input) == ("custom_tool_call", "calc", "2 + 3")
        output: Any = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "5"}
        done: Any = await client.responses.create(
            model="run", input=[output], tools=tools, previous_response_id=first.response.id
        )
        assert done.output_text == "It is 5."


async def test_a_shell_that_the_client_runs() -> None:
    run = Reply(call=(Call("shell", {"commands": ["ls", "pwd"], "timeout_ms": 500}),))
    async with up({"run": script(run, Reply(text="So: {{last_result}}"))}) as server:
        client = await server.openai()
        tools: Any = [{"type": "shell", "environment": {"type": "local"}}]
        first: Any = await client.responses.create(model="run", input="?", tools=tools)
        call: Any = first.output[0]
        assert call.type == "shell_call"
        assert (call.action.commands, call.action.timeout_ms) == (["ls", "pwd"], 500)
        assert call.environment.type == "local"
        outcome = {"type": "exit", "exit_code": 2}
        output: Any = {
            "type": "shell_call_output", "call_id": call.call_id,
            "output": [{"stdout": "a\n", "stderr": "oh", "outcome": outcome}],
        }  # fmt: skip
        done: Any = await client.responses.create(
            model="run", input=[output], tools=tools, previous_response_id=first.id
        )
        assert done.output_text == "So: a\noh\n[exit code 2]"


async def test_a_shell_in_a_sandbox_of_ours(tmp_path: Path) -> None:
    run = Reply(call=(Call("bash", {"command": "echo hi; exit 3"}),))
    look = Reply(call=(Call("bash", {"command": "cat kept 2>&1 || touch kept"}),))
    models = {"run": script(run, Reply(text="Ran."), look, Reply(text="Looked."))}
    async with up(models, tmp_path / "s.db") as server:
        client = await server.openai()
        tools: Any = [{"type": "shell", "environment": {"type": "container_auto"}}]
        stream = await client.responses.create(model="run", input="?", tools=tools, stream=True)
        seen: list[Any] = [event async for event in stream]
        done = seen[-1].response
        assert types(done) == ["shell_call", "shell_call_output", "message"]
        call, output, _ = done.output
        assert call.action.commands == ["echo hi; exit 3"]
        assert output.call_id == call.call_id
        assert output.output[0].stdout == "hi\n"
        assert output.output[0].outcome.exit_code == 3
        assert "response.shell_call_command.done" in [event.type for event in seen]


async def test_what_is_not_offered_here_is_refused() -> None:
    async with up({"talk": script(Reply(text="Hi."))}) as server:
        client = await server.openai()
        for tool in ({"type": "web_search"}, {"type": "shell", "environment": {"type": "moon"}}):
            with pytest.raises(openai.BadRequestError):
                await client.responses.create(model="talk", input="Hi", tools=[tool])  # type: ignore[list-item]


async def test_parallel_calls_are_answered_together() -> None:
    both = Reply(call=(Call("add", {"a": 1}), Call("add", {"a": 2})))
    answered = Alternative(text="Both: {{last_result}}", if_result_contains="2")
    async with up({"run": script(both, Reply(text="?", when=(answered,)))}) as server:
        client = await server.openai()
        first: Any = await client.responses.create(model="run", input="?", tools=[ADD])
        calls: list[Any] = list(first.output)
        outputs: list[Any] = [
            {"type": "function_call_output", "call_id": call.call_id, "output": str(n)}
            for n, call in enumerate(calls, 1)
        ]
        body: Any = {"model": "run", "tools": [ADD], "previous_response_id": first.id}
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(input=outputs[:1], **body)
        said = f"No tool output found for function call {calls[1].call_id}."
        assert said in str(caught.value)
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(input="never mind", **body)
        done: Any = await client.responses.create(input=outputs, **body)
        assert done.output_text == "Both: 2"
        stray: Any = {"type": "function_call_output", "call_id": "call_x", "output": "1"}
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="run", input=[stray])
        assert "No tool call found for function call output with call_id call_x" in str(
            caught.value
        )
