"""What a server tells of its work, and what becomes of readers who do not read."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perdure.core.events import StateSet
from perdure.doors.metrics import Histogram, Metrics
from perdure.doors.principals import Role
from perdure.doors.settings import ServerSettings
from perdure.engine.agent import Agent
from perdure.models.scripted import Call
from perdure.serving.tracing import Tracing
from perdure.tools.python import tool
from tests.doors.serving import Reply, Up, script, up

TALK = script(Reply(text="Good morning."))


@tool(effect="read")
async def look(where: str) -> str:
    """Look somewhere.

    Args:
        where: the place
    """
    return "a secret garden"


PORTER = Agent("porter", model="test:looks", tools=[look])
LOOKS = script(Reply(call=(Call("look", {"where": "hidden"}),)), Reply(text="I saw it."))


def browser(server: Up, key: str, **more: str) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {key}", **more}
    return httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30.0)


async def worked(client: httpx2.AsyncClient) -> str:
    """Have the porter look; return the session when its turn is over."""
    made = await client.post("/api/sessions", json={"agent": "porter", "message": "Look!"})
    session = str(made.json()["row"]["id"])
    accept = {"accept": "text/event-stream"}
    async with client.stream("GET", f"/api/sessions/{session}/events", headers=accept) as stream:
        async for line in stream.aiter_lines():
            if line == "event: turn.ended":
                break
    return session


async def test_what_is_counted(tmp_path: Path) -> None:
    async with (
        up({"looks": LOOKS}, tmp_path / "s.db", agents=[PORTER]) as server,
        browser(server, await server.key()) as client,
    ):
        await worked(client)
        await client.get("/api/sessions/nobody")
        text = (await client.get("/metrics")).text
    counted = {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
    }
    assert counted['perdure_model_calls_total{model="test:looks",status="ok"}'] == 2
    assert counted['perdure_tool_calls_total{status="ok"}'] == 1
    assert counted['perdure_turns_total{status="completed"}'] == 1
    assert counted['perdure_errors_total{code="E-SESSION-UNKNOWN"}'] == 1
    route = 'method="GET",route="/api/sessions/{id}",status="404"'
    assert counted[f"perdure_requests_total{{{route}}}"] == 1
    commits = counted["perdure_store_commit_seconds_count"]
    assert commits == counted["perdure_store_commit_batches_count"] > 2
    assert counted["perdure_streams_open"] == 0 and counted["perdure_requests_open"] == 1
    assert "secret garden" not in text and "hidden" not in text


PASSED_ON = {"x-forwarded-for": "203.0.113.9"}


async def asked(settings: ServerSettings, role: Role | None, **headers: str) -> tuple[int, str]:
    """Ask for the metrics; return the status and the error's code."""
    async with up({"talk": TALK}, settings=settings) as server:
        key = await server.key(role=role) if role else "none"
        async with browser(server, key, **headers) as client:
            answer = await client.get("/metrics")
    if answer.status_code == 200:
        assert "perdure_requests_open 1" in answer.text
        return 200, ""
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint", "retryable"} and error["hint"]
    return answer.status_code, error["code"]


@pytest.mark.parametrize(
    ("metrics", "host", "headers", "open_"),
    [
        ("loopback", "127.0.0.1", {}, True),
        ("loopback", "127.0.0.1", PASSED_ON, False),
        ("loopback", "127.0.0.1", {"forwarded": "for=203.0.113.9"}, False),
        # A proxy that says nothing of itself, and a browser that was led here by a name.
        ("loopback", "127.0.0.1", {"host": "perdure.example.org"}, False),
        ("loopback", "127.0.0.1", {"host": "[::1"}, False),
        ("loopback", "0.0.0.0", {}, False),
        ("key", "127.0.0.1", {}, False),
    ],
)
async def test_metrics_are_for_keys_and_for_a_machine_that_serves_only_itself(
    metrics: Literal["loopback", "key"], host: str, headers: dict[str, str], open_: bool
) -> None:
    settings = ServerSettings(metrics=metrics, host=host)
    refused = (200, "") if open_ else (401, "E-AUTH")
    assert await asked(settings, None, **headers) == refused
    assert await asked(settings, "viewer", **headers) == (200, "")


async def test_metrics_can_be_off() -> None:
    assert await asked(ServerSettings(metrics="off"), "admin") == (404, "E-ROUTE")


