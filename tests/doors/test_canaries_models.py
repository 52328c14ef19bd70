"""Keys of models, in the server's environment: who works for it in a sandbox has none of them, and
neither has a provider's echo.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from perdure import Agent
from perdure.app import Options
from perdure.core import events as e
from perdure.core.secrets import Secret
from perdure.doors.settings import ServerSettings
from perdure.engine.journal import events_of
from perdure.ports.model import ModelOptions
from perdure.serving.server import Plan
from perdure.testing.fake_vendors import Answer, FakeVendor, answer
from tests.doors.canaries import Overheard, canary, overhearing
from tests.doors.serving import QUICK, Up, serving
from tests.environments.doubles import needs_sandbox

NAMES = (
    "PERDURE_MODEL_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OLLAMA_API_KEY",
    "PERDURE_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY",
)  # fmt: skip
KEYS = {name: canary(number) for number, name in enumerate(NAMES, 50)}
CONFIGURED = canary(60)
MARKER = "cnry-marker-that-is-no-secret"
LOOKS = f"""
[[reply]]
[[reply.call]]
tool = "bash"
arguments = {{ command = "echo {MARKER}; env; cat /proc/*/environ | tr '\\\\0' '\\\\n'; set" }}

[[reply]]
text = "I looked."
"""
SNOOP = Agent("snoop", "scripted:looks.toml", workspace=True)


@asynccontextmanager
async def kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Overheard, models: dict[str, str]
) -> AsyncIterator[tuple[Up, httpx2.AsyncClient]]:
    """A server with keys in its own environment, which are those of its models, too."""
    (tmp_path / "looks.toml").write_text(LOOKS)
    monkeypatch.chdir(tmp_path)
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    options = Options(
        environ=dict(os.environ),
        model_options={"openai": ModelOptions(models.pop("openai", ""), Secret(CONFIGURED))},
        bounds=QUICK,
        work_root=tmp_path / "work",
    )
    plan = Plan(f"sqlite:///{tmp_path / 's.db'}", ServerSettings(models=models), options, [SNOOP],
                tracing=heard.tracing)  # fmt: skip
    async with serving(plan) as server:
        signed = {"authorization": f"Bearer {await server.key(role='admin')}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=signed, timeout=60) as client:
            yield server, client


async def until_ended(client: httpx2.AsyncClient, session: str) -> list[str]:
    accept, lines = {"accept": "text/event-stream"}, []
    path = f"/api/sessions/{session}/events"
    async with client.stream("GET", path, headers=accept) as stream:
        async for line in stream.aiter_lines():
            lines.append(line)
            if line == "event: turn.ended":
                return lines
    raise AssertionError("the stream ended first")


@pytest.mark.parametrize("_", [pytest.param(0, marks=needs_sandbox())])
async def test_a_sandbox_has_no_key_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _: int
) -> None:
    with overhearing() as heard:
        async with kept(tmp_path, monkeypatch, heard, {}) as (server, client):
            body = {"agent": "snoop", "id": "s1", "message": "Look!"}
            told = [(await client.post("/api/sessions", json=body)).text]
            told += await until_ended(client, "s1")
            for path in ("", "/events", "/transcript", "/export", "/replay"):
                told.append((await client.get(f"/api/sessions/s1{path}")).text)
            told += [(await client.get(path)).text for path in ("/metrics", "/api/info")]
            store = server.server.stores.of("default")
            events = [event.payload async for event, _ in events_of(store, "s1")]
        places = heard.places(told, tmp_path)
    (opened,) = [p for p in events if isinstance(p, e.EnvironmentOpened)]
    (seen,) = [p.text for p in events if isinstance(p, e.ToolFinished)]
    assert opened.level == "bubblewrap", opened
    assert MARKER in seen and "PATH=" in seen and "BASH_VERSION=" in seen
    assert not [name for name in NAMES if name in seen]
    # What the sandbox says is kept and told: were there a key in it, it would be found.
    assert places.of(MARKER) >= {"answers", "dump", "files"}
    for secret in (*KEYS.values(), CONFIGURED):
        assert places.of(secret) == set(), secret


async def test_a_provider_that_repeats_the_key_does_not_spread_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def echo(key: str) -> Answer:
        said = {"message": f"Incorrect API key provided: {key}", "type": "invalid_request_error"}
        return answer(401, {"error": said | {"code": "invalid_api_key"}}, [("x-request-id", "r1")])

    used = (KEYS["PERDURE_MODEL_KEY"], CONFIGURED)
    async with FakeVendor() as vendor:
        monkeypatch.setenv("PERDURE_BASE_URL", f"{vendor.url}/v1")
        models = {"own": "openai-compatible:m-1", "big": "openai:m-2", "openai": f"{vendor.url}/v1"}
        with overhearing() as heard:
            async with kept(tmp_path, monkeypatch, heard, models) as (_, client):
                told = []
                for model, key in zip(("own", "big"), used, strict=True):
                    vendor.then(echo(key))
                    body = {"model": model, "input": MARKER}
                    refused = await client.post("/openai/v1/responses", json=body)
                    told += [refused.text, json.dumps(dict(refused.headers))]
                    vendor.then(echo(key))
                    chat = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
                    told.append((await client.post("/openai/v1/chat/completions", json=chat)).text)
                causes = (await client.get("/api/errors")).json()["errors"]
                for cause in causes:
                    told.append((await client.get(f"/api/errors/{cause['fingerprint']}")).text)
            places = heard.places([*told, json.dumps(causes)], tmp_path)
        shown = [seen.headers["authorization"] for seen in vendor.requests]
    assert shown == [f"Bearer {key}" for key in used for _ in range(2)], "the keys were used"
    assert "Incorrect API key provided: ***" in places.texts["answers"]
    assert places.of("E-MODEL-AUTH") >= {"answers", "dump"}
    for secret in (*KEYS.values(), CONFIGURED):
        assert places.of(secret) == set(), secret
