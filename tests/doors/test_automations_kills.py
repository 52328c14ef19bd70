"""An automation delivers once what was due, whenever its server is killed while it fires."""

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core import events as e
from perdure.doors.openai.automations.records import automations
from perdure.engine.journal import events_of
from perdure.models.scripted import Reply, Script
from perdure.stores.sqlite import SqliteStore
from tests.doors.process import GONE, Home, home

TALK = Script((Reply(text="It is {{last_user}}."), Reply(text="Again {{last_user}}.")))
WRITES = ("append", "put_doc", "post", "claim", "delete_session")
NOWHERE: Any = {"type": "none"}
NEW: Any = {
    "type": "new_session", "agent": {"model": "talk"}, "environment": NOWHERE,
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "time"}]}],
}  # fmt: skip
KINDS = ["new_session", "existing_session"]


async def planned(path: Path, kind: str) -> str:
    """Make a store with an automation that is due as soon as a server runs; return its id."""
    path.parent.mkdir()
    async with home(path, {"talk": TALK}) as here:
        await here.start()
        client: Any = await here.openai()
        target = NEW
        if kind == "existing_session":
            stream = await client.beta.agents.sessions.create(
                agent={"model": "talk"}, environment=NOWHERE, input="Hi", stream=True
            )
            session = [event async for event in stream][-1].session
            target = {"type": kind, "session_id": session.id, "instructions": "look"}
        made = await client.beta.agents.automations.create(
            name="n", type="periodic", expression="0 3 1 1 *", timezone="UTC", target=target
        )
    store = await SqliteStore.open(path)
    docs = automations(store)
    record = await docs.get(made.id)
    due = replace(record.schedule, next_us=(int(time.time()) - 1) * 1_000_000)
    await docs.put(made.id, replace(record, schedule=due))
    await store.close()
    return str(made.id)


async def delivered(here: Home, name: str, turns: int) -> bool:
    """Wait until the automation has delivered and its session rests; False: the server died."""
    client: Any = await here.openai()
    api = client.beta.agents
    store = await SqliteStore.open(here.path)
    try:
        async with asyncio.timeout(30):
            while True:
                await store.changed(0.05)
                runs = [run async for run in api.automations.invocations.list(name)]
                if runs and runs[0].status != "queued":
                    found = [t async for t in api.sessions.turns.list(runs[0].session_id)]
                    if len([t for t in found if t.status == "completed"]) >= turns:
                        return True
    except GONE:
        await here.dead()
        return False
    finally:
        await store.close()


async def check(here: Home, name: str, turns: int) -> None:
    """One invocation that went well, one session, and in it the words once."""
    client: Any = await here.openai()
    runs = [run async for run in client.beta.agents.automations.invocations.list(name)]
    assert [run.status for run in runs] == ["completed"]
    assert [s.id async for s in client.beta.agents.sessions.list()] == [runs[0].session_id]
    await here.kill()
    store = await SqliteStore.open(here.path)
    try:
        assert [row.id for row in await store.sessions("")] == [runs[0].session_id]
        events = [event.payload async for event, _ in events_of(store, runs[0].session_id)]
        schedule = (await automations(store).get(name)).schedule
    finally:
        await store.close()
    words = [event for event in events if isinstance(event, e.InputAccepted)]
    assert len([word for word in words if word.kind != "pause"]) == turns
    assert len([event for event in events if isinstance(event, e.TurnEnded)]) == turns
    assert schedule.due == () and len(schedule.runs) == 1


@pytest.mark.parametrize("first", [1, 2])  # odd writes, and even ones
@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_due_is_delivered_once_over_a_death_anywhere(
    tmp_path: Path, kind: str, first: int
) -> None:
    turns = 1 if kind == "new_session" else 2
    name = await planned(tmp_path / "seed" / "s.db", kind)
    for number in range(first, 30, 2):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "seed", folder)
        async with home(folder / "s.db", {"talk": TALK}) as here:
            await here.start(number, at=WRITES)
            if await delivered(here, name, turns):
                await check(here, name, turns)
                break  # it was never killed: there are no more writes
            await here.start()
            assert await delivered(here, name, turns), f"killed at write {number}"
            await check(here, name, turns)
    assert number > 5