def test_a_histogram_counts_up_and_series_are_bounded() -> None:
    times = Histogram("t", "Times.", ("a",), (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        times.observe(value, 'x"y')
    assert list(times.lines())[2:] == [
        't_bucket{a="x\\"y",le="1"} 2',
        't_bucket{a="x\\"y",le="2"} 3',
        't_bucket{a="x\\"y",le="+Inf"} 4',
        't_sum{a="x\\"y"} 12',
        't_count{a="x\\"y"} 4',
    ]
    metrics = Metrics()
    for number in range(3000):
        metrics.refused.add(f"E-{number}")
    assert metrics.values()['perdure_errors_total{code="other"}'] == 1000


async def test_spans_hang_under_the_request_and_hold_no_content() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01"
    async with (
        up({"looks": LOOKS}, agents=[PORTER], tracing=Tracing(provider)) as server,
        browser(server, await server.key(), traceparent=parent) as client,
    ):
        session = await worked(client)
    spans: dict[str, ReadableSpan] = {span.name: span for span in exporter.get_finished_spans()}
    request, turn = spans["POST /api/sessions"], spans["invoke_agent porter"]
    assert request.parent is not None and request.parent.span_id == 0xB7AD6B7169203331
    assert request.context is not None and turn.context is not None
    assert turn.parent is not None and turn.parent.span_id == request.context.span_id
    for name in ("chat test:looks", "execute_tool look"):
        inner = spans[name]
        assert inner.parent is not None and inner.parent.span_id == turn.context.span_id
        assert format(turn.context.trace_id, "032x") == trace
    told: Any = spans["chat test:looks"].attributes
    assert told["gen_ai.operation.name"] == "chat" and told["gen_ai.conversation.id"] == session
    assert told["gen_ai.usage.output_tokens"] > 0
    everything = " ".join(span.to_json() for span in exporter.get_finished_spans())
    assert "garden" not in everything and "hidden" not in everything and "pdk_" not in everything


async def _unread(server: Up, key: str, session: str) -> socket.socket:
    """Open a stream and never read it."""
    port = int(server.url.rpartition(":")[2])
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.to_thread(lazy.connect, ("127.0.0.1", port))
    asked = f"GET /api/sessions/{session}/events HTTP/1.1\r\nhost: x\r\n"
    asked += f"accept: text/event-stream\r\nauthorization: Bearer {key}\r\n\r\n"
    lazy.sendall(asked.encode())
    return lazy


@pytest.mark.parametrize("goes", [False, True], ids=["stays", "goes"])
async def test_who_does_not_read_is_cut_off_and_costs_no_memory(tmp_path: Path, goes: bool) -> None:
    settings = ServerSettings(
        models={"*": "test:*"},
        default_model="looks",
        stall_s=60.0 if goes else 0.3,
        stream_buffer=10,
    )
    async with up(
        {"looks": LOOKS}, tmp_path / "s.db", settings=settings, agents=[PORTER]
    ) as server:
        key = await server.key()
        async with browser(server, key) as client:
            session = await worked(client)
            engine = await server.server.projects.engine("default")
            await _bloat(engine, session)
            lazy = await _unread(server, key, session)
            await _count(client, "perdure_streams_open", 1)
            if goes:
                lazy.close()
            await _count(client, "perdure_streams_open", 0)
            cut = (await _counted(client)).get("perdure_streams_cut_off_total", 0)
            assert cut == (0 if goes else 1)
            lazy.close()
            # The work goes on, and so does whoever asks for the rest.
            rest = await client.get(f"/api/sessions/{session}/events?after=1000")
            assert rest.json()["events"]


async def _bloat(engine: Any, session: str) -> None:
    from perdure.engine.journal import Journal

    while engine.drives(session):
        await engine.kit.store.changed(0.05)
    claim = await engine.kit.store.claim(session)
    journal = await Journal.open(engine.kit, claim)
    import msgspec

    value = msgspec.Raw(json.dumps("x" * 20_000).encode())
    journal.append(*[StateSet("k", value) for _ in range(1200)])
    await journal.durable()
    await journal.close()
    await engine.kit.store.release(claim)


async def _counted(client: httpx2.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    parted = (line.rpartition(" ") for line in lines if line[0] != "#")
    return {name: float(value) for name, _, value in parted}


async def _count(client: httpx2.AsyncClient, name: str, wanted: int) -> None:
    async with asyncio.timeout(20):
        while (await _counted(client))[name] != wanted:
            pass
