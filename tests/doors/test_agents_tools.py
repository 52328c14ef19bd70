"""What sessions of the Agents API do beside talking: servers, commands, subagents, budgets."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.core.budget import Price
from perdure.doors.toolmaker import McpServer
from perdure.models.scripted import Alternative, Call, Failure
from perdure.serving.tools import server_name
from tests.contract.mcp_shop import Shop
from tests.doors.serving import Reply, script, up
from tests.doors.test_agents_sessions import NOWHERE, agents_of, message, reached, required

HOSTED: Any = {"type": "openai_hosted"}
Shopping = tuple[Shop, str]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shopping]:
    made = Shop(tmp_path)
    port, _ = await made.serve()
    yield made, f"http://127.0.0.1:{port}/mcp"
    await made.close()


def served(url: str, **more: Any) -> Any:
    transport = {"type": "http", "server_url": url}
    return {"type": "mcp", "server_label": "shop", "transport": transport, **more}


def pays(url: str) -> Any:
    tool = f"{server_name(McpServer(url, 'shop'))}__pay"
    first = Reply(text="Shall I?", call=(Call(tool, {"order": 7}),))
    return script(first, Reply(text="So: {{last_result}}."))


def decision(request: str, decision: str) -> Any:
    response = {"type": "mcp_tool_call", "decision": decision}
    kind = "agent.session.input.mcp_approval_request_result"
    return {"type": kind, "request_id": request, "response": response}


@pytest.mark.parametrize("decided", ["approve", "deny", "cancel"])
async def test_a_call_of_a_server_that_waits_for_approval(shop: Shopping, decided: str) -> None:
    _, url = shop
    async with up({"pays": pays(url)}) as server:
        sessions = (await agents_of(server)).sessions
        tools = [served(url, require_approval="always")]
        made = await sessions.create(
            agent={"model": "pays", "tools": tools}, environment=NOWHERE, input="Pay"
        )
        assert "require_approval" in made.agent.tools[0].to_dict()
        asked = await required(sessions, made.id)
        assert asked.type == "mcp_approval_request"
        request = asked.request
        assert (request.server_label, request.name, request.arguments) == (
            "shop", "pay", {"order": 7},
        )  # fmt: skip
        await sessions.events.create(made.id, events=[decision(asked.request_id, decided)])
        await reached(sessions, made.id, "idle")
        items = [item async for item in sessions.items.list(made.id, order="asc")]
        (call,) = [item for item in items if item.type == "mcp_call"]
        assert (call.name, call.server_label) == ("pay", "shop")
        assert call.status == ("completed" if decided == "approve" else "failed")
        # One that comes too late changes nothing and harms nobody.
        await sessions.events.create(made.id, events=[decision(asked.request_id, "approve")])
        (turn,) = [turn async for turn in sessions.turns.list(made.id)]
        assert turn.status == "completed"


async def test_a_server_that_needs_no_approval_is_simply_called(shop: Shopping) -> None:
    _, url = shop
    async with up({"pays": pays(url)}) as server:
        sessions = (await agents_of(server)).sessions
        agent: Any = {"model": "pays", "tools": [served(url, allowed_tools=["pay"])]}
        made = await sessions.create(agent=agent, environment=NOWHERE)
        async with sessions.stream(made.id, input="Pay") as stream:
            result = await stream.get_final_result()
        assert result.output_text.startswith("So: ")


async def test_commands_of_a_hosted_environment_are_shown(tmp_path: Path) -> None:
    work = script(
        Reply(text="I look.", call=(Call("bash", {"command": "echo hello > a; cat a; exit 3"}),)),
        Reply(call=(Call("read", {"path": "a"}),)),
        Reply(text="Done."),
    )
    async with up({"work": work}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "work"}, environment=HOSTED)
        assert made.environment.type == "openai_hosted"
        async with sessions.stream(made.id, input="Go") as stream:
            events = [event async for event in stream]
        kind = "agent.output.command_execution_output.delta"
        deltas = [event.delta for event in events if event.type == kind]
        items = [item async for item in sessions.items.list(made.id, order="asc")]
        ran, read = [item for item in items if item.type == "command_execution"]
        assert (ran.command, ran.exit_code) == ("echo hello > a; cat a; exit 3", 3)
        assert ran.output == deltas[0]
        assert "hello" in (ran.output or "")
        assert read.command == 'read {"path": "a"}'


async def test_a_subagent_has_turns_and_items_of_its_own(tmp_path: Path) -> None:
    crew = script(
        Reply(
            text="I have it done.",
            call=(Call("create_subagent", {"task": "Count the stars."}),),
            when=(Alternative(text="There are nine.", if_user_contains="Count the stars"),),
        ),
        Reply(text="It says: {{last_result}}"),
    )
    async with up({"crew": crew}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        agent: Any = {"model": "crew", "multi_agent": {"enabled": True}}
        made = await sessions.create(agent=agent, environment=NOWHERE)
        assert made.agent.multi_agent.max_concurrent_subagents == 6
        async with sessions.stream(made.id, input="How many?") as stream:
            events = [event async for event in stream]
        told = [event for event in events if event.type.startswith("agent.session.subagent.")]
        assert [event.type.rpartition(".")[2] for event in told] == ["created", "closed"]
        (below,) = [each async for each in sessions.subagents.list(made.id)]
        assert below == told[-1].subagent
        assert (below.status, below.parent_agent_id) == ("closed", made.agent.id)
        assert below == await sessions.subagents.retrieve(below.id, session_id=made.id)
        (turn,) = [t async for t in sessions.subagents.turns.list(below.id, session_id=made.id)]
        assert (turn.subagent_id, turn.status) == (below.id, "completed")
        at = {"subagent_id": below.id, "session_id": made.id}
        assert await sessions.subagents.turns.retrieve(turn.id, **at) == turn
        items = [i async for i in sessions.subagents.turns.items.list(turn.id, **at, order="asc")]
        assert [item.content[0].text for item in items] == ["Count the stars.", "There are nine."]
        own = [item async for item in sessions.items.list(made.id, order="asc")]
        (call,) = [item for item in own if item.type == "create_subagent_call"]
        assert (call.agent_id, call.status) == (below.id, "completed")
        assert own[-1].content[0].text == "It says: There are nine."
        with pytest.raises(openai.NotFoundError):
            await sessions.subagents.retrieve("sess_of_others", session_id=made.id)


async def test_a_spent_budget_pauses_and_more_of_it_goes_on() -> None:
    dear = {"test:spends": Price(input=20.0, output=20.0)}  # one call may cost more than a cent
    async with up({"spends": script(Reply(text="One."))}, prices=dear) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(
            agent={"model": "spends"}, environment=NOWHERE, spend_control={"limit": 1}, input="Go"
        )
        spent = await reached(sessions, made.id, "budget_reached")
        assert spent.spend_control.limit == 1
        (turn,) = [turn async for turn in sessions.turns.list(made.id)]
        assert (turn.status, turn.error.code) == ("failed", "session_budget_exceeded")
        changed = await sessions.update(made.id, spend_control=None)
        assert changed.spend_control.limit is None
        done = await reached(sessions, made.id, "idle")
        assert done.status == "idle"


async def test_a_turn_that_fails_says_why_and_the_session_stays_usable() -> None:
    fails = script(
        Reply(text="Never.", error=Failure("bad_request", "no such thing", times=9)),
        Reply(text="Better."),
    )
    async with up({"fails": fails}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "fails"}, environment=NOWHERE, input="Go")
        await reached(sessions, made.id, "idle")
        (turn,) = [turn async for turn in sessions.turns.list(made.id)]
        assert (turn.status, turn.error.code) == ("failed", "invalid_request")
        assert (await sessions.retrieve(made.id)).status == "idle"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"agent": {"model": "talk"}}, "environment"),
        ({"environment": {"type": "moon"}}, "environment.type"),
        ({"environment": NOWHERE, "spend_control": {"limit": 0}}, "spend_control.limit"),
        ({"environment": NOWHERE, "review": "auto_review"}, "review"),
        ({"environment": NOWHERE, "agent": {"tools": [{"type": "computer_use"}]}}, "tools[0].type"),
        ({"environment": NOWHERE, "input": [{"role": "system", "content": "x"}]}, "input"),
    ],
)
async def test_what_cannot_be_had_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    async with up({"talk": script(Reply(text="Hi"))}) as server:
        client = await server.openai()
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/agents/sessions", body=body, cast_to=object)
        assert refused.value.body["param"] == param  # type: ignore[index]
        assert [s async for s in client.beta.agents.sessions.list()] == []


async def test_an_image_reaches_the_model_and_is_listed() -> None:
    async with up({"talk": script(Reply(text="A dot."))}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "talk"}, environment=NOWHERE)
        url = "data:image/png;base64,iVBORw0KGgo="
        event = message("What is it?")
        event["input"][0]["content"].append({"type": "input_image", "image_url": url})
        await sessions.events.create(made.id, events=[event])
        await reached(sessions, made.id, "idle")
        said, _ = [item async for item in sessions.items.list(made.id, order="asc")]
        assert [part.type for part in said.content] == ["input_text", "input_image"]
        assert said.content[1].image_url == url
