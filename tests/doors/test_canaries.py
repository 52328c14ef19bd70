"""Fifty secrets through every door: none is found where somebody could read it."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import httpx2
import openai
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perdure.core.secrets import Secret
from perdure.doors.settings import ServerSettings
from perdure.serving.logs import start_logging
from perdure.serving.tracing import Tracing
from tests.doors.serving import Reply, Up, script, up

HEADERS = ("authorization", "x-api-key", "cookie", "openai-organization", "traceparent", "baggage")


def canary(number: int) -> str:
    return f"cnry{number:02d}{'q7z' * 6}"


async def _knock(server: Up, key: str) -> list[str]:
    """Send a secret in every header, query and odd place of requests that are refused or not."""
    answers = []
    async with httpx2.AsyncClient(base_url=server.url) as client:
        for number, name in enumerate(HEADERS):
            for path in ("/openai/v1/responses", "/api/sessions"):
                headers = {"authorization": f"Bearer {key}"} | {name: f"Bearer {canary(number)}"}
                body = {"model": "talk", "input": "hi"}
                answers.append((await client.post(path, json=body, headers=headers)).text)
        signed = {"authorization": f"Bearer {key}"}
        for number in range(10, 20):
            path = f"/openai/v1/responses?api_key={canary(number)}"
            answers.append((await client.get(path, headers=signed)).text)
        for number in range(20, 30):
            wrong = {"authorization": f"Bearer pdk_{canary(number)}"}
            answers.append((await client.get("/api/sessions", headers=wrong)).text)
    return answers


async def _credentials(server: Up) -> list[str]:
    """Put secrets into a vault and MCP servers' authorisation; return what is told of them."""
    client: Any = await server.openai()
    vault = await client.beta.agents.vaults.create(name="keys")
    told = []
    for number in range(30, 40):
        made = await client.beta.agents.vaults.credentials.create(
            vault.id,
            name=f"c{number}",
            auth={
                "type": "static_bearer",
                "mcp_server_url": f"https://h{number}.example/mcp",
                "token": canary(number),
            },
        )
        told.append(made.to_json())
    told.append((await client.beta.agents.vaults.retrieve(vault.id)).to_json())
    for number in range(40, 50):
        mcp = {
            "type": "mcp",
            "server_label": "away",
            "server_url": "http://127.0.0.1:9/mcp",
            "authorization": canary(number),
            "headers": {"x-token": canary(number)},
        }
        try:
            await client.responses.create(model="talk", input="hi", tools=[mcp])
        except openai.APIError as error:
            told.append(f"{error} {getattr(error, 'body', '')}")
    return told


async def test_fifty_secrets_are_found_nowhere(tmp_path: Path) -> None:
    log, exporter, provider = io.StringIO(), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    start_logging("json", log)
    (tmp_path / "store").mkdir()
    tracing = Tracing(provider)
    model = script(*[Reply(text="Hello.")] * 50)
    try:
        async with up({"talk": model}, tmp_path / "store" / "s.db", tracing=tracing) as server:
            key = await server.key(role="admin")
            told = await _knock(server, key) + await _credentials(server)
            async with httpx2.AsyncClient(base_url=server.url) as client:
                told.append((await client.get("/metrics")).text)
    finally:
        for name in ("perdure", "uvicorn.error"):
            logging.getLogger(name).handlers = []
            logging.getLogger(name).propagate = True
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    spans = " ".join(span.to_json() for span in exporter.get_finished_spans())
    everything = {"answers": " ".join(told), "log": log.getvalue(), "spans": spans}
    assert "request" in everything["log"] and "gen_ai" in spans and len(stored) > 10_000
    for secret in [key, *map(canary, range(50))]:
        found = [where for where, text in everything.items() if secret in text]
        assert not found, f"{secret} in {found}"
        assert secret.encode() not in stored, secret


def test_secrets_of_a_configuration_cannot_be_shown() -> None:
    secret = Secret(canary(1))
    shown = f"{secret} {secret!r} {ServerSettings()} {json.dumps({'a': str(secret)})}"
    assert canary(1) not in shown
