"""The Agents API at its edges: bodies that make no sense, keys used twice, changes in mid-turn."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from perdure.engine.replay import replay
from perdure.engine.session import Session
from perdure.models.scripted import Call
from tests.doors.serving import Reply, Up, script, up
from tests.doors.test_agents_sessions import (
    ADD,
    ADDS,
    NOWHERE,
    add,
    agents_of,
    answer,
    message,
    reached,
    required,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.text("a\x00\ud800/", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=4,
)
FIELDS = st.sampled_from(
    ["model", "tools", "text", "reasoning", "metadata", "multi_agent", "compaction", "agent",
     "environment", "input", "vault_ids", "spend_control", "review", "service_tier", "name",
     "prompt_cache_options", "instructions", "agent_id", "experimental", "stream_options"]
)  # fmt: skip
BODIES = st.dictionaries(FIELDS, JSON, max_size=3)
WHOLE: dict[str, Any] = {"model": "talk", "environment": NOWHERE, "agent": {"model": "talk"}}
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([
            f"agent.session.input.{each}"
            for each in ("message", "tool_result", "mcp_approval_request_result", "cancel")
        ]),
        "input": JSON, "call_id": JSON, "success": JSON, "output": JSON, "error": JSON,
        "request_id": JSON, "response": JSON | st.just({"decision": "deny"}),
    },
)  # fmt: skip


async def statuses(server: Up, path: str, bodies: list[Any]) -> list[int]:
    """Return what the server says to each body, once it is sure that all are answered."""
    client = await server.openai()
    found = []
    for body in bodies:
        try:
            text = json.dumps(body).encode()  # lone surrogates and all
            await client.post(path, content=text, cast_to=object)
            found.append(200)
        except openai.APIStatusError as error:
            found.append(error.status_code)
    return found


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # to shrink takes servers without number
)
@given(st.lists(BODIES, min_size=6, max_size=6), st.lists(EVENTS, min_size=6, max_size=6))
async def test_no_body_makes_the_server_fail(bodies: list[Any], events: list[Any]) -> None:
    async with up({"talk": script(Reply(text="Hi."))}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "talk"}, environment=NOWHERE)
        agent = await (await agents_of(server)).create(model="talk")
        whole = [WHOLE | body for body in bodies]
        answered = await statuses(server, "/agents", whole)
        answered += await statuses(server, f"/agents/{agent.id}", bodies)
        answered += await statuses(server, "/agents/sessions", whole)
        answered += await statuses(server, f"/agents/sessions/{made.id}", bodies)
        into = f"/agents/sessions/{made.id}/events"
        answered += await statuses(server, into, [{"events": [event]} for event in events])
        assert {status for status in answered if status >= 500} == set()
        async for agent in (await agents_of(server)).list():
            assert agent.object == "agent"
        async for session in sessions.list():
            assert session.object == "agent.session"


async def test_a_key_that_was_used_for_something_else_is_refused() -> None:
    async with up({"talk": script(Reply(text="Hi."))}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "talk"}, environment=NOWHERE)
        await sessions.events.create(made.id, events=[message("one")], idempotency_key="k")
        with pytest.raises(openai.ConflictError) as refused:
            await sessions.events.create(made.id, events=[message("two")], idempotency_key="k")
        assert refused.value.response.headers["x-should-retry"] == "false"


async def test_tools_that_change_in_the_middle_of_a_turn() -> None:
    twice = script(
        Reply(call=(Call("add", {"a": 1, "b": 1}),)),
        Reply(call=(Call("multiply", {"a": 2, "b": 4}),)),
        Reply(text="{{last_result}}"),
    )
    async with up({"twice": twice}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(
            agent={"model": "twice", "tools": [ADD]}, environment=NOWHERE, input="Go"
        )
        call = await required(sessions, made.id)
        multiply = {**ADD, "name": "multiply"}
        changed = await sessions.update(made.id, agent={"tools": [ADD, multiply]})
        assert [tool.name for tool in changed.agent.tools] == ["add", "multiply"]
        await answer(sessions, made.id, call.call_id, "2")
        again = (await reached(sessions, made.id, "requires_action", 2)).required_actions[0]
        assert again.name == "multiply"
        await answer(sessions, made.id, again.call_id, "8")
        await reached(sessions, made.id, "idle")
        items = [item async for item in sessions.items.list(made.id, order="asc")]
        assert items[-1].content[0].text == "8"


async def test_text_with_all_that_json_can_hold(tmp_path: Path) -> None:
    text = "nul \x00, half a pair \ud83d, a line\u2028end"
    async with up({"talk": script(Reply(text="{{last_user}}"))}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "talk"}, environment=NOWHERE)
        into = f"/agents/sessions/{made.id}/events"
        assert await statuses(server, into, [{"events": [message(text)]}]) == [200]
        await reached(sessions, made.id, "idle")
        items = [item async for item in sessions.items.list(made.id, order="asc")]
        shown = [item.content[0].text.replace("\ud83d", "?") for item in items]
        assert shown == [text.replace("\ud83d", "?")] * 2  # a store may not keep the half


async def test_a_session_of_the_api_is_replayed_to_the_byte(tmp_path: Path) -> None:
    async with up({"adds": ADDS}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE)
        async with sessions.stream(made.id, input="2+3?", tool_handlers={"add": add}) as stream:
            await stream.get_final_result()
        await sessions.update(made.id, agent={"reasoning": {"effort": "low"}})
        async with sessions.stream(made.id, input="more") as stream:
            await stream.get_final_result()
        engine = await server.server.projects.engine("default")
        events = [event async for event in Session(engine, made.id).events()]
        report = await replay(events)
        assert report.identical, report
