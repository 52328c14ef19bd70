"""Automations: sessions that begin, and are written to, by the clock."""

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.doors.openai.automations.duty import Deliveries
from perdure.doors.openai.automations.records import automations
from perdure.models.scripted import Call
from tests.doors.serving import Reply, Up, script, up

TALK = script(Reply(text="It is {{last_user}}."), Reply(text="Again {{last_user}}."))
ASKS = script(Reply(text="", call=(Call("ask", {}),)), Reply(text="Done."))
ASK: Any = {"type": "function", "name": "ask", "description": "", "parameters": {"type": "object"}}
NEW: Any = {
    "type": "new_session", "agent": {"model": "talk"}, "environment": {"type": "none"},
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "time"}]}],
    "metadata": {"from": "clock"},
}  # fmt: skip


async def made(client: Any, **more: Any) -> Any:
    """Make an automation that does not fire by itself while a test runs."""
    given: dict[str, Any] = {
        "name": "n", "type": "periodic", "expression": "0 3 1 1 *", "timezone": "Europe/Berlin",
        "target": NEW, **more,
    }  # fmt: skip
    return await client.beta.agents.automations.create(**given)


async def invocations(client: Any, name: str) -> list[Any]:
    return [i async for i in client.beta.agents.automations.invocations.list(name, order="asc")]


async def began(client: Any, name: str) -> Any:
    """Return the first invocation by the clock: a running server delivers it."""
    async with asyncio.timeout(20):
        while True:
            found = await invocations(client, name)
            if found and found[0].status != "queued":
                return found[0]
            await asyncio.sleep(0)  # each look is a request of its own


async def test_they_are_made_read_changed_paused_and_deleted() -> None:
    async with up({"talk": TALK}) as server:
        client: Any = await server.openai()
        api = client.beta.agents.automations
        first = await made(client, metadata={"a": "b"})
        assert (first.type, first.status, first.expression) == ("periodic", "active", "0 3 1 1 *")
        assert first.target.type == "new_session"
        assert first.target.agent.model == "talk"
        changed = await api.update(first.id, expression="0 4 1 1 *", name="m")
        assert (changed.name, changed.type) == ("m", "periodic")
        assert changed.type == "periodic"
        assert (changed.expression, changed.timezone) == ("0 4 1 1 *", "Europe/Berlin")
        assert (await api.pause(first.id)).status == "paused"
        assert (await api.resume(first.id)).status == "active"
        once = await made(client, type="once", run_at=2**32, expression=None, timezone=None)
        assert (once.type, once.run_at, once.status) == ("once", 2**32, "active")
        assert [a.id async for a in api.list()] == [once.id, first.id]
        assert [a.id async for a in api.list(session_id="sess_x")] == []
        await api.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await api.retrieve(first.id)


@pytest.mark.parametrize(
    "wrong",
    [
        {"expression": "x"},
        {"timezone": "Nowhere/Land"},
        {"expression": "0 0 31 2 *"},
        {"type": "once", "run_at": "soon"},
        {"name": ""},
        {"target": {**NEW, "environment": {"type": "self_hosted"}}},
        {"target": {**NEW, "input": []}},
        {"target": {"type": "existing_session", "session_id": "sess_x", "instructions": ""}},
    ],
)
async def test_what_is_wrong_is_said_at_once(wrong: dict[str, Any]) -> None:
    async with up({"talk": TALK}) as server:
        client: Any = await server.openai()
        with pytest.raises(openai.BadRequestError):
            await made(client, **wrong)


async def test_one_that_runs_once_makes_its_session_by_itself(tmp_path: Path) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client: Any = await server.openai(
            "team"
        )  # a project of which the server knows nothing else
        api = client.beta.agents.automations
        run_at = int(time.time())
        once = await made(client, type="once", run_at=run_at, expression=None, timezone=None)
        run = await began(client, once.id)
        assert (run.status, run.scheduled_at, run.source.type) == (
            "completed",
            run_at,
            "automation",
        )
        assert run.source.automation.id == once.id
        assert (await api.retrieve(once.id)).status == "completed"
        session = await client.beta.agents.sessions.retrieve(run.session_id)
        assert session.metadata == {"from": "clock"}
        assert await rested(client, run.session_id) == "It is time."
        with pytest.raises(openai.BadRequestError):
            await api.update(once.id, run_at=run_at + 1000)


