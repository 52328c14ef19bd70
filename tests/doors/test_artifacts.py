"""Artifacts and traces: what a session left, read off its journal."""

from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.models.scripted import Call
from tests.doors.serving import Reply, script, up
from tests.environments.doubles import needs_sandbox

pytestmark = needs_sandbox()


def bash(command: str) -> Reply:
    return Reply(text="", call=(Call("bash", {"command": command}),))


async def go(client: Any, **more: Any) -> str:
    """Run a session to its rest; return its id."""
    stream = await client.beta.agents.sessions.create(
        agent={"model": "work"}, environment={"type": "openai_hosted"}, input="Go", stream=True
    )
    return str([event async for event in stream][-1].session.id)


WORK = script(
    bash("mkdir -p outputs/sub; echo one > outputs/a.txt; printf '\\0\\1' > outputs/sub/b"),
    Reply(text="Done."),
    bash("echo two > outputs/a.txt; ln -s ../c outputs/link"),
    Reply(text="Again."),
)


async def test_what_a_turn_leaves_stays_as_it_was(tmp_path: Path) -> None:
    async with up({"work": WORK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        artifacts = client.beta.agents.sessions.artifacts
        name = await go(client)
        first = [a async for a in artifacts.list(name, order="asc")]
        assert [(a.path, a.size_bytes) for a in first] == [
            ("/workspace/outputs/a.txt", 4),
            ("/workspace/outputs/sub/b", 2),
        ]
        async with client.beta.agents.sessions.stream(name, input="More") as stream:
            async for _ in stream:
                pass
        every = [a async for a in artifacts.list(name, order="asc")]
        assert every[:2] == first
        assert [a.path for a in every[2:]] == ["/workspace/outputs/a.txt"]
        turns = [t.id async for t in client.beta.agents.sessions.turns.list(name, order="asc")]
        assert [a.turn_id for a in every] == [turns[0], turns[0], turns[1]]
    async with up({"work": WORK}, tmp_path / "s.db") as server:  # another process, nothing open
        client = await server.openai()
        artifacts = client.beta.agents.sessions.artifacts
        contents = [(await artifacts.content(a.id, session_id=name)).content for a in every]
        assert contents == [b"one\n", b"\0\1", b"two\n"]
        assert await artifacts.retrieve(every[1].id, session_id=name) == every[1]
        other = (await server.openai("other")).beta.agents.sessions.artifacts
        with pytest.raises(openai.NotFoundError):
            await other.content(every[0].id, session_id=name)
        gone = await artifacts.delete(every[0].id, session_id=name)
        assert (gone.id, gone.deleted) == (every[0].id, True)
        assert [a async for a in artifacts.list(name, order="asc")] == every[1:]
        with pytest.raises(openai.NotFoundError):
            await artifacts.content(every[0].id, session_id=name)


async def test_a_trace_for_each_turn(tmp_path: Path) -> None:
    async with up({"work": WORK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        name = await go(client)
        traces = [t async for t in client.beta.agents.sessions.traces.list(name)]
        turns = [t async for t in client.beta.agents.sessions.turns.list(name)]
        assert [t.id for t in traces] == [t.id for t in turns]
        otlp: Any = traces[0].otlp
        spans = otlp["resourceSpans"][0]["scopeSpans"][0]["spans"]
        assert [s["name"].split()[0] for s in spans] == [
            "invoke_agent", "chat", "execute_tool", "chat",
        ]  # fmt: skip
        root, *below = spans
        assert {s["parentSpanId"] for s in below} == {root["spanId"]}
        assert {s["traceId"] for s in spans} == {root["traceId"]}
        assert (len(root["traceId"]), len(root["spanId"])) == (32, 16)
        for span in spans:
            begun, ended = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
            assert int(root["startTimeUnixNano"]) <= begun <= ended
            assert span["status"] == {"code": 1}
        assert "one" not in str(otlp)
