"""What nobody answers: a path that there is not, a method that a path does not take."""

import json
from typing import Any

import httpx2
import pytest

from tests.doors.serving import Reply, script, up

TALK = script(Reply(text="Hello."))
FIELDS = {"code", "message", "hint", "retryable"}


async def asked(method: str, path: str) -> tuple[httpx2.Response, dict[str, Any]]:
    async with up({"talk": TALK}) as server, httpx2.AsyncClient(base_url=server.url) as client:
        answer = await client.request(method, path)
        text = (await client.get("/metrics")).text
    error = json.loads(answer.text)["error"] if answer.text else {}
    if error:
        assert f'perdure_errors_total{{code="{error["code"]}"}} 1' in text
    return answer, error


@pytest.mark.parametrize("path", ["/", "/nothing", "/api", "/api/nothing", "/openai", "/apis/x"])
async def test_a_path_that_there_is_not(path: str) -> None:
    answer, error = await asked("GET", path)
    assert answer.status_code == 404 and answer.headers["x-request-id"].startswith("req_")
    assert set(error) == FIELDS and error["code"] == "E-ROUTE" and error["retryable"] is False
    assert f"GET {path}" in error["message"] and "/api/docs" in error["hint"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/healthz", {"GET", "HEAD"}),
        ("PUT", "/api/sessions", {"GET", "HEAD", "POST"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
        ("BREW", "/api/openapi.json", {"GET", "HEAD"}),
    ],
)
async def test_a_method_that_a_path_does_not_take(
    method: str, path: str, allowed: set[str]
) -> None:
    answer, error = await asked(method, path)
    assert answer.status_code == 405 and set(answer.headers["allow"].split(", ")) == allowed
    assert set(error) == FIELDS and error["code"] == "E-ROUTE"
    assert all(each in error["hint"] for each in allowed)


async def test_openais_prefix_keeps_its_own_form() -> None:
    answer, error = await asked("OPTIONS", "/openai/v1/responses")
    assert answer.status_code == 405 and "POST" in answer.headers["allow"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    answer, error = await asked("GET", "/openai/v1")
    assert answer.status_code == 404 and error["type"] == "not_found_error"


async def test_an_odd_path_is_told_as_text_and_short() -> None:
    answer, error = await asked("GET", "/%1b[31m" + "x" * 3000)
    assert answer.status_code == 404
    assert "\x1b" not in error["message"] and len(error["message"]) < 300
