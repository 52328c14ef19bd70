"""Nobody learns of another project: what is there is answered as what is nowhere."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from starlette.routing import Route, WebSocketRoute

from perdure.doors.http import Face
from perdure.doors.principals import Role
from perdure.engine.agent import Agent
from perdure.models.scripted import Call, Reply
from perdure.tools.client import ask_user
from perdure.tools.python import tool
from tests.doors.serving import Up, script, up
from tests.doors.tenants import MESSAGE, Case, Stock, cases, unlike


@tool(effect="read")
def fail() -> str:
    """Fail."""
    raise LookupError("no such thing")


ASKS = script(
    Reply(call=(Call("fail", {}),)),
    Reply(call=(Call("ask_user", {"question": "?"}),)),
    Reply(text="x"),
)
TALKS = script(Reply(text="Hello."), Reply(text="Hello again."))
PUBLIC = {"/healthz", "/readyz", "/metrics", "/api/openapi.json", "/api/docs"}
# What nodes ask each other is opened by a token made of the cluster's secret; see test_nodes.
BETWEEN_NODES = {"/api/nodes/live/{project}/{session:path}"}


class Town:
    """A server with two projects, each full, and a client for each role in each."""

    def __init__(self, server: Up, stack: AsyncExitStack) -> None:
        self.server = server
        self._stack = stack
        self.stock: dict[str, dict[str, str]] = {}
        self.clients: dict[tuple[str, str], httpx2.AsyncClient] = {}

    @property
    def faces(self) -> Sequence[Face]:
        return self.server.server.faces

    async def settle(self) -> None:
        for project in ("shop", "lab"):
            for role in ("viewer", "operator", "admin"):
                key = await self.server.key(project, role)
                headers = {"authorization": f"Bearer {key}"}
                made = httpx2.AsyncClient(base_url=self.server.url, headers=headers, timeout=20)
                self.clients[project, role] = await self._stack.enter_async_context(made)
            stock = Stock(self.clients[project, "admin"])
            await stock.fill(project)
            self.stock[project] = stock.ids


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    helper = Agent("helper", "test:asks", tools=[ask_user, fail])
    models = {"talk": TALKS, "asks": ASKS}
    async with up(models, tmp_path / "s.db", agents=[helper]) as server, AsyncExitStack() as stack:
        made = Town(server, stack)
        await made.settle()
        yield made


def plain(answer: httpx2.Response, asked: str) -> tuple[int, str]:
    """The answer without what differs between any two requests."""
    text = answer.text
    for part in asked.split("?", maxsplit=1)[0].split("/"):
        if len(part) > 4:
            text = text.replace(part, "THAT")
    request_id = answer.headers.get("x-request-id", "-")
    return answer.status_code, text.replace(request_id, "REQUEST")


def all_cases(town: Town) -> list[Case]:
    return [
        case for face in town.faces for case in cases(face, town.stock["lab"], town.stock["shop"])
    ]


BODIES: dict[str, Any] = {
    "conversations.items.create": {"items": [MESSAGE]},
    "update_session": {"limits": {}},
    "send_message": {"text": "x"},
    "steer_session": {"text": "x"},
    "rewind_session": {"to": 1},
    "signal_session": {"name": "x"},
    "decide_action": {"decision": "allow"},
    "raw_post": {"key": "k", "post": {"type": "say", "kind": "pause"}},
}
EMPTY = {"raw_row", "raw_records", "raw_inbox"}  # an answer without anything in it


async def test_another_projects_names_are_names_of_nothing(town: Town) -> None:
    client = town.clients["lab", "admin"]
    before = await everything(town)
    asked, wrong, found = 0, [], []
    for case in all_cases(town):
        method = case.endpoint.method
        ways: list[tuple[str, dict[str, str]]] = [("", {})]
        if method == "GET":
            ways += [("?stream=true", {}), ("", {"accept": "text/event-stream"}), ("?wait=0", {})]
        for query, headers in ways:
            body = None if method in ("GET", "DELETE") else BODIES.get(case.endpoint.name, {})
            answers = [
                plain(await client.request(method, path + query, json=body, headers=headers), path)
                for path in (case.foreign, case.missing)
            ]
            asked += 1
            if answers[0] != answers[1]:
                wrong.append((case.label + query, *answers))
            if answers[0][0] != 404 and case.endpoint.name not in EMPTY:
                found.append((method, case.endpoint.path, case.endpoint.name, *answers[0]))
    assert not wrong, "\n".join(map(str, wrong))
    assert not found, "\n".join(map(str, found))
    assert asked > 80
    assert await everything(town) == before, "nothing was changed by asking"


async def everything(town: Town) -> dict[str, tuple[int, str]]:
    """What the owner of the shop sees: every route that only looks."""
    client = town.clients["shop", "admin"]
    seen = {}
    for face in town.faces:
        for case in cases(face, town.stock["shop"], town.stock["shop"]):
            if case.endpoint.method == "GET" and case.endpoint.name != "events.stream":
                seen[case.foreign] = plain(await client.get(case.foreign), "")
    return seen


async def test_names_in_bodies_and_queries_are_names_of_nothing_too(town: Town) -> None:
    client, shop = town.clients["lab", "admin"], town.stock["shop"]
    sessions, none = "/openai/v1/agents/sessions", {"type": "none"}
    agent = {"model": "talk"}
    own = {"agent": agent, "environment": none}

    def bodies(name: Any) -> list[tuple[str, dict[str, Any]]]:
        response, session = name("responses/response_id"), name("sessions/session_id")
        conversation = name("conversations/conversation_id")
        ask = {"model": "talk", "input": "x"}
        words = {"type": "existing_session", "session_id": session, "instructions": "x"}
        plan = {"name": "a", "type": "periodic", "expression": "0 3 1 1 *", "timezone": "UTC"}
        hosted = {"type": "openai_hosted", "environment_id": name("environments/environment_id")}
        return [
            ("/openai/v1/responses", ask | {"previous_response_id": response}),
            ("/openai/v1/responses", ask | {"conversation": conversation}),
            ("/openai/v1/responses", ask | {"conversation": {"id": conversation}, "stream": True}),
            (sessions, {"agent_id": name("agents/agent_id"), "environment": none}),
            (
                sessions,
                own | {"vault_ids": [name("vaults/vault_id")]},
            ),
            (sessions, {"agent": agent, "environment": hosted}),
            ("/openai/v1/agents/automations", plan | {"target": words}),
        ]

    foreign = bodies(lambda key: shop[key])
    missing = bodies(lambda key: unlike(shop[key]))
    for (path, there), (_, nowhere) in zip(foreign, missing, strict=True):
        answers = []
        for body in (there, nowhere):
            answer = await client.post(path, json=body)
            text = answer.text.replace(answer.headers.get("x-request-id", "-"), "")
            for key, name in shop.items():
                text = text.replace(name, key).replace(unlike(name), key)
            answers.append((answer.status_code, text))
        assert answers[0] == answers[1], path
        assert answers[0][0] in (400, 404), answers[0]
    mine, other = town.stock["lab"]["sessions/id"], shop["sessions/id"]
    path = f"/api/sessions/{mine}/compare?other="
    said = [(await client.get(path + name)).text for name in (other, unlike(other))]
    assert said[0].replace(other, "X") == said[1].replace(unlike(other), "X")


async def test_a_socket_knows_no_other_project_either(town: Town) -> None:
    key = town.clients["lab", "admin"].headers["authorization"]
    url = town.server.url.replace("http", "ws", 1) + "/openai/v1/responses"
    said = []
    async with websockets.connect(url, additional_headers={"authorization": key}) as socket:
        name = town.stock["shop"]["responses/response_id"]
        for each in (name, unlike(name)):
            asked = {"type": "response.create", "model": "talk", "input": "x"}
            await socket.send(json.dumps(asked | {"previous_response_id": each}))
            said.append(str(await socket.recv()).replace(each, "THAT"))
    assert said[0] == said[1]
    assert '"error"' in said[0]


async def test_a_role_may_what_it_may_and_a_key_is_needed_everywhere(town: Town) -> None:
    keys = town.server.server.keys
    revoked, name = await town.server.key(), (await keys.all())[-1].id
    await keys.revoke(name)
    _, expired = await keys.make("lab", "admin", expires_at_us=1)
    wrong = {
        "none": None,
        "garbage": "x",
        "unknown": "pdk_x",
        "revoked": revoked,
        "expired": expired,
    }
    roles: list[Role] = ["viewer", "operator", "admin"]
    checked = 0
    async with httpx2.AsyncClient(base_url=town.server.url, timeout=20) as nobody:
        for face in town.faces:
            for end in face.endpoints:
                path = face.prefix + re.sub(r"\{\w+(:\w+)?\}", "none", end.path)
                for why, token in wrong.items():
                    headers = {"authorization": f"Bearer {token}"} if token else {}
                    answer = await nobody.request(end.method, path, headers=headers)
                    assert answer.status_code == 401, (why, end.method, path)
                for role in roles[: roles.index(end.role)]:
                    answer = await town.clients["lab", role].request(end.method, path)
                    assert answer.status_code == 403, (role, end.method, path, answer.text)
                    checked += 1
    assert checked > 30


def test_every_route_is_an_endpoint_or_known_to_be_open(town: Town) -> None:
    served = {face.prefix + end.path for face in town.faces for end in face.endpoints}
    known = PUBLIC | BETWEEN_NODES | served
    paths = {route.path for route in town.server.server.routes if isinstance(route, Route)}
    assert paths <= known, paths - known
    sockets = [r.path for r in town.server.server.routes if isinstance(r, WebSocketRoute)]
    assert sockets == ["/openai/v1/responses"], "a new socket needs its own check above"
