"""Commands of API agents reach what their environment lists, with secrets they do not have."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from perdure.doors.settings import ServerSettings
from tests.doors.serving import Reply, script, up
from tests.doors.test_environments import SECRET, bash, hosted, ran, said
from tests.environments.doubles import needs_sandbox

pytestmark = needs_sandbox()


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run a server on this machine; yield its port and the requests it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nyou sent " + heads[-1])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


async def asked(path: Path, port: int, settings: ServerSettings | None, allowed: str) -> str:
    """Return what a command said that sends its secret to this machine."""
    curl = f'curl -sS --noproxy "" -H "X-Key: $API_KEY" http://127.0.0.1:{port}/'
    models = {"look": script(bash(curl), Reply(text="{{last_result}}"))}
    async with up(models, path / "s.db", settings=settings) as server:
        client: Any = await server.openai()
        vault = await client.beta.agents.vaults.create()
        auth: Any = {
            "type": "environment_variable", "secret_name": "API_KEY", "secret_value": SECRET,
            "networking": {"type": "limited", "allowed_hosts": [allowed]},
        }  # fmt: skip
        await client.beta.agents.vaults.credentials.create(vault.id, name="k", auth=auth)
        network = {"access": "restricted", "allowed_domains": [f"127.0.0.1:{port}"]}
        session = await ran(client, "look", hosted(network=network), vault_ids=[vault.id])
        return str(await said(client, session.id))


async def test_a_secret_of_the_session_s_vault_arrives_where_it_is_for(tmp_path: Path) -> None:
    async with upstream() as (port, heads):
        text = await asked(tmp_path, port, None, f"127.0.0.1:{port}")
        assert f"X-Key: {SECRET}\r\n".encode() in heads[0]
        assert SECRET not in text
        assert "you sent" in text
    files = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert not [data for data in files if SECRET.encode() in data]


async def test_elsewhere_the_placeholder_arrives(tmp_path: Path) -> None:
    async with upstream() as (port, heads):
        text = await asked(tmp_path, port, None, "api.example.com")
        assert b"X-Key: perdure-secret:" in heads[0]
        assert "you sent" in text


async def test_a_client_cannot_open_the_servers_own_networks(tmp_path: Path) -> None:
    async with upstream() as (port, heads):
        settings = ServerSettings(private_hosts=("mcp.internal",))
        text = await asked(tmp_path, port, settings, "api.example.com")
        assert "E-EGRESS-REFUSED 127.0.0.1 has an address that is not public" in text
        assert heads == []