async def test_a_manual_invocation_writes_to_a_session(tmp_path: Path) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        api = client.beta.agents.automations
        session = await client.beta.agents.sessions.create(
            agent={"model": "talk"}, environment={"type": "none"}, input="Hi"
        )
        await rested(client, session.id)
        target = {"type": "existing_session", "session_id": session.id, "instructions": "look"}
        automation = await made(client, target=target)
        assert [a.id async for a in api.list(session_id=session.id)] == [automation.id]
        run = await api.invocations.create(automation.id)
        assert (run.status, run.session_id, run.source.type) == ("completed", session.id, "manual")
        assert run.scheduled_at is None
        assert await rested(client, session.id, turns=2) == "Again look."
        same = await api.invocations.retrieve(run.id, automation_id=automation.id)
        assert same == run


async def test_words_that_were_not_read_yet_are_not_said_again(tmp_path: Path) -> None:
    async with up({"asks": ASKS}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        stream = await client.beta.agents.sessions.create(
            agent={"model": "asks", "tools": [ASK]}, environment={"type": "none"}, input="Hi",
            stream=True,
        )  # fmt: skip
        async for event in stream:
            if event.type == "agent.session.requires_action":
                break
        name = event.session.id
        target = {"type": "existing_session", "session_id": name, "instructions": "look"}
        automation = await made(client, target=target)
        api = client.beta.agents.automations.invocations
        runs = [await api.create(automation.id) for _ in range(2)]
        assert [run.status for run in runs] == ["completed", "skipped"]
        assert [run.skip_reason for run in runs] == [None, "pending_delivery"]


async def test_a_session_that_is_gone_pauses_its_automation(tmp_path: Path) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        api = client.beta.agents.automations
        session = await client.beta.agents.sessions.create(
            agent={"model": "talk"}, environment={"type": "none"}, input="Hi"
        )
        await rested(client, session.id)
        target = {"type": "existing_session", "session_id": session.id, "instructions": "look"}
        automation = await made(client, target=target)
        await client.beta.agents.sessions.delete(session.id)
        await closed(server, session.id)
        run = await api.invocations.create(automation.id)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.code == "target_session_failed"
        now = await api.retrieve(automation.id)
        assert (now.status, now.pause_reason) == ("paused", "target_session_failed")


async def test_a_fire_time_is_delivered_once_whoever_does_it_again(tmp_path: Path) -> None:
    """Two processes, and one that died before it wrote down that it was done."""
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        automation = await made(client)
        run = await client.beta.agents.automations.invocations.create(automation.id)
        engine = await server.server.projects.engine("default")
        docs = automations(engine.kit.store)
        record, version = await docs.versioned(automation.id)
        from msgspec.structs import replace

        from perdure.core.schedules import Fire

        begun = record.schedule.runs[-1]
        due = replace(record.schedule, due=(Fire(begun.at_us, by_hand=True),))
        await docs.put(automation.id, replace(record, schedule=due), expect=version)
        two = [Deliveries(engine, server.server.services, "default") for _ in range(2)]
        await asyncio.gather(*(each.tick() for each in two))
        assert [i.id for i in await invocations(client, automation.id)] == [run.id]
        sessions = [s.id async for s in client.beta.agents.sessions.list()]
        assert sessions == [run.session_id]
        await rested(client, sessions[0])
        assert len([t async for t in client.beta.agents.sessions.turns.list(sessions[0])]) == 1
        assert (await docs.get(automation.id)).schedule.due == ()


async def rested(client: Any, name: str, turns: int = 1) -> str:
    """Wait until so many turns are completed; return what was said last."""
    async with asyncio.timeout(20):
        while True:
            found = [t async for t in client.beta.agents.sessions.turns.list(name)]
            if len([t for t in found if t.status == "completed"]) >= turns:
                break
            await asyncio.sleep(0)
    items = [item async for item in client.beta.agents.sessions.items.list(name, order="asc")]
    return str(items[-1].content[0].text)


async def closed(server: Up, name: str) -> None:
    """Wait until a session is closed."""
    engine = await server.server.projects.engine("default")
    async with asyncio.timeout(20):
        while True:
            row = await engine.kit.store.session(name)
            if row is None or row.status == "closed":
                return
            await asyncio.sleep(0)
