"""Several servers on one store: whichever a client asks, it sees all that happens, and one that
dies is only a pause.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace

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
        assert said and said in WORDS, "all of it, from when it was heard"
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
        assert all(each.result() for each in readers) and most == 1
        upstreams = other.server.membership._upstreams
        assert upstreams is not None
        for _ in range(500):  # until it is noticed that they have gone
            if not upstreams.open and not hub._followers:
                break
            await a_moment()
        assert upstreams.open == 0 and not hub._followers


async def test_who_is_done_with_a_session_says_so_and_is_not_held(place: Place) -> None:
    quick = script(Reply(text=WORDS), Reply(text="Two."), delay_s=0.005)
    async with (
        two(place, quick, TALKER) as (one, other),
        client(one) as here,
        client(other) as there,
    ):
        body = {"agent": "talker", "id": "s1", "message": "Hi"}
        await ask(here, "POST", "/sessions", 201, json=body)
        engine = one.server.projects.open_ones["default"]
        kinds: list[str] = []
        async for _, kind, _ in follow(there, "/sessions/s1/events"):
            kinds.append(kind)
            if kinds.count("turn.ended") == 1 and kind == "turn.ended":
                for _ in range(1000):  # until the first node has let it go, and nobody listens
                    if not engine.driven and not engine.hub._followers:
                        break
                    await a_moment()
                assert not engine.driven and not engine.hub._followers
                await ask(there, "POST", "/sessions/s1/messages", 202, json={"text": "On"})
            elif kind == "turn.ended":
                break
        assert "live" in kinds and other.server.projects.open_ones["default"].driven == ["s1"]


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
TAKES_NOTHING = replace(QUICK, takeover_s=0.0)  # but what is there when it begins
PLAY = Script((Reply(text=WORDS), Reply(text="On.")), delay_s=0.02, chunk_chars=4)


@asynccontextmanager
async def three(place: Place) -> AsyncIterator[tuple[Home, Home, Home]]:
    """Run three server processes on one store; the second one takes nothing over."""
    async with home(place.path, {"talk": PLAY}, QUICK, place.url) as one:
        others = [
            Home(one.path, one.scripts, settings, one.store, keys=one.keys)
            for settings in (TAKES_NOTHING, QUICK)
        ]
        try:
            await asyncio.gather(*(each.start() for each in (one, *others)))
            yield one, others[0], others[1]
        finally:
            for each in others:
                await each.end()


def http_of(node: Home) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {node.keys['default']}"}
    url = f"http://127.0.0.1:{node.port}/api"
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=30)


@dataclass
class Seen:
    """What a client of another node saw of a session whose node was lost on the way."""

    frames: list[Any]

    @property
    def types(self) -> list[str]:
        return [each[1] for each in self.frames]

    @property
    def before(self) -> str:
        """What was said before another node took the session over."""
        return self._said(self.frames[: self.types.index("session.recovered")])

    @property
    def after(self) -> str:
        return self._said(self.frames[self.types.index("session.recovered") :])

    @staticmethod
    def _said(frames: list[Any]) -> str:
        return "".join(each[2]["text"] for each in frames if each[1] == "live")

    def check(self) -> None:
        numbers = durable(self.frames)
        assert numbers == list(range(1, len(numbers) + 1)), "each once, in order"
        assert self.types.count("session.recovered") == 1
        assert self.frames[-1][2]["payload"]["status"] == "completed"
        assert self.before and self.before in WORDS, "it streamed at the node that was lost"
        assert self.after and self.after in WORDS, "and then at the one that took over"


async def lost(one: Home, there: httpx2.AsyncClient, how: signal.Signals) -> Seen:
    """Have a session run at a node, follow it at another one, and stop the first in the midst."""
    frames: list[Any] = []
    async with http_of(one) as here:
        body = {"agent": "talker", "id": "s1", "message": "Hi"}
        await ask(here, "POST", "/sessions", 201, json=body)
    assert one.process is not None and one.process.pid is not None
    async for each in follow(there, "/sessions/s1/events"):
        if each[1] == "live" and "live" not in (kind for _, kind, _ in frames):
            os.kill(one.process.pid, how)
        frames.append(each)
        if each[1] == "turn.ended":
            return Seen(frames)
    raise AssertionError("the stream ended")


async def test_a_killed_node_is_a_pause_for_those_who_follow_at_another(place: Place) -> None:
    async with three(place) as (one, other, third), http_of(other) as there:
        seen = await lost(one, there, signal.SIGKILL)
        seen.check()
        assert not one.process or not one.process.is_alive()
        async with http_of(third) as last:
            nodes = {node["pid"]: node for node in await _nodes(last)}
        assert third.process is not None
        assert nodes[third.process.pid]["driven"] == ["s1"], "the one that takes over has it"


async def _nodes(http: httpx2.AsyncClient) -> list[Any]:
    return list((await ask(http, "GET", "/nodes"))["nodes"])


@pytest.mark.parametrize("place", [pytest.param("postgres", marks=pytest.mark.postgres)],
                         indirect=True)  # fmt: skip
async def test_a_node_that_was_frozen_says_nothing_any_more(place: Place) -> None:
    async with three(place) as (one, other, _), http_of(other) as there:
        seen = await lost(one, there, signal.SIGSTOP)
        seen.check()
        assert one.process is not None and one.process.pid is not None
        os.kill(one.process.pid, signal.SIGCONT)
        async with http_of(one) as back:
            while any(node["driven"] for node in await _nodes(back) if node["here"]):
                pass
            page = await ask(back, "GET", "/sessions/s1/events?limit=1000")
        assert [event["seq"] for event in page["events"]] == durable(seen.frames)
