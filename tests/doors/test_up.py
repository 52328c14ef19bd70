"""`perdure up` as a product: starting, ending in order, being killed, and starting again."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import httpx2
import pytest

from perdure.core.errors import Unavailable
from perdure.serving.web import listen
from tests.doors.running import launched, refused, running

AGENTS = '''
import asyncio
from pathlib import Path

from perdure import Agent, tool

HERE = Path(__file__).parent


@tool(effect="{effect}")
async def ring(whom: str) -> str:
    """Ring a bell.

    Args:
        whom: who is to hear it
    """
    with open(HERE / "rung", "a") as file:
        file.write(whom + "\\n")
    return await asyncio.to_thread((HERE / "answer").read_text)


porter = Agent("porter", model="scripted:ring.toml", tools=[ring])
clerk = Agent("clerk", model="scripted:talk.toml")
'''
RING = """
[[reply]]
[[reply.call]]
tool = "ring"
arguments = { whom = "cook" }

[[reply]]
text = "They said: {{last_result}}"
"""
TALK = """
[[reply]]
text = "Good morning."
"""
CONFIG = """
[server]
drain_s = {drain_s}
default_model = "talk"

[server.models]
talk = "scripted:talk.toml"
"""


@pytest.fixture
def inn(tmp_path: Path) -> Path:
    """A project with a porter, whose bell rings until something is written to `answer`."""
    (tmp_path / "agents.py").write_text(AGENTS.replace("{effect}", "once"))
    (tmp_path / "ring.toml").write_text(RING)
    (tmp_path / "talk.toml").write_text(TALK)
    (tmp_path / "perdure.toml").write_text(CONFIG.replace("{drain_s}", "30.0"))
    os.mkfifo(tmp_path / "answer")
    return tmp_path


async def begun(client: httpx2.AsyncClient, agent: str = "porter") -> str:
    made = await client.post("/api/sessions", json={"agent": agent, "message": "Ring!"})
    assert made.status_code == 201, made.text
    return str(made.json()["row"]["id"])


async def events_until(client: httpx2.AsyncClient, session: str, type_: str) -> list[str]:
    """Follow a session until an event of that type; return the types."""
    seen = []
    path = f"/api/sessions/{session}/events"
    async with client.stream("GET", path, headers={"accept": "text/event-stream"}) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                seen.append(line.removeprefix("event: "))
                if seen[-1] == type_:
                    return seen
    raise AssertionError(f"the stream ended after {seen}")


def rung(inn: Path) -> list[str]:
    return (inn / "rung").read_text().split()


async def answer(inn: Path, text: str) -> None:
    await asyncio.to_thread((inn / "answer").write_text, text)


async def test_it_says_where_everything_is_and_makes_one_key(inn: Path) -> None:
    async with running(inn, "agents.py") as server:
        said = server.said
        assert said["agents"] == ["porter", "clerk"]
        assert said["key"].startswith("pdk_") and said["models"] == {"talk": "scripted:talk.toml"}
        async with server.client(said["key"]) as client:
            assert (await client.get("/readyz")).json()["ready"] is True
            assert (await client.get("/api/docs")).status_code == 200
            await events_until(client, await begun(client, "clerk"), "turn.ended")
        server.signal(signal.SIGINT)
        assert await server.ended() == 0
    async with running(inn) as server:
        assert server.said["key"] is None


async def test_it_can_be_told_to_end_as_soon_as_it_has_begun(inn: Path) -> None:
    async with running(inn) as server:
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0


async def test_a_tool_that_runs_may_end_and_the_next_process_goes_on(inn: Path) -> None:
    async with running(inn, "agents.py") as server:
        key = server.said["key"]
        async with server.client(key) as client, server.client(key) as other:
            session = await begun(client)
            await events_until(client, session, "tool.started")
            follower = asyncio.create_task(_seen_by(client, session, begins := asyncio.Event()))
            await begins.wait()
            assert await _ready(other) == 200
            server.signal(signal.SIGTERM)
            while (await _ready(other)) == 200:
                pass
            with pytest.raises(httpx2.ConnectError):
                async with server.client(key) as late:
                    await late.get("/healthz")
            await answer(inn, "coming")
            text = await follower
        assert "tool.finished" in text and "turn.ended" not in text
        assert "the server is stopping" in text and "retry: 1000" in text
        assert await server.ended() == 0
    async with running(inn, "agents.py") as server, server.client(key) as client:
        seen = await events_until(client, session, "turn.ended")
        assert "session.recovered" not in seen
        assert "They said: coming" in await _heard(client, session)
    assert rung(inn) == ["cook"]


async def _ready(client: httpx2.AsyncClient) -> int:
    return (await client.get("/readyz")).status_code


async def _seen_by(client: httpx2.AsyncClient, session: str, begins: asyncio.Event) -> str:
    """Return all that a stream says until the server ends it."""
    path, said = f"/api/sessions/{session}/events", ""
    async with client.stream("GET", path, headers={"accept": "text/event-stream"}) as stream:
        async for piece in stream.aiter_text():
            said += piece
            begins.set()
    return said


async def _heard(client: httpx2.AsyncClient, session: str) -> str:
    return (await client.get(f"/api/sessions/{session}/transcript")).text


async def test_a_tool_that_takes_too_long_is_recorded_as_unknown(inn: Path) -> None:
    (inn / "perdure.toml").write_text(CONFIG.replace("{drain_s}", "0.1"))
    async with running(inn, "agents.py") as server:
        key = server.said["key"]
        async with server.client(key) as client:
            session = await begun(client)
            await events_until(client, session, "tool.started")
            server.signal(signal.SIGTERM)
            assert server.process.stdout is not None
            assert b"stopped" in await server.process.stdout.readline()  # all is let go
            await answer(inn, "too late")  # its thread is let go too, so that the process can end
            assert await server.ended() == 0
    async with running(inn, "agents.py") as server, server.client(key) as client:
        seen = await events_until(client, session, "action.requested")
        assert seen.count("tool.started") == 1
    assert rung(inn) == ["cook"]


async def test_the_second_signal_ends_it_at_once(inn: Path) -> None:
    async with running(inn, "agents.py") as server, server.client(server.said["key"]) as client:
        async with server.client("none") as other:
            await _ready(other)
            await events_until(client, await begun(client), "tool.started")
            server.signal(signal.SIGTERM)
            while (await _ready(other)) == 200:
                pass
        server.signal(signal.SIGTERM)
        await answer(inn, "never mind")
        assert await server.ended() == 0


@pytest.mark.parametrize("effect", ["read", "once"])
async def test_a_killed_server_is_taken_over(inn: Path, effect: str) -> None:
    (inn / "agents.py").write_text(AGENTS.replace("{effect}", effect))
    async with running(inn, "agents.py") as server:
        key = server.said["key"]
        async with server.client(key) as client:
            session = await begun(client)
            await events_until(client, session, "tool.started")
            server.signal(signal.SIGKILL)
            assert await server.ended() == -signal.SIGKILL
    async with running(inn, "agents.py") as server, server.client(key) as client:
        # Nobody asked for the session yet: it is gone on with all the same.
        if effect == "read":
            await answer(inn, "at last")
            await events_until(client, session, "turn.ended")
            assert "They said: at last" in await _heard(client, session)
            assert rung(inn) == ["cook", "cook"]
        else:
            await events_until(client, session, "action.requested")
            assert rung(inn) == ["cook"]


async def test_what_cannot_be_served_says_so(inn: Path) -> None:
    async with running(inn) as server:
        port = server.said["url"].rpartition(":")[2]
        taken = await refused(await launched(inn, "--port", port))
        assert "E-PORT" in taken and f"127.0.0.1:{port}" in taken
    open_to_all = inn / "open"
    open_to_all.mkdir()
    (open_to_all / "perdure.toml").write_text("[server]\nhost = '0.0.0.0'\n")
    assert "E-UP-OPEN" in await refused(await launched(open_to_all))
    (inn / "perdure.toml").write_text("[server]\nstream_bufer = 1\n")
    wrong = await refused(await launched(inn))
    assert "E-CONFIG" in wrong and "'stream_buffer'" in wrong and "perdure.toml:2" in wrong
    (inn / "perdure.toml").unlink()
    assert "E-AGENT-UNKNOWN" in await refused(await launched(inn, "nobody"))
    assert "E-USAGE" in await refused(await launched(inn, "--port", "65536"))
    (inn / "perdure.toml").write_text("[server]\nport = 65536\n")
    with_port = [sys.executable, "-m", "perdure", "up"]  # 65536 is not 0, a free one
    beyond = await asyncio.create_subprocess_exec(*with_port, cwd=inn, stdout=PIPE, stderr=PIPE)
    assert "E-PORT" in await refused(beyond)


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_another_port_is_no_way_to_an_address_of_others(host: str) -> None:
    with pytest.raises(Unavailable, match="E-PORT") as refusal:
        listen(host, 8700)
    assert "--host 127.0.0.1" in refusal.value.hint


def test_a_port_that_is_taken_is_said_once() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(Unavailable, match="E-PORT") as refusal:
        listen("127.0.0.1", first.getsockname()[1])
    assert "--port" in refusal.value.hint and "bind" not in refusal.value.message


async def test_what_it_says_can_be_exported_and_used(inn: Path) -> None:
    command = [sys.executable, "-m", "perdure", "up", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, cwd=inn, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    named: dict[str, str] = {}
    while "PERDURE_API_KEY" not in named:
        line = (await process.stdout.readline()).decode()
        assert line, await refused(process)
        if line.startswith("  export "):
            name, _, value = line.removeprefix("  export ").strip().partition("=")
            named[name] = value
    listing = [sys.executable, "-m", "perdure", "ls", "--json"]
    environ = os.environ | named
    looked = await asyncio.create_subprocess_exec(
        *listing, cwd=inn, env=environ, stdout=PIPE, stderr=PIPE
    )
    assert await refused(looked) is not None and looked.returncode == 0
    environ["PERDURE_URL"] = named["PERDURE_URL"].removeprefix("http://")
    bare = await asyncio.create_subprocess_exec(
        *listing, cwd=inn, env=environ, stdout=PIPE, stderr=PIPE
    )
    assert "E-REMOTE-URL" in await refused(bare)
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0


async def test_the_log_tells_of_requests_and_nothing_they_held(inn: Path) -> None:
    async with running(inn) as server:
        async with server.client(server.said["key"]) as client:
            await client.get("/api/sessions?cursor=my-canary")
            await client.get("/openai/v1/responses/my-canary")
        server.signal(signal.SIGTERM)
        _, errors = await server.process.communicate()
    lines: list[dict[str, Any]] = [json.loads(line) for line in errors.splitlines()]
    told = [line for line in lines if line["logger"] == "perdure.access"]
    assert [line["status"] for line in told] == [400, 404]
    assert (
        told[1]["route"] == "/openai/v1/responses/{response_id}" and told[1]["project"] == "default"
    )
    assert told[0]["error"] == "E-QUERY" and told[0]["key"].startswith("key_")
    assert b"my-canary" not in errors and server.said["key"].encode() not in errors
