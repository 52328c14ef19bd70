"""Hostile requests at all doors; `make fuzz` sends many more."""

import json
from pathlib import Path

import httpx2
import pytest

from tests.doors.fuzz import fuzz
from tests.doors.serving import Reply, script, up


@pytest.mark.slow
async def test_no_request_breaks_the_server_or_makes_it_tell(tmp_path: Path) -> None:
    found = await fuzz(tmp_path, 5000, seed=7)
    assert not found.bad, "\n".join(found.bad)
    assert found.asked == 5000 and found.statuses[200] > 300
    assert found.hung_up < 500


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 1' + b"0" * 400 + b"}",
        b"[" * 100_000,
        b'{"a": -Infinity}',
    ],
)
async def test_numbers_that_nobody_reads_back_are_refused(body: bytes) -> None:
    async with up({"talk": script(Reply(text="Hello."))}) as server:
        headers = {"authorization": f"Bearer {await server.key()}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers) as client:
            refused = await client.post("/openai/v1/responses", content=body)
            assert refused.status_code == 400 and "not JSON" in refused.text


@pytest.mark.parametrize("wrong", [{"tools": 1}, {"model": {"a": 1}}, {"tools": {"type": "mcp"}}])
async def test_fields_of_another_type_are_refused(wrong: dict[str, object]) -> None:
    async with up({"talk": script(Reply(text="Hello."))}) as server:
        headers = {"authorization": f"Bearer {await server.key()}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers) as client:
            body = {"model": "talk", "input": "hi"} | wrong
            assert (await client.post("/openai/v1/responses", json=body)).status_code == 400
            counted = await client.post("/openai/v1/responses/input_tokens", json=body)
            assert counted.status_code in (200, 400)


async def test_half_a_character_is_no_fault_of_ours() -> None:
    async with up({"talk": script(Reply(text="You said {{last_user}}"))}) as server:
        headers = {"authorization": f"Bearer {await server.key()}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers) as client:
            body = json.dumps({"model": "talk", "input": "cut \ud83d"})
            answered = await client.post("/openai/v1/responses", content=body)
            assert answered.status_code == 200 and "You said cut ?" in answered.text
            odd = await client.get(
                "/openai/v1/nothing/?a=%ED%A0%80&b=\udcff".encode(
                    "utf-8", "surrogateescape"
                ).decode("latin-1")
            )
            assert odd.status_code == 404
