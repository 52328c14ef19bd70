"""OpenAI's own SDK against our Agents API: agents, sessions, turns, items, streams."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.models.scripted import Call
from tests.doors.serving import Reply, script, up

TALK = script(Reply(text="Hello there, friend."), Reply(text="And again: {{last_user}}."))
ADDS = script(
    Reply(text="Let me see.", call=(Call("add", {"a": 2, "b": 3}),)),
    Reply(text="It is {{last_result}}."),
    Reply(text="And again: {{last_user}}."),
)
ADD = {
    "type": "function",
    "name": "add",
    "description": "add numbers",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
}
NOWHERE: dict[str, Any] = {"type": "none"}


async def agents_of(server: Any, *which: Any, **more: Any) -> Any:
    """Return the agents of a client of a server's."""
    return (await server.openai(*which, **more)).beta.agents


def add(arguments: dict[str, Any]) -> str:
    return str(arguments["a"] + arguments["b"])


async def test_agents_are_kept_with_all_they_were_given(tmp_path: Path) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        agents = await agents_of(server)
        made = await agents.create(model="talk", name="ada", tools=[ADD], metadata={"team": "x"})
        assert (made.object, made.name, made.metadata) == ("agent", "ada", {"team": "x"})
        assert made.text.format.type == "text"
        assert made.multi_agent.enabled is False
        assert await agents.retrieve(made.id) == made
        changed = await agents.update(
            made.id, instructions="Be brief.", reasoning={"effort": "low"}
        )
        assert (changed.instructions, changed.name, changed.tools) == (
            "Be brief.", "ada", made.tools,
        )  # fmt: skip
        assert changed.reasoning.effort == "low"
        others = [await agents.create(model="talk", name=str(n)) for n in range(4)]
        names = [agent.name async for agent in agents.list(limit=2)]
        assert names == ["3", "2", "1", "0", "ada"]
        names = [agent.name async for agent in agents.list(limit=2, order="asc")]
        assert names == ["ada", "0", "1", "2", "3"]
        assert (await agents.delete(others[0].id)).deleted
        with pytest.raises(openai.NotFoundError):
            await agents.retrieve(others[0].id)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": "talk", "tools": [{"type": "teleport"}]}, "tools[0].type"),
        ({"model": "talk", "reasoning": {"effort": "heroic"}}, "reasoning.effort"),
        ({"model": "talk", "metadata": {"a": 1}}, "metadata"),
        ({"model": "talk", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ],
)
async def test_what_is_wrong_with_an_agent_is_named(body: dict[str, Any], param: str) -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/agents", body=body, cast_to=object)
        assert refused.value.body["param"] == param  # type: ignore[index]


async def test_the_vendors_runner_with_a_client_tool_over_several_turns(tmp_path: Path) -> None:
    async with up({"adds": ADDS}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE)
        assert made.status == "idle"
        async with sessions.stream(made.id, input="2+3?", tool_handlers={"add": add}) as stream:
            first = await stream.get_final_result()
        assert first.output_text == "It is 5."
        async with sessions.stream(made.id, input="once more") as stream:
            again = await stream.get_final_result()
        assert again.output_text == "And again: once more."
        turns = [turn async for turn in sessions.turns.list(made.id, order="asc")]
        assert [turn.id for turn in turns] == [first.turn_id, again.turn_id]
        assert {turn.status for turn in turns} == {"completed"}
        assert await sessions.turns.retrieve(first.turn_id, session_id=made.id) == turns[0]
        items = [item async for item in sessions.items.list(made.id, order="asc", limit=2)]
        kinds = [getattr(item, "role", None) or item.type for item in items]
        assert kinds == [
            "user", "assistant", "function_call", "function_call_output", "assistant",
            "user", "assistant",
        ]  # fmt: skip
        of_turn = sessions.turns.items.list(first.turn_id, session_id=made.id, order="asc", limit=2)
        assert [item async for item in of_turn] == items[:5]
        assert [getattr(items[n], "phase", "") for n in (1, 4)] == ["commentary", "final_answer"]


async def test_items_are_the_same_in_the_stream_and_in_the_list(tmp_path: Path) -> None:
    async with up({"adds": ADDS}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE)
        last: dict[str, Any] = {}
        async with sessions.stream(made.id, input="2+3?", tool_handlers={"add": add}) as stream:
            async for event in stream:
                if event.type in ("agent.session.turn.item.added", "agent.session.turn.item.done"):
                    last[event.item.id or ""] = event.item.to_dict()
        listed = [i.to_dict() async for i in sessions.items.list(made.id, order="asc")]
        assert listed == list(last.values())


