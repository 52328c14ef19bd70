"""A store has one first key, however many nodes begin on it at once."""

import asyncio
from pathlib import Path

from perdure.serving.first import first_key
from perdure.serving.server import Plan, Server


async def test_two_that_begin_at_once_make_one_first_key(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    servers = [await Server.open(Plan(url)), await Server.open(Plan(url))]
    made = await asyncio.gather(*(first_key(server, "127.0.0.1") for server in servers))
    shown = [key for key in made if key is not None]
    assert len(shown) == 1
    principal = await servers[1].keys.principal(shown[0])
    assert principal is not None and principal.role == "admin"
    assert await first_key(servers[0], "127.0.0.1") is None
    for server in servers:
        await server.close()
