"""Programs written for the OpenAI Agents SDK, with our server as the endpoint of their model."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import agents
import openai
import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunState,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from perdure.models.scripted import Alternative, Call
from perdure.ports.model import Model
from tests.doors.serving import Reply, script, up

QUIET = RunConfig(tracing_disabled=True)  # nothing leaves the machine


@pytest.fixture(autouse=True)
def no_traces() -> None:
    agents.set_tracing_disabled(True)


ADDS = script(
    Reply(
        call=(Call("add", {"a": 2, "b": 3}),),
        when=(Alternative(text="It is {{last_result}}.", if_result_contains="5"),),
    ),
    Reply(text="It is {{last_result}}."),  # where the server keeps the history
)
TALK = script(*(Reply(text="Hello, {{last_user}}."),) * 8)


@function_tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


class Weather(BaseModel):
    city: str
    degrees: int


def responses(name: str, client: AsyncOpenAI) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(model=name, openai_client=client)


def chat(name: str, client: AsyncOpenAI) -> OpenAIChatCompletionsModel:
    return OpenAIChatCompletionsModel(model=name, openai_client=client)


KINDS = pytest.mark.parametrize("kind", [responses, chat])


@asynccontextmanager
async def client_of(models: dict[str, Model], path: Path | None = None) -> AsyncIterator[Any]:
    async with up(models, path) as server:
        yield await server.openai()


@KINDS
async def test_a_run_with_a_tool(kind: Any) -> None:
    async with client_of({"adds": ADDS}) as client:
        agent = Agent(name="math", model=kind("adds", client), tools=[add], instructions="Add.")
        result = await Runner.run(agent, "2+3?", run_config=QUIET)
        assert result.final_output == "It is 5."
        assert [type(item).__name__ for item in result.new_items] == [
            "ToolCallItem",
            "ToolCallOutputItem",
            "MessageOutputItem",
        ]


@KINDS
async def test_a_streamed_run(kind: Any) -> None:
    async with client_of({"adds": ADDS}) as client:
        agent = Agent(name="math", model=kind("adds", client), tools=[add])
        result = Runner.run_streamed(agent, "2+3?", run_config=QUIET)
        said, steps = "", []
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                if event.data.type == "response.output_text.delta":
                    said += event.data.delta
            elif event.type == "run_item_stream_event":
                steps.append(event.name)
        assert said == result.final_output == "It is 5."
        assert steps == ["tool_called", "tool_output", "message_output_created"]


@KINDS
async def test_a_handoff(kind: Any) -> None:
    desk = script(Reply(call=(Call("transfer_to_billing"),)))
    billing = script(Reply(text="Paid."))
    async with client_of({"desk": desk, "billing": billing}) as client:
        second = Agent(name="billing", model=kind("billing", client))
        first = Agent(name="desk", model=kind("desk", client), handoffs=[second])
        result = await Runner.run(first, "I want to pay", run_config=QUIET)
        assert (result.final_output, result.last_agent.name) == ("Paid.", "billing")


@KINDS
async def test_a_structured_output(kind: Any) -> None:
    async with client_of({"json": script(Reply(text='{"city":"Oslo","degrees":-3}'))}) as client:
        agent = Agent(name="sky", model=kind("json", client), output_type=Weather)
        result = await Runner.run(agent, "How is Oslo?", run_config=QUIET)
        assert result.final_output == Weather(city="Oslo", degrees=-3)


async def test_a_person_approves_while_the_server_is_started_again(tmp_path: Path) -> None:
    ran: list[int] = []

    @function_tool(needs_approval=True)
    def refund(amount: int) -> str:
        """Pay money back."""
        ran.append(amount)
        return f"paid {amount}"

    pays = script(
        Reply(
            call=(Call("refund", {"amount": 7}),),
            when=(Alternative(text="Done: {{last_result}}.", if_result_contains="paid"),),
        )
    )
    path = tmp_path / "s.db"
    async with client_of({"pays": pays}, path) as client:
        agent = Agent(name="desk", model=responses("pays", client), tools=[refund])
        result = await Runner.run(agent, "Give 7 back", run_config=QUIET)
        assert [each.name for each in result.interruptions] == ["refund"]
        kept = result.to_state().to_json()
    assert ran == []
    async with client_of({"pays": pays}, path) as client:
        agent = Agent(name="desk", model=responses("pays", client), tools=[refund])
        state: Any = await RunState.from_json(agent, kept)
        state.approve(state.get_interruptions()[0])
        done = await Runner.run(agent, state, run_config=QUIET)
        assert (done.final_output, ran) == ("Done: paid 7.", [7])


async def test_a_session_that_is_a_conversation_of_ours(tmp_path: Path) -> None:
    # With the SDK's other kind of model this is refused by the SDK: it drops the items' ids.
    path = tmp_path / "s.db"
    async with client_of({"adds": ADDS, "talk": TALK}, path) as client:
        session = OpenAIConversationsSession(openai_client=client)
        agent = Agent(name="math", model=responses("adds", client), tools=[add])
        result = await Runner.run(agent, "2+3?", session=session, run_config=QUIET)
        assert result.final_output == "It is 5."
        name = session.session_id
        kept = await session.get_items()
        assert [item.get("type") for item in kept] == [
            "message",
            "function_call",
            "function_call_output",
            "message",
        ]
    async with client_of({"talk": TALK}, path) as client:
        session = OpenAIConversationsSession(conversation_id=name, openai_client=client)
        assert await session.get_items() == kept
        assert await session.get_items(limit=2) == kept[-2:]
        agent = Agent(name="talk", model=responses("talk", client))
        result = await Runner.run(agent, "and now", session=session, run_config=QUIET)
        assert result.final_output == "Hello, and now."
        last = await session.pop_item()
        assert last is not None
        assert last["role"] == "assistant"  # type: ignore[typeddict-item]
        assert len(await session.get_items()) == len(kept) + 1
        await session.add_items([{"role": "user", "content": f"{n}"} for n in range(45)])
        assert len(await session.get_items()) == len(kept) + 46
        await session.clear_session()
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(name)


async def test_a_run_whose_history_the_server_keeps(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with client_of({"adds": ADDS}, path) as client:
        name = (await client.conversations.create()).id
        agent = Agent(name="math", model=responses("adds", client), tools=[add])
        result = await Runner.run(agent, "2+3?", conversation_id=name, run_config=QUIET)
        assert result.final_output == "It is 5."
    async with client_of({"talk": TALK}, path) as client:
        agent = Agent(name="talk", model=responses("talk", client))
        result = await Runner.run(agent, "more", conversation_id=name, run_config=QUIET)
        assert result.final_output == "Hello, more."
        items = [item async for item in client.conversations.items.list(name, order="asc")]
        assert [item.type for item in items] == [
            "message",
            "function_call",
            "function_call_output",
            "message",
            "message",
            "message",
        ]


async def test_a_run_that_goes_on_from_a_response() -> None:
    async with client_of({"adds": ADDS}) as client:
        agent = Agent(name="math", model=responses("adds", client), tools=[add])
        result = await Runner.run(agent, "2+3?", auto_previous_response_id=True, run_config=QUIET)
        assert result.final_output == "It is 5."
        assert result.last_response_id is not None
        again = await Runner.run(
            agent, "again", previous_response_id=result.last_response_id, run_config=QUIET
        )
        assert again.final_output
