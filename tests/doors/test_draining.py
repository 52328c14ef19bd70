"""A node that is told to drain: it takes nothing new, lets what runs end, and the others go on."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

from tests.doors.running import Running, running
from tests.doors.test_up import answer, begun, events_until, inn, rung

__all__ = ["inn"]


async def perdure(folder: Path, *words: str, **environ: str) -> tuple[int, str]:
    """Run a verb to its end; return its exit status and all it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "perdure", *words, cwd=folder, env=environ, stdout=PIPE, stderr=PIPE
    )
    out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (out + errors).decode()


async def name_of(folder: Path, server: Running, **environ: str) -> str:
    """Return the node that a server is, as `perdure nodes` lists it."""
    status, said = await perdure(folder, "nodes", "--json", **environ)
    assert status == 0, said
    rows: list[dict[str, Any]] = json.loads(said)
    (name,) = [row["name"] for row in rows if row["address"] == server.said["url"]]
    return str(name)


async def test_what_a_drained_node_had_goes_on_at_another(inn: Path) -> None:
    async with running(inn, "agents.py") as one, running(inn, "agents.py") as other:
        key = one.said["key"]
        async with one.client(key) as here, other.client(key) as there:
            session = await begun(here)
            await events_until(there, session, "tool.started")
            name = await name_of(inn, one)
            status, said = await perdure(inn, "nodes", "show", name)
            assert status == 0 and session in said and one.said["url"] in said
            follower = asyncio.create_task(events_until(there, session, "turn.ended"))
            status, said = await perdure(inn, "nodes", "drain", name)
            assert status == 0 and "takes nothing new" in said
            while (await _ready(here)) == 200:
                pass
            await answer(inn, "coming")
            assert await one.ended() == 0
            seen = await follower
        assert "session.recovered" not in seen and seen.count("tool.started") == 1
        assert rung(inn) == ["cook"]
        status, said = await perdure(inn, "nodes")
        assert other.said["url"] in said and one.said["url"] not in said


async def test_a_takeover_leaves_a_line_in_the_log(inn: Path) -> None:
    async with running(inn, "agents.py") as one, running(inn, "agents.py") as other:
        key = one.said["key"]
        async with one.client(key) as here, other.client(key) as there:
            session = await begun(here)
            await events_until(there, session, "tool.started")
            one.signal(signal.SIGKILL)
            await events_until(there, session, "session.recovered")
        other.signal(signal.SIGTERM)
        assert await other.ended() == 0 and other.process.stderr is not None
        lines = [json.loads(line) for line in (await other.process.stderr.read()).splitlines()]
        (told,) = [each for each in lines if each["message"].startswith("takeover.")]
        assert told["message"] == f"takeover.done session={session} project=default"
        assert told["level"] == "info"


async def _ready(client: Any) -> int:
    return int((await client.get("/readyz")).status_code)


async def test_it_is_asked_of_a_server_by_whoever_may(inn: Path) -> None:
    async with running(inn, "agents.py") as one, running(inn) as other:
        there = {"PERDURE_URL": one.said["url"], "PERDURE_API_KEY": one.said["key"]}
        name = await name_of(inn, other, **there)
        status, said = await perdure(inn, "nodes", "show", name[:12], **there)
        assert status == 0 and other.said["url"] in said
        status, said = await perdure(inn, "nodes", "show", "nobody", **there)
        assert status == 3 and "E-NODE-UNKNOWN" in said
        made = await perdure(inn, "admin", "keys", "new", "--project", "shop", "--json",
                             "--role", "admin")  # fmt: skip
        tenant = json.loads(made[1].splitlines()[0])["key"]
        async with one.client(tenant) as client:
            listed = (await client.get("/api/nodes")).json()["nodes"]
            assert sorted(node["address"] for node in listed) == ["", ""], "a tenant is not told"
            assert [node["here"] for node in listed].count(True) == 1
            refused = await client.post(f"/api/nodes/{name}/drain")
            assert refused.status_code == 403, "nor may it end what works for others, too"
        status, said = await perdure(inn, "nodes", "drain", name, **there)
        assert status == 0, said
        assert await other.ended() == 0
