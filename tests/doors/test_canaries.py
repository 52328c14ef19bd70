"""Fifty secrets through every door: none is found where somebody could read it."""

import json
from pathlib import Path
from typing import Any

import httpx2
import openai

from perdure.core.secrets import Secret
from perdure.doors.settings import ServerSettings
from tests.doors.canaries import canary, overhearing
from tests.doors.serving import Reply, Up, script, up

HEADERS = (
    "authorization", "x-api-key", "cookie", "openai-organization", "traceparent", "baggage",
    "openai-project", "api-key", "proxy-authorization", "x-goog-api-key",
)  # fmt: skip
MARKER = "cnry-marker-that-is-no-secret"


class Sender:
    """Sends secrets, each to a place of its own; `told` is what came back."""

    def __init__(self, server: Up, key: str) -> None:
        self.server = server
        self.key = key
        self.sent: set[str] = set()
        self.told: list[str] = []

    def secret(self, number: int) -> str:
        self.sent.add(canary(number))
        return canary(number)

    async def knock(self) -> None:
        """Send a secret in every header, query and odd place of requests, refused or not."""
        signed = {"authorization": f"Bearer {self.key}"}
        async with httpx2.AsyncClient(base_url=self.server.url) as client:
            for number, name in enumerate(HEADERS):
                for path in ("/openai/v1/responses", "/api/sessions", "/nowhere"):
                    headers = signed | {name: f"Bearer {self.secret(number)}"}
                    body = {"model": "talk", "input": "hi"}
                    self.told.append((await client.post(path, json=body, headers=headers)).text)
            for number in range(10, 20):
                path = f"/openai/v1/responses?api_key={self.secret(number)}"
                self.told.append((await client.get(path, headers=signed)).text)
            for number in range(20, 30):
                wrong = {"authorization": f"Bearer pdk_{self.secret(number)}"}
                self.told.append((await client.get("/api/sessions", headers=wrong)).text)
            self.told.append((await client.get("/metrics")).text)

    async def credentials(self) -> None:
        """Put secrets into a vault and MCP servers' authorisation."""
        client: Any = await self.server.openai()
        vault = await client.beta.agents.vaults.create(name="keys")
        for number in range(30, 40):
            made = await client.beta.agents.vaults.credentials.create(
                vault.id,
                name=f"c{number}",
                auth={
                    "type": "static_bearer",
                    "mcp_server_url": f"https://h{number}.example/mcp",
                    "token": self.secret(number),
                },
            )
            self.told.append(made.to_json())
        self.told.append((await client.beta.agents.vaults.retrieve(vault.id)).to_json())
        for number in range(40, 50):
            mcp = {
                "type": "mcp",
                "server_label": "away",
                "server_url": "http://127.0.0.1:9/mcp",
                "authorization": self.secret(number),
                "headers": {"x-token": self.secret(number)},
            }
            try:
                await client.responses.create(model="talk", input="hi", tools=[mcp])
            except openai.APIError as error:
                self.told.append(f"{error} {getattr(error, 'body', '')}")

    async def message(self) -> None:
        """Say what is no secret, and ask for it again: it must be found, or nothing ever is."""
        client = await self.server.openai()
        made = await client.responses.create(model="talk", input=MARKER)
        items = await client.responses.input_items.list(made.id)
        self.told.append(items.to_json())


async def test_fifty_secrets_are_found_nowhere(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    model = script(*[Reply(text="Hello.")] * 50)
    with overhearing() as heard:
        path = tmp_path / "store" / "s.db"
        async with up({"talk": model}, path, tracing=heard.tracing) as server:
            sender = Sender(server, await server.key(role="admin"))
            await sender.knock()
            await sender.credentials()
            await sender.message()
        places = heard.places(sender.told, tmp_path)
    assert "request" in places.texts["log"] and "gen_ai" in places.texts["spans"]
    # What was said is kept and given back, and told to nobody else: so these places are looked at.
    assert places.of(MARKER) == {"answers", "dump", "files"}
    assert len(sender.sent) == 50
    for secret in [sender.key, *sorted(sender.sent)]:
        assert places.of(secret) == set(), secret


def test_secrets_of_a_configuration_cannot_be_shown() -> None:
    secret = Secret(canary(1))
    shown = f"{secret} {secret!r} {ServerSettings()} {json.dumps({'a': str(secret)})}"
    assert canary(1) not in shown
