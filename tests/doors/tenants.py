"""A project with everything in it, and requests for all routes that name something."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from perdure.doors.http import Endpoint, Face

Json = dict[str, Any]
ADD: Final = {
    "type": "function",
    "name": "add",
    "description": "Add.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
}
MESSAGE: Final = {
    "role": "user",
    "type": "message",
    "content": [{"type": "input_text", "text": "x"}],
}
PARAM: Final = re.compile(r"([^/]+)/\{(\w+)(?::\w+)?\}")


class Stock:
    """What a project has, by the part of a path that names it: `responses/response_id`."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self.ids: dict[str, str] = {}

    async def fill(self, project: str) -> None:
        """Make one of everything."""
        await self._responses()
        await self._agents()
        await self._native(f"only-{project}")

    async def _responses(self) -> None:
        made = await self.make("/openai/v1/responses", {"model": "talk", "input": "Hi"})
        self.ids["responses/response_id"] = made["id"]
        files = {"file": ("a.txt", b"text")}
        sent = await self._client.post(
            "/openai/v1/files", files=files, data={"purpose": "user_data"}
        )
        assert sent.status_code == 200, sent.text
        self.ids["files/file_id"] = sent.json()["id"]
        asked = {"role": "user", "content": "Hi"}
        body = {"model": "talk", "messages": [asked], "store": True}
        made = await self.make("/openai/v1/chat/completions", body)
        self.ids["completions/completion_id"] = made["id"]
        made = await self.make("/openai/v1/conversations", {"items": [MESSAGE]})
        self.ids["conversations/conversation_id"] = made["id"]
        items = await self.look(f"/openai/v1/conversations/{made['id']}/items")
        self.ids["items/item_id"] = items["data"][0]["id"]

    async def _agents(self) -> None:
        made = await self.make("/openai/v1/vaults", {"name": "v"})
        self.ids["vaults/vault_id"] = made["id"]
        auth = {"type": "static_bearer", "mcp_server_url": "http://127.0.0.1/mcp", "token": "t"}
        path = f"/openai/v1/vaults/{made['id']}/credentials"
        self.ids["credentials/credential_id"] = (
            await self.make(path, {"name": "c", "auth": auth})
        )["id"]
        base = "/openai/v1/agents"
        agent = await self.make(base, {"model": "talk", "name": "ada"})
        self.ids["agents/agent_id"] = agent["id"]
        made = await self.make(f"{base}/environments/templates", {"name": "t"})
        self.ids["templates/template_id"] = made["id"]
        made = await self.make(f"{base}/environments", {"environment": {"type": "openai_hosted"}})
        self.ids["environments/environment_id"] = made["id"]
        body = {"agent": {"model": "talk"}, "environment": {"type": "none"}, "input": "Hi"}
        made = await self.make(f"{base}/sessions", body)
        self.ids["sessions/session_id"] = made["id"]
        turns: Json = {"data": []}
        while not turns["data"]:
            turns = await self.look(f"{base}/sessions/{made['id']}/turns")
        self.ids["turns/turn_id"] = turns["data"][0]["id"]
        target = {"type": "existing_session", "session_id": made["id"], "instructions": "x"}
        body = {
            "name": "a",
            "type": "periodic",
            "expression": "0 3 1 1 *",
            "timezone": "UTC",
            "target": target,
        }
        auto = await self.make(f"{base}/automations", body)
        self.ids["automations/automation_id"] = auto["id"]
        run = await self.make(f"{base}/automations/{auto['id']}/invocations", {})
        self.ids["invocations/invocation_id"] = run["id"]
        # Both are read off the session's journal: the nearest thing to one is the session.
        self.ids["subagents/subagent_id"] = made["id"]
        self.ids["artifacts/artifact_id"] = made["id"]

    async def _native(self, name: str) -> None:
        await self.make("/api/sessions", {"agent": "helper", "id": name, "message": "go"})
        state: Json = {"actions": {}}
        while not state["actions"]:
            state = (await self.look(f"/api/sessions/{name}"))["state"]
        action = next(iter(state["actions"].values()))
        errors = await self.look("/api/errors")
        await self.make(
            "/api/schedules", {"name": name, "agent": "helper", "prompt": "x", "cron": "@daily"}
        )
        self.ids |= {
            "sessions/id": name,
            "answers/call_id": action["call_id"],
            "actions/action_id": action["id"],
            "grants/name": f"{name}:{action['id']}",
            "rules/name": f"{name}:{action['id']}",
            "schedules/name": name,
            "errors/fingerprint": errors["errors"][0]["fingerprint"],
            "records/seq": "1",
            "blobs/digest": "0" * 64,
        }

    async def make(self, path: str, body: Json) -> Json:
        """Post, and return what was made."""
        answer = await self._client.post(path, json=body)
        assert answer.status_code in (200, 201), (path, answer.status_code, answer.text)
        made: Json = answer.json()
        return made

    async def look(self, path: str) -> Json:
        """Return what is there."""
        answer = await self._client.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        found: Json = answer.json()
        return found


@dataclass(frozen=True)
class Case:
    """One route, asked with names of one project and with names of nothing."""

    face: str
    endpoint: Endpoint
    foreign: str
    missing: str

    @property
    def label(self) -> str:
        """What to call it when it fails."""
        return f"{self.endpoint.method} {self.foreign}"


def cases(face: Face, own: Mapping[str, str], foreign: Mapping[str, str]) -> Iterator[Case]:
    """Yield for each route with names all ways to put foreign ones there: from the first on, and
    behind own ones. Raises `KeyError` for a name that nobody knows how to make.
    """
    for endpoint in face.endpoints:
        path = face.prefix + endpoint.path
        keys = [f"{before}/{name}" for before, name in PARAM.findall(path)]
        for start in range(len(keys)):
            if keys[start] in SHARED:
                continue
            missing = [*(own[k] for k in keys[:start]), *(unlike(foreign[k]) for k in keys[start:])]
            there = [*(own[k] for k in keys[:start]), *(foreign[k] for k in keys[start:])]
            yield Case(face.name, endpoint, filled(path, there), filled(path, missing))


SHARED: Final = {
    "agents/name": "the agents that the operator registered are known in every project",
    "v1/rest": "what no route is for",
    "models/model": "the models that the operator listed are known in every project",
    "answers/call_id": "a name within a session: the first call is called the same everywhere",
    "actions/action_id": "a name within a session",
    "errors/fingerprint": "the same cause has the same fingerprint everywhere",
    "records/seq": "a number of an event: it names nothing without its session",
    "nodes/name": "the processes are the same for all; their addresses are not for everybody",
    "blobs/digest": "only what an event of that session names is given out",
}


def filled(path: str, names: list[str]) -> str:
    """Return the path with these names."""
    left = iter(names)
    return re.sub(r"\{\w+(?::\w+)?\}", lambda _: next(left), path)


def unlike(name: str) -> str:
    """Return a name of the same form that nothing has."""
    turned = {"0": "7", "7": "0", "a": "q", "q": "a", "n": "z", "e": "f", "1": "2", "2": "1"}
    head, mark, tail = name.rpartition("_") if "_" in name else ("", "", name)
    return head + mark + "".join(turned.get(c, c) for c in tail[:-6]) + tail[-6:][::-1].swapcase()
