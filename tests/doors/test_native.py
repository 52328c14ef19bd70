"""The native protocol, spoken plainly over HTTP."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from perdure import Agent, tool
from perdure.doors.principals import Role
from perdure.models.scripted import Call, Failure as Failing, Reply
from tests.doors.serving import Up, script, up


@tool(effect="read")
def look(order: int) -> str:
    """Look an order up."""
    return f"order {order} was delivered"


@tool(effect="once", ask="eur > 20")
def refund(order: int, eur: float) -> str:
    """Give money back."""
    return f"refunded {eur}"


HELPER = Agent("helper", "test:talk", tools=[look, refund])
TALK = script(Reply(text="Hello there, friend."), Reply(text="And again: {{last_user}}."))
ASKS = script(
    Reply(call=(Call("refund", {"order": 9, "eur": 38.0}),)), Reply(text="So: {{last_result}}.")
)


@asynccontextmanager
async def client(
    server: Up, project: str = "default", role: Role = "operator"
) -> AsyncIterator[httpx2.AsyncClient]:
    key = await server.key(project, role)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(base_url=f"{server.url}/api", headers=headers) as found:
        yield found


async def ask(
    http: httpx2.AsyncClient, method: str, path: str, status: int = 200, **how: Any
) -> Any:
    answer = await http.request(method, path, **how)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def follow(http: httpx2.AsyncClient, path: str, **headers: str) -> AsyncIterator[Any]:
    """Yield (id, type, data) of server-sent events."""
    headers |= {"accept": "text/event-stream"}
    async with http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        buffer = b""
        async for piece in answer.aiter_bytes():
            *frames, buffer = (buffer + piece).split(b"\n\n")
            for each in frames:
                lines = dict(line.split(": ", 1) for line in each.decode().splitlines())
                if "data" in lines:
                    yield lines.get("id"), lines.get("event"), json.loads(lines["data"])


async def till(http: httpx2.AsyncClient, name: str, last: str, after: int = 0) -> list[Any]:
    """Follow a session until an event of that type; return the frames."""
    found = []
    async for each in follow(http, f"/sessions/{name}/events?after={after}"):
        found.append(each)
        if each[1] == last:
            break
    return found


async def test_a_session_from_its_making_to_its_end() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server, client(server) as http:
        body = {"agent": "helper", "id": "s1"}
        made = await ask(http, "POST", "/sessions", 201, json=body)
        assert made["created"] and made["row"]["id"] == "s1"
        frames = []
        async for each in follow(http, "/sessions/s1/events"):
            frames.append(each)
            if each[1] == "session.created":
                await ask(http, "POST", "/sessions/s1/messages", 202, json={"text": "Hi"})
            if each[1] == "turn.ended":
                break
        durable = [each for each in frames if each[0]]
        assert [int(each[0]) for each in durable] == list(range(1, len(durable) + 1))
        assert any(each[1] == "live" for each in frames)
        view = await ask(http, "GET", "/sessions/s1")
        assert view["row"]["status"] == "idle" and view["state"]["turns"] == 1
        items = (await ask(http, "GET", "/sessions/s1/transcript"))["items"]
        assert items[-1]["items"][0]["text"] == "Hello there, friend."
        page = await ask(http, "GET", "/sessions/s1/events?after=1&limit=2")
        assert [event["seq"] for event in page["events"]] == [2, 3] and page["next"] == 3
        assert (await ask(http, "GET", "/sessions/s1/replay"))["identical"]
        closed = await ask(http, "POST", "/sessions/s1/close", json={})
        assert closed["payload"]["type"] == "session.closed"
        assert closed["payload"]["by"].startswith("key_")


async def test_a_stream_goes_on_where_its_reader_was() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server, client(server) as http:
        await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1",
                                                        "message": "Hi"})  # fmt: skip
        frames = [each for each in await till(http, "s1", "turn.ended") if each[0]]
        for number in (1, 3, len(frames) - 1):
            rest = []
            path = "/sessions/s1/events"
            async for each in follow(http, path, **{"last-event-id": str(number)}):
                rest.append(each)
                if each[1] == "turn.ended":
                    break
            assert rest == frames[number:]


async def test_the_same_key_says_it_once() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server, client(server) as http:
        await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1"})
        for fresh in (True, False):
            body = {"text": "Hi", "key": "k1"}
            said = await ask(http, "POST", "/sessions/s1/messages", 202, json=body)
            assert said == {"fresh": fresh}
        await till(http, "s1", "turn.ended")
        view = await ask(http, "GET", "/sessions/s1")
        assert view["state"]["turns"] == 1
        again = await ask(http, "POST", "/sessions/s1/messages", 409,
                          json={"text": "Bye", "key": "k1"})  # fmt: skip
        assert again["error"]["code"] == "E-KEY-REUSED"


async def test_an_approval_is_listed_decided_once_and_signed_by_the_key() -> None:
    async with up({"talk": ASKS}, agents=[HELPER]) as server, client(server) as http:
        await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1",
                                                        "message": "38"})  # fmt: skip
        await till(http, "s1", "action.requested")
        waiting = (await ask(http, "GET", "/actions?kind=approve"))["actions"]
        assert [(w["session"], w["tool"]) for w in waiting] == [("s1", "refund")]
        action = waiting[0]["action"]
        body = {"decision": "allow", "seen": action["digest"], "by": "ann",
                "arguments": '{"order": 9, "eur": 12.0}', "scope": "session"}  # fmt: skip
        path = f"/sessions/s1/actions/{action['id']}"
        event = await ask(http, "POST", path, json=body)
        assert event["payload"]["by"].startswith("ann via key_")
        assert event["payload"]["arguments"] == '{"order": 9, "eur": 12.0}'
        items = await till(http, "s1", "turn.ended")
        assert "refunded 12.0" in json.dumps(items)
        late = await ask(http, "POST", path, 409, json={"decision": "deny"})
        assert late["error"]["code"] == "E-ACTION-DECIDED" and "ann via" in late["error"]["message"]
        grant = event["payload"]["grant"]["name"]
        gone = await ask(http, "DELETE", f"/sessions/s1/grants/{grant}")
        assert gone["payload"]["name"] == grant


async def test_forks_rewinds_and_comparison() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server, client(server) as http:
        await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1",
                                                        "message": "Hi"})  # fmt: skip
        await till(http, "s1", "turn.ended")
        plan = await ask(http, "GET", "/sessions/s1/preflight?at=1")
        assert plan["at"] == 1
        made = await ask(http, "POST", "/sessions/s1/fork", 201, json={"at": 1, "name": "s2"})
        assert made["row"]["id"] == "s2"
        found = await ask(http, "GET", "/sessions/s1/compare?other=s2")
        assert found["shared_events"] == 1
        event = await ask(http, "POST", "/sessions/s1/rewind", json={"to": 1})
        assert event["payload"] == {"type": "session.rewound", "to": 1} | {
            k: v for k, v in event["payload"].items() if k not in ("type", "to")
        }


async def test_a_journal_goes_out_and_comes_in_under_another_name() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server, client(server) as http:
        await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1",
                                                        "message": "Hi"})  # fmt: skip
        await till(http, "s1", "turn.ended")
        lines = (await http.get("/sessions/s1/export")).content
        again = await ask(http, "POST", "/import", 409, content=lines)
        assert again["error"]["code"] == "E-SESSION-EXISTS"
        made = await ask(http, "POST", "/import?name=s2", 201, content=lines)
        assert made["row"]["id"] == "s2" and made["row"]["status"] == "paused"
        async with client(server, "other") as other:
            await ask(other, "POST", "/import", 201, content=lines)  # under its own name, too
            for place, name in ((other, "s1"), (http, "s2")):
                state = (await ask(place, "GET", f"/sessions/{name}"))["state"]
                assert state["imported"] == lines.count(b'"data":')
                assert state["imported_by"].startswith("key_")
        torn = await ask(http, "POST", "/import?name=s3", 400, content=lines[:-20])
        assert torn["error"]["code"] == "E-IMPORT"


async def test_a_journal_that_brings_a_definition_is_for_admins() -> None:
    stranger = Agent("stranger", "test:talk", "Obey.")
    async with up({"talk": TALK}, agents=[stranger]) as server, client(server) as http:
        await ask(http, "POST", "/sessions", 201, json={"agent": "stranger", "id": "s1"})
        lines = (await http.get("/sessions/s1/export")).content
    async with up({"talk": TALK}, agents=[HELPER]) as server:
        async with client(server) as http:
            refused = await ask(http, "POST", "/import", 403, content=lines)
            assert refused["error"]["code"] == "E-ROLE"
            await ask(http, "GET", "/sessions/s1", 404)
        async with client(server, role="admin") as http:
            await ask(http, "POST", "/import", 201, content=lines)


async def test_errors_are_grouped_and_redriven_by_lines() -> None:
    broken = script(Reply(error=Failing("auth")))
    async with up({"talk": broken}, agents=[HELPER]) as server, client(server) as http:
        await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1",
                                                        "message": "Hi"})  # fmt: skip
        frames = await till(http, "s1", "turn.ended")
        seq = int(frames[-1][0])
        (group,) = (await ask(http, "GET", "/errors"))["errors"]
        print_ = group["fingerprint"]
        shown = await ask(http, "GET", f"/errors/{print_}")
        assert shown["occurrences"][0]["waits"] and shown["error"]["code"] == "E-MODEL-AUTH"
        plan = (await ask(http, "GET", f"/errors/{print_}/plan"))["plan"]
        assert [each["session"] for each in plan] == ["s1"]
        path = f"/errors/{print_}/redrive"
        dry = await http.post(path, json={"dry_run": True})
        assert [json.loads(line)["outcome"] for line in dry.text.splitlines()] == ["planned"]
        done = await http.post(path, json={"rate_per_s": 100.0})
        assert [json.loads(line)["outcome"] for line in done.text.splitlines()] == ["resumed"]
        await till(http, "s1", "turn.ended", seq)  # the key is still refused
        assert (await ask(http, "GET", "/errors"))["errors"][0]["count"] == 2


async def test_schedules_and_rules_of_the_project() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server, client(server) as http:
        body = {"name": "nightly", "agent": "helper", "prompt": "Report.", "cron": "0 3 * * *"}
        made = await ask(http, "POST", "/schedules", 201, json=body)
        assert made["made_by"].startswith("key_")
        ran = await ask(http, "POST", "/schedules/nightly/now", 202)
        await till(http, ran["session"], "turn.ended")
        assert (await ask(http, "POST", "/schedules/nightly/pause"))["paused"]
        assert not (await ask(http, "POST", "/schedules/nightly/resume")).get("paused")
        view = await ask(http, "GET", "/schedules/nightly")
        assert [run["run"]["session"] for run in view["runs"]] == [ran["session"]]
        await ask(http, "DELETE", "/schedules/nightly", 204)
        assert (await ask(http, "GET", "/schedules"))["schedules"] == []
        assert (await ask(http, "GET", "/rules"))["rules"] == []
        refused = await ask(http, "POST", "/schedules", 404, json=body | {"agent": "nobody"})
        assert refused["error"]["code"] == "E-AGENT-UNKNOWN"


async def test_pages_of_sessions_and_what_they_used() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server, client(server) as http:
        for name in ("s1", "s2", "s3"):
            await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": name,
                                                            "message": "Hi"})  # fmt: skip
            await till(http, name, "turn.ended")
        names, cursor = [], ""
        while True:
            page = await ask(http, "GET", f"/sessions?limit=1&cursor={cursor}")
            names += [row["id"] for row in page["sessions"]]
            cursor = page["next"]
            if not cursor:
                break
        assert names == ["s3", "s2", "s1"]
        assert (await ask(http, "GET", "/sessions?status=failed"))["sessions"] == []
        await ask(http, "POST", "/sessions/s1/fork", 201, json={"name": "s4"})
        (used,) = (await ask(http, "GET", "/usage"))["used"]
        assert (used["agent"], used["model"], used["calls"]) == ("helper", "test:talk", 3)
        node = (await ask(http, "GET", "/nodes"))["nodes"][0]
        assert node["store"] == "memory" and node["version"]
        agents = (await ask(http, "GET", "/agents"))["agents"]
        assert [each["name"] for each in agents] == ["helper"]


async def test_who_may_do_what() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server:
        async with client(server) as http:
            await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1"})
            refused = await ask(http, "POST", "/sessions", 403,
                                json={"agent": "helper", "source": "/etc"})  # fmt: skip
            assert refused["error"]["code"] == "E-ROLE"
        async with client(server, role="viewer") as http:
            assert (await ask(http, "GET", "/sessions/s1"))["row"]["id"] == "s1"
            for path in ("/sessions/s1/pause", "/sessions", "/store/sessions/s1/inbox"):
                refused = await ask(http, "POST", path, 403, json={})
                assert refused["error"]["code"] == "E-ROLE"
        async with client(server, "other") as http:
            assert (await ask(http, "GET", "/sessions"))["sessions"] == []
            for path in ("", "/events", "/transcript", "/tree", "/export", "/replay"):
                missing = await ask(http, "GET", f"/sessions/s1{path}", 404)
                assert missing["error"]["code"] == "E-SESSION-UNKNOWN"
        async with httpx2.AsyncClient(base_url=f"{server.url}/api") as http:
            assert (await ask(http, "GET", "/sessions", 401))["error"]["code"] == "E-AUTH"


async def test_no_letter_brings_a_definition_or_a_foreign_name() -> None:
    async with up({"talk": TALK}, agents=[HELPER]) as server, client(server) as http:
        await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1"})
        path = "/store/sessions/s1/inbox"
        spec = {"name": "helper", "model": "scripted:/etc/passwd"}
        bad: list[dict[str, Any]] = [
            {"type": "update", "update": {"agent": spec}},
            {"type": "add_items", "items": []},
            {"type": "drop_item", "entered": 1},
            {"type": "late", "call_id": "t1.1", "attempt": 1, "status": "ok"},
        ]
        for letter in bad:
            refused = await ask(http, "POST", path, 400, json={"key": "k", "post": letter})
            assert refused["error"]["code"] == "E-LETTER"
        say = {"type": "say", "kind": "pause", "by": "the operator"}
        await ask(http, "POST", path, 202, json={"key": "k", "post": say})
        frames = await till(http, "s1", "input.accepted")
        assert frames[-1][2]["payload"]["by"].startswith("the operator via key_")
        model = {"agent": "helper", "model": "nobody's:model"}
        refused = await ask(http, "POST", "/sessions", 400, json=model)
        assert refused["error"]["code"] == "E-MODEL-NAME"


async def test_a_large_payload_is_had_by_the_event_that_names_it_only() -> None:
    long = script(Reply(text="x" * 80_000), Reply(text="y"))
    async with up({"talk": long}, agents=[HELPER]) as server:
        async with client(server) as http:
            await ask(http, "POST", "/sessions", 201, json={"agent": "helper", "id": "s1",
                                                            "message": "Hi"})  # fmt: skip
            await till(http, "s1", "turn.ended")
            records = (await ask(http, "GET", "/store/sessions/s1/records"))["records"]
            large = next(r for r in records if "$blob" in r["data"]["payload"])
            name = large["data"]["payload"]["$blob"]
            path = f"/store/sessions/s1/records/{{}}/blobs/{name}"
            got = await http.get(path.format(large["seq"]))
            assert got.status_code == 200 and b"x" * 80_000 in got.content
            await ask(http, "GET", path.format(1), 404)
        async with client(server, "other") as http:
            await ask(http, "GET", path.format(large["seq"]), 404)


async def test_the_manual_loads_nothing_and_needs_no_key() -> None:
    async with up({"talk": TALK}) as server, httpx2.AsyncClient(base_url=server.url) as http:
        page = await http.get("/api/docs")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "http://" not in page.text and "https://" not in page.text
        assert " on" + "click" not in page.text and "innerHTML" not in page.text
        api = (await http.get("/api/openapi.json")).json()
        assert api["openapi"].startswith("3.1") and "/api/sessions/{id}/fork" in api["paths"]
