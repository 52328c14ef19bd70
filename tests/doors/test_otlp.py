"""Traces as they leave the process: to a collector on loopback, and to one that is away."""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from perdure.doors.settings import ServerSettings
from perdure.engine.agent import Agent
from perdure.models.scripted import Call
from perdure.tools.python import tool
from tests.doors.serving import Reply, Up, script, up

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    reason="NOT TESTED: traces over OTLP. Run make setup: the exporter is not installed.",
)
WORDS = ("hidden", "secret garden", "I saw it", "Go and look", "pdk_")
FAR_MS = "600000"  # nothing is sent on time, only when the server ends


@tool(effect="read")
async def look(where: str) -> str:
    """Look somewhere.

    Args:
        where: the place
    """
    return "a secret garden"


PORTER = Agent("porter", model="test:looks", tools=[look])
LOOKS = script(Reply(call=(Call("look", {"where": "hidden"}),)), Reply(text="I saw it."))
TRACED = ServerSettings(models={"*": "test:*"}, default_model="looks", traces=True)


class Collector(ThreadingHTTPServer):
    """Takes what is sent, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Collecting)
        self.taken: list[tuple[str, str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Collecting(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.taken.append((self.path, self.headers["content-type"], body))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as here:
        thread = threading.Thread(target=here.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", here.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", FAR_MS)
        yield here
        here.shutdown()
        thread.join()


async def worked() -> str:
    """Have a server with traces do a turn, and end; return the session."""
    async with up({"looks": LOOKS}, agents=[PORTER], settings=TRACED) as server:
        return await turned(server)


async def turned(server: Up) -> str:
    headers = {"authorization": f"Bearer {await server.key()}"}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=20.0) as client:
        said = {"agent": "porter", "message": "Go and look!"}
        made = await client.post("/api/sessions", json=said)
        made.raise_for_status()
        session = str(made.json()["row"]["id"])
        accept = {"accept": "text/event-stream"}
        path = f"/api/sessions/{session}/events"
        async with client.stream("GET", path, headers=accept) as stream:
            async for line in stream.aiter_lines():
                if line == "event: turn.ended":
                    break
    return session


def spans_in(bodies: list[bytes]) -> list[Any]:
    """Return the spans of export requests."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    scopes = [s for r in requests for each in r.resource_spans for s in each.scope_spans]
    return [span for scope in scopes for span in scope.spans]


def told(span: Any) -> dict[str, Any]:
    """Return a span's attributes."""
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


async def test_a_turn_reaches_a_collector_by_the_conventions_and_without_content(
    collector: Collector,
) -> None:
    session = await worked()
    assert {(path, kind) for path, kind, _ in collector.taken} == {
        ("/v1/traces", "application/x-protobuf")
    }
    bodies = [body for _, _, body in collector.taken]
    spans = spans_in(bodies)
    named = {span.name: span for span in spans}
    turn, called = named["invoke_agent porter"], named["execute_tool look"]
    assert turn.parent_span_id == named["POST /api/sessions"].span_id
    models = [span for span in spans if span.name == "chat test:looks"]
    assert len(models) == 2
    for inner in (*models, called):
        assert (inner.parent_span_id, inner.trace_id) == (turn.span_id, turn.trace_id)
        assert inner.start_time_unix_nano <= inner.end_time_unix_nano
        assert turn.start_time_unix_nano <= inner.start_time_unix_nano
    for span, operation in ((turn, "invoke_agent"), (models[0], "chat"), (called, "execute_tool")):
        of_all = told(span)
        assert of_all["gen_ai.operation.name"] == operation
        assert of_all["gen_ai.conversation.id"] == session
        assert of_all["gen_ai.agent.name"] == "porter"
    assert told(models[0])["gen_ai.request.model"] == "test:looks"
    assert told(models[0])["gen_ai.usage.output_tokens"] > 0
    assert told(called)["gen_ai.tool.name"] == "look" and told(called)["gen_ai.tool.call.id"]
    everything = b"".join(bodies)
    assert [word for word in WORDS if word.encode() in everything] == []


@contextmanager
def nobody(*, silent: bool) -> Iterator[str]:
    """Hold a port at which nobody answers: who connects is refused, or never hears anything."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if silent:
            held.listen(8)
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "is silent"])
async def test_a_collector_that_is_away_costs_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, silent: bool
) -> None:
    caplog.set_level(logging.INFO)
    with nobody(silent=silent) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")  # it is tried while the turn runs
        # Less than the ten seconds for which the exporter tries: it holds up no turn and no end.
        async with asyncio.timeout(8):
            async with up({"looks": LOOKS}, agents=[PORTER], settings=TRACED) as server:
                for _ in range(3):
                    await turned(server)
                counted = server.server.eyes.metrics.values()
    assert counted['perdure_turns_total{status="completed"}'] == 3
    assert not any("perdure_errors_total" in name for name in counted)
    lines = [r.getMessage() for r in caplog.records if r.name == "perdure.server"]
    assert len([line for line in lines if line.startswith("traces.unsent")]) == 1
    assert [r for r in caplog.records if r.exc_info] == []
    assert not any(word in r.getMessage() for r in caplog.records for word in WORDS)
