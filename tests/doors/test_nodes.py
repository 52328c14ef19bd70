"""Several servers on one store: whichever a client asks, it sees all that happens, and one that
dies is only a pause.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from perdure import Agent, tool
from perdure.doors.settings import ServerSettings
from perdure.models.scripted import Call, Reply, Script
from perdure.ports.tool import ToolContext
from perdure.serving.live import PREFIX
from tests.contract.postgres import database, postgres
from tests.doors.process import Home, home
from tests.doors.serving import Up, script, up
from tests.doors.test_native import ask, client, follow
from tests.engine.inn import a_moment

__all__ = ["database", "postgres"]

WORDS = " ".join(f"word{n}" for n in range(60))
SLOW = script(Reply(text=WORDS), Reply(text="And again."), delay_s=0.02)
TALKER = Agent("talker", "test:talk")


@dataclass(frozen=True)
class Place:
    """Where a store lies."""

    path: Path
    url: str


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    url = ""
    if request.param == "postgres":
        url = f"{request.getfixturevalue('database')}&lease_s=2"
    return Place(tmp_path / "s.db", url)


@asynccontextmanager
async def two(place: Place, model: Any, agent: Agent) -> AsyncIterator[tuple[Up, Up]]:
    """Run two servers on one store, each with everything."""
    async with (
        up({"talk": model}, place.path, agents=[agent], store=place.url) as one,
        up({"talk": model}, place.path, agents=[agent], store=place.url) as other,
    ):
        yield one, other


def durable(frames: list[Any]) -> list[int]:
    return [int(each[0]) for each in frames if each[0]]


async def test_a_client_of_one_node_sees_what_another_streams(place: Place) -> None:
    async with (
        two(place, SLOW, TALKER) as (one, other),
        client(one) as here,
        client(other) as there,
    ):
        body = {"agent": "talker", "id": "s1", "message": "Hi"}
        await ask(here, "POST", "/sessions", 201, json=body)
        frames: list[Any] = []
        async for each in follow(there, "/sessions/s1/events"):
            frames.append(each)
            if each[1] == "turn.ended":
                break
        assert one.server.projects.open_ones["default"].driven == ["s1"]
        assert other.server.projects.open_ones["default"].driven == []
        numbers = durable(frames)
        assert numbers == list(range(1, len(numbers) + 1))
        types = [each[1] for each in frames]
        begun, done = types.index("model.requested"), types.index("model.responded")
        said = "".join(each[2]["text"] for each in frames[begun:done] if each[1] == "live")
        assert len(said) > len(WORDS) / 3 and said in WORDS, "all of it, from when it was heard"
        assert "live" not in types[:begun] + types[done:]


async def test_output_of_tools_comes_from_afar_and_a_project_is_its_own(place: Place) -> None:
    go = asyncio.Event()

    @tool(effect="read")
    async def count(ctx: ToolContext) -> str:
        """Count."""
        await go.wait()
        for n in range(20):
            ctx.progress(f"{n} ")
            await a_moment()
        return "counted"

    model = script(Reply(call=(Call("count"),)), Reply(text="Done."))
    agent = Agent("counter", "test:talk", tools=[count])
    async with (
        two(place, model, agent) as (one, other),
        client(one, "shop") as here,
        client(other, "shop") as there,
        client(other) as elsewhere,
    ):
        body = {"agent": "counter", "id": "s1", "message": "Hi"}
        await ask(here, "POST", "/sessions", 201, json=body)
        await ask(elsewhere, "GET", "/sessions/s1", 404)
        pieces: list[Any] = []
        async for _, kind, data in follow(there, "/sessions/s1/events"):
            if kind == "tool.started":
                go.set()
            elif kind == "live":
                pieces.append(data)
            elif kind == "turn.ended":
                break
        told = "".join(p["text"] for p in pieces if p["type"] == "tool.progress")
        assert told.endswith("19 ") and {p.get("call_id") for p in pieces} != {""}


async def test_nobody_listens_for_nobody_and_all_share_one_stream(place: Place) -> None:
    async with (
        two(place, SLOW, TALKER) as (one, other),
        client(one) as here,
        client(other) as there,
    ):
        body = {"agent": "talker", "id": "s1", "message": "Hi"}
        await ask(here, "POST", "/sessions", 201, json=body)

        async def reader() -> int:
            pieces = 0
            async for _, kind, _ in follow(there, "/sessions/s1/events"):
                pieces += kind == "live"
                if kind == "turn.ended":
                    break
            return pieces

        hub = one.server.projects.open_ones["default"].hub
        readers = [asyncio.ensure_future(reader()) for _ in range(5)]
        most = 0
        while not all(each.done() for each in readers):
            await asyncio.wait(readers, timeout=0.02)
            most = max(most, len(hub._followers.get("s1", ())))
        assert all(each.result() > 20 for each in readers) and most == 1
        upstreams = other.server.membership._upstreams
        assert upstreams is not None
        for _ in range(500):  # until it is noticed that they have gone
            if not upstreams.open:
                break
            await a_moment()
        assert upstreams.open == 0 and not hub._followers


async def test_only_nodes_of_the_store_may_listen(place: Place) -> None:
    async with two(place, SLOW, TALKER) as (one, other), client(one) as here:
        body = {"agent": "talker", "id": "s1", "message": "Hi"}
        await ask(here, "POST", "/sessions", 201, json=body)
        path = f"{PREFIX}/default/s1"
        token = await other.server.membership._secret.token(path)
        wrong = [
            "x", await one.key("default", "admin"), token[:-1], token.upper(), "…",
            await other.server.membership._secret.token(f"{PREFIX}/default/s2"),
        ]  # fmt: skip
        async with httpx2.AsyncClient(base_url=one.url) as plain:
            for each in wrong:
                answer = await plain.get(
                    path, headers={b"authorization": b"Bearer " + each.encode()}
                )
                assert answer.status_code == 401, each
                assert answer.json()["error"]["code"] == "E-NODE-SECRET"
            headers = {"authorization": f"Bearer {token}"}
            async with plain.stream("GET", path, headers=headers) as good:
                assert good.status_code == 200
            token = await other.server.membership._secret.token(f"{PREFIX}/default/s9")
            gone = await plain.get(
                f"{PREFIX}/default/s9", headers={"authorization": f"Bearer {token}"}
            )
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "E-NODE-ELSEWHERE")


async def test_the_secret_is_made_once(place: Place) -> None:
    async with two(place, SLOW, TALKER) as (one, other):
        secrets = [each.server.membership._secret for each in (one, other)]
        tokens = await asyncio.gather(*(each.token("/x") for each in secrets for _ in range(5)))
        assert len(set(tokens)) == 1
        assert all([await each.opens(tokens[0], "/x") for each in secrets])
        assert not await secrets[0].opens(tokens[0], "/y")
        doc = await one.server.stores.base.doc("cluster", "secret")
        assert doc is not None and len(doc.data) == 32
        assert doc.data.hex() not in repr(secrets[0]) + tokens[0]


QUICK = ServerSettings(
    models={"*": "test:*"}, default_model="talk", private_hosts=("127.0.0.1",), takeover_s=0.2
)


async def test_a_killed_node_is_a_pause_for_those_who_follow_at_another(place: Place) -> None:
    play = Script((Reply(text=WORDS), Reply(text="On.")), delay_s=0.02, chunk_chars=4)
    async with home(place.path, {"talk": play}, QUICK, place.url) as one:
        other = Home(one.path, one.scripts, QUICK, one.store, keys=one.keys)
        try:
            await one.start()
            await other.start()
            headers = {"authorization": f"Bearer {one.keys['default']}"}
            urls = [f"http://127.0.0.1:{each.port}/api" for each in (one, other)]
            async with (
                httpx2.AsyncClient(base_url=urls[0], headers=headers, timeout=30) as here,
                httpx2.AsyncClient(base_url=urls[1], headers=headers, timeout=30) as there,
            ):
                body = {"agent": "talker", "id": "s1", "message": "Hi"}
                await ask(here, "POST", "/sessions", 201, json=body)
                frames = await _until_killed(there, "s1", one)
        finally:
            await other.end()
    numbers = durable(frames)
    assert numbers == list(range(1, len(numbers) + 1)), "each once, in order"
    types = [each[1] for each in frames]
    taken = types.index("session.recovered")
    assert "live" in types[:taken], "it streamed at the node that died"
    assert frames[-1][2]["payload"]["status"] == "completed"
    again = "".join(each[2]["text"] for each in frames[taken:] if each[1] == "live")
    assert again and again in WORDS, "and then at the one that took over"


async def _until_killed(there: httpx2.AsyncClient, name: str, one: Home) -> list[Any]:
    """Follow a session to its end; kill the node that works on it when it has said something."""
    frames: list[Any] = []
    async for each in follow(there, f"/sessions/{name}/events"):
        frames.append(each)
        if each[1] == "live" and one.alive:
            await one.kill()
        if each[1] == "turn.ended":
            break
    return frames