async def test_create_as_a_stream_runs_the_first_turn(tmp_path: Path) -> None:
    async with up({"adds": ADDS}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        stream = await sessions.create(
            agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE, input="2+3?",
            stream=True, tool_handlers={"add": add},
        )  # fmt: skip
        events = [event async for event in stream]
        kinds = [event.type.removeprefix("agent.session.") for event in events]
        assert kinds[0] == "created"
        assert kinds[-2:] == ["turn.completed", "idle"]
        assert kinds.index("in_progress") < kinds.index("turn.created")
        assert "requires_action" in kinds


async def test_a_result_for_no_pending_call_is_refused_in_the_vendors_words() -> None:
    async with up({"adds": ADDS}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(
            agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE, input="2+3?"
        )
        action = await required(sessions, made.id)
        assert (action.type, action.name, action.arguments) == (
            "function_call", "add", {"a": 2, "b": 3},
        )  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refused:
            await answer(sessions, made.id, "nothing", "5")
        said = refused.value.body
        assert said["message"] == "Unknown pending tool call: nothing"  # type: ignore[index]
        assert said["code"] == "invalid_request_error"  # type: ignore[index]
        await answer(sessions, made.id, action.call_id, "5", key="k")
        await resting(sessions, made.id)
        await answer(sessions, made.id, action.call_id, "5", key="k")  # a retry is no error
        with pytest.raises(openai.BadRequestError):
            await answer(sessions, made.id, action.call_id, "6")
        items = [item async for item in sessions.items.list(made.id)]
        assert [i.output for i in items if i.type == "function_call_output"] == ["5"]


async def test_a_failed_tool_is_told_to_the_model() -> None:
    async with up({"adds": ADDS}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE)

        def broken(arguments: dict[str, Any]) -> str:
            raise ValueError(arguments)

        async with sessions.stream(made.id, input="2+3?", tool_handlers={"add": broken}) as stream:
            result = await stream.get_final_result()
        assert "Tool handler failed." in result.output_text


async def test_the_same_key_sends_a_message_once() -> None:
    async with up({"talk": TALK}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "talk"}, environment=NOWHERE)
        for _ in range(3):
            await sessions.events.create(made.id, events=[message("Hi")], idempotency_key="one")
            await resting(sessions, made.id)
        assert len([turn async for turn in sessions.turns.list(made.id)]) == 1


async def test_a_word_put_in_while_a_turn_runs_joins_it() -> None:
    async with up({"adds": ADDS}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(
            agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE, input="2+3?"
        )
        action = await required(sessions, made.id)
        await sessions.events.create(made.id, events=[message("and quickly")])
        await answer(sessions, made.id, action.call_id, "5")
        await resting(sessions, made.id)
        (turn,) = [turn async for turn in sessions.turns.list(made.id)]
        items = [item async for item in sessions.items.list(made.id, order="asc")]
        said = [i.content[0].text for i in items if i.type == "message" and i.role == "user"]
        assert said == ["2+3?", "and quickly"]
        assert {item.turn_id for item in items} == {turn.id}


async def test_cancel_ends_the_turn_and_leaves_the_session_to_go_on() -> None:
    async with up({"adds": ADDS}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(
            agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE, input="2+3?"
        )
        await required(sessions, made.id)
        waiting = [turn async for turn in sessions.turns.list(made.id)]
        assert waiting[0].status == "waiting"
        await sessions.events.create(made.id, events=[{"type": "agent.session.input.cancel"}])
        await resting(sessions, made.id)
        (turn,) = [turn async for turn in sessions.turns.list(made.id)]
        assert turn.status == "cancelled"
        await sessions.update(made.id, agent={"model": "adds", "tools": [ADD]})
        async with sessions.stream(made.id, input="2+3?", tool_handlers={"add": add}) as stream:
            assert (await stream.get_final_result()).turn.status == "completed"


async def test_sessions_are_listed_by_agent_and_metadata_and_deleted() -> None:
    async with up({"talk": TALK}) as server:
        beta = await agents_of(server)
        agent = await beta.create(model="talk", instructions="Be kind.")
        for number in range(3):
            await beta.sessions.create(
                agent_id=agent.id, environment=NOWHERE, metadata={"n": str(number), "kind": "a"}
            )
        other = await beta.sessions.create(agent={"model": "talk"}, environment=NOWHERE)
        listed = [s async for s in beta.sessions.list(agent_id=agent.id, limit=1, order="asc")]
        assert [s.metadata["n"] for s in listed] == ["0", "1", "2"]
        assert {s.agent.instructions for s in listed} == {"Be kind."}
        found = [s async for s in beta.sessions.list(metadata={"n": "1", "kind": "a"})]
        assert found == [listed[1]]
        changed = await beta.sessions.update(found[0].id, metadata={"n": "9"})
        assert changed.metadata == {"n": "9"}
        assert (await beta.sessions.delete(other.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await beta.sessions.retrieve(other.id)
        assert other.id not in [s.id async for s in beta.sessions.list()]


@pytest.mark.parametrize("busy", [False, True])
async def test_a_deleted_session_leaves_nothing_behind(tmp_path: Path, busy: bool) -> None:
    async with up({"adds": ADDS}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        given = {"input": "2+3?"} if busy else {}
        made = await sessions.create(
            agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE, **given
        )
        if busy:
            await required(sessions, made.id)
        assert (await sessions.delete(made.id)).deleted
        engine = await server.server.projects.engine("default")
        assert await engine.kit.store.session(made.id) is None
        with pytest.raises(openai.NotFoundError):
            await sessions.delete(made.id)


async def test_another_projects_sessions_do_not_exist() -> None:
    async with up({"talk": TALK}) as server:
        mine = await agents_of(server, "mine")
        theirs = await agents_of(server, "theirs")
        made = await mine.sessions.create(agent={"model": "talk"}, environment=NOWHERE, input="Hi")
        with pytest.raises(openai.NotFoundError):
            await theirs.sessions.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await theirs.sessions.events.stream(made.id)
        with pytest.raises(openai.NotFoundError):
            await theirs.sessions.events.create(made.id, events=[message("Hi")])
        assert [s async for s in theirs.sessions.list()] == []


async def test_a_viewer_reads_and_sends_nothing() -> None:
    async with up({"talk": TALK}) as server:
        made = await (await agents_of(server)).sessions.create(
            agent={"model": "talk"}, environment=NOWHERE
        )
        sessions = (await agents_of(server, role="viewer")).sessions
        assert (await sessions.retrieve(made.id)).id == made.id
        with pytest.raises(openai.PermissionDeniedError):
            await sessions.events.create(made.id, events=[message("Hi")])


async def test_all_events_of_a_batch_are_read_before_the_first_is_taken() -> None:
    async with up({"talk": TALK}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "talk"}, environment=NOWHERE)
        with pytest.raises(openai.BadRequestError):
            await sessions.events.create(
                made.id, events=[message("Hi"), {"type": "agent.session.input.dance"}]
            )
        assert [item async for item in sessions.items.list(made.id)] == []


def message(text: str) -> Any:
    content = [{"type": "input_text", "text": text}]
    said = [{"role": "user", "content": content}]
    return {"type": "agent.session.input.message", "input": said}


async def answer(sessions: Any, session: str, call: str, output: str, key: str = "") -> None:
    result = {
        "type": "agent.session.input.tool_result",
        "turn_id": "",
        "call_id": call,
        "success": True,
        "output": output,
    }
    more = {"idempotency_key": key} if key else {}
    await sessions.events.create(session, events=[result], **more)


async def required(sessions: Any, session: str) -> Any:
    """Wait until the session requires an action; return the first."""
    return (await reached(sessions, session, "requires_action")).required_actions[0]


async def resting(sessions: Any, session: str, times: int = 1) -> Any:
    """Wait until the session has come to rest so many times."""
    return await reached(sessions, session, "idle", times)


async def reached(sessions: Any, session: str, status: str, times: int = 1) -> Any:
    """Wait until the session, from its beginning on, was so often in a status."""
    from_the_start = {"last_event_id": "1.0"}
    async with asyncio.timeout(20):
        async with await sessions.events.stream(session, extra_query=from_the_start) as stream:
            async for event in stream:
                times -= event.type == f"agent.session.{status}"
                if times == 0:
                    return event.session
    raise AssertionError("the stream ended")
