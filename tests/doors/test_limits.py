"""How much one key may ask for: refusals name their setting, what is remembered is bounded."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from perdure.doors.limits import Limits, TooMany
from perdure.doors.settings import ServerSettings
from perdure.models.scripted import Reply
from perdure.testing.clocks import FakeClock
from tests.doors.serving import Up, script, up

SLOW = script(*[Reply(text="word " * 400)] * 9, delay_s=0.05, chunk_chars=5)
TALK = script(*[Reply(text="Hello.")] * 9)


@asynccontextmanager
async def served(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Up, httpx2.AsyncClient]]:
    chosen = ServerSettings(**settings)
    async with up({"talk": TALK, "slow": SLOW}, tmp_path / "s.db", settings=chosen) as server:
        key = await server.key()
        headers = {"authorization": f"Bearer {key}"}
        base = f"{server.url}/openai/v1"
        async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=20) as client:
            yield server, client


def said(answer: httpx2.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


async def over(limits: Limits) -> None:
    """Wait until the server has noticed that nobody reads any more."""
    async with asyncio.timeout(10):
        for _ in itertools.takewhile(lambda _: limits.remembered[1:] != (0, 0), itertools.count()):
            await asyncio.sleep(0)


def test_a_minute_is_used_up_and_comes_back() -> None:
    clock = FakeClock()
    limits = Limits(ServerSettings(requests_per_minute=6), clock)
    for _ in range(6):
        limits.admit("a")
    with pytest.raises(TooMany) as refused:
        limits.admit("a")
    assert refused.value.code == "E-RATE"
    assert refused.value.retry_after_s == pytest.approx(10.0)
    limits.admit("b")
    clock.advance(9.9)
    with pytest.raises(TooMany):
        limits.admit("a")
    clock.advance(0.2)
    limits.admit("a")
    clock.advance(3600.0)
    for _ in range(6):
        limits.admit("a")
    with pytest.raises(TooMany):
        limits.admit("a")
    clock.set(clock.now_us() - 10**9)
    with pytest.raises(TooMany):
        limits.admit("a")


def test_what_is_remembered_is_bounded() -> None:
    limits = Limits(ServerSettings(requests_per_minute=1), FakeClock())
    for number in range(20_000):
        limits.admit(f"key-{number}")
    assert limits.remembered[0] == 10_000
    limits.begin_stream("a")
    limits.begin_stream("a")
    limits.end_stream("a")
    limits.end_stream("a")
    assert limits.remembered[1] == 0


def test_a_limit_of_0_is_none() -> None:
    limits = Limits(ServerSettings(requests_per_minute=0, max_streams_per_key=0), FakeClock())
    for _ in range(1000):
        limits.admit("a")
        limits.begin_stream("a")
    limits.check_streams("a")
    assert limits.remembered[0] == 0


async def test_too_many_requests_in_a_minute(tmp_path: Path) -> None:
    async with served(tmp_path, requests_per_minute=5) as (server, client):
        statuses = [(await client.get("/responses/none")).status_code for _ in range(5)]
        assert statuses == [404] * 5
        answer = await client.get("/responses/none")
        status, code, message = said(answer)
        assert (status, code) == (429, "E-RATE")
        assert "[server] requests_per_minute" in message
        assert 1 <= int(answer.headers["retry-after"]) <= 12
        other = {"authorization": f"Bearer {await server.key()}"}
        assert (await client.get("/responses/none", headers=other)).status_code == 404
        for _ in range(20):
            bad = await client.get("/responses/none", headers={"authorization": "Bearer pdk_x"})
            assert bad.status_code == 401


async def test_too_many_streams_of_one_key(tmp_path: Path) -> None:
    async with served(tmp_path, max_streams_per_key=2) as (server, client):
        body = {"model": "slow", "input": "x", "stream": True}
        limits = server.server.services.limits
        async with (
            client.stream("POST", "/responses", json=body) as one,
            client.stream("POST", "/responses", json=body) as two,
        ):
            assert (one.status_code, two.status_code) == (200, 200)
            before = len(await server.server.stores.base.sessions())
            status, code, message = said(await client.post("/responses", json=body))
            assert (status, code) == (429, "E-STREAMS")
            assert "[server] max_streams_per_key" in message
            assert len(await server.server.stores.base.sessions()) == before, "nothing was begun"
            assert (await client.get("/responses/none")).status_code == 404, "no stream, no limit"
        await over(limits)
        again = await client.post("/responses", json=body | {"model": "talk"})
        assert again.status_code == 200
        assert limits.remembered[1:] == (0, 0)


async def test_too_many_requests_at_once(tmp_path: Path) -> None:
    async with served(tmp_path, max_connections=1) as (server, client):
        body = {"model": "slow", "input": "x", "stream": True}
        async with client.stream("POST", "/responses", json=body) as one:
            assert one.status_code == 200
            answer = await client.get("/responses/none")
            status, code, message = said(answer)
            assert (status, code, answer.headers["retry-after"]) == (503, "E-CONNECTIONS", "1")
            assert "[server] max_connections" in message
        await over(server.server.services.limits)
        assert (await client.get("/responses/none")).status_code == 404


async def test_too_much_in_one_request(tmp_path: Path) -> None:
    async with served(tmp_path, max_body_bytes=1000, max_header_bytes=2000) as (_, client):
        status, code, message = said(await client.post("/responses", json={"input": "x" * 1000}))
        assert (status, code) == (413, "E-BODY-SIZE")
        assert "[server] max_body_bytes" in message
        status, code, message = said(await client.get("/responses/x", headers={"x": "y" * 2000}))
        assert (status, code) == (431, "E-HEADER-SIZE")
        assert "[server] max_header_bytes" in message
        status, code, _ = said(await client.get("/responses/" + "x" * 2000))
        assert (status, code) == (431, "E-HEADER-SIZE")
        assert (await client.get("/responses/none")).status_code == 404
