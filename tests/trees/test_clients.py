"""Subagents that ask through a client tool, and what closing a session means for them."""

import pytest

from perdure.core import events as e
from perdure.core.errors import Conflict
from perdure.core.events import Event
from perdure.engine.agent import Agent
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.engine.subagents import subagent
from perdure.ports.model import Model
from perdure.stores.memory import MemoryDisk
from perdure.tools.client import ask_user
from tests.trees.family import house, part, says, tasks, uses

ASKS = uses("ask_user", question="Which colour?")


def lead() -> Agent:
    helper = Agent("helper", "scripted:helper", tools=[ask_user])
    return Agent("lead", "scripted:lead", tools=[subagent(helper)])


def parts() -> dict[str, Model]:
    return {
        "lead": part(tasks("paint"), says("Done: {{last_result}}")),
        "helper": part(ASKS, says("It is {{last_result}}")),
    }


async def waiting(engine: Engine) -> tuple[Session, Session, str]:
    """Bring a tree to the point where its subagent asks; return it, the child and the call."""
    session = await engine.session("s", lead())
    await session.send("go")
    (row,) = [r for r in await engine.sessions() if r.parent == "s"]
    child = await engine.session(row.id)
    (action,) = (await child.state()).actions.values()
    return session, child, action.call_id


async def recorded(session: Session) -> list[Event]:
    return [event async for event in session.events()]


async def test_the_parent_waits_with_its_subagent_until_a_client_answers() -> None:
    disk = MemoryDisk()
    async with house(parts(), disk) as engine:
        session, child, name = await waiting(engine)
        rows = {row.id: row for row in await engine.sessions()}
        assert rows["s"].status == rows[child.id].status == "waiting"
        notes = [x.payload for x in await recorded(session) if x.type == "note.recorded"]
        assert any(isinstance(n, e.NoteRecorded) and child.id in n.text for n in notes)
    async with house(parts(), disk, node="n2", seed=2) as engine:
        session = await engine.session("s", lead())
        await Session(engine, child.id).answer(name, "red", by="anna")
        async for _ in session.watch():
            pass
        assert (await session.state()).last_status == "completed"
        (done,) = [x.payload for x in await recorded(session) if x.type == "tool.finished"]
        assert isinstance(done, e.ToolFinished) and done.text == "It is red"
        for each in (session, child):
            assert (await replay(await recorded(Session(engine, each.id)))).identical


async def test_closing_the_parent_closes_its_subagents() -> None:
    async with house(parts()) as engine:
        session, child, name = await waiting(engine)
        closed = await session.close(by="anna")
        assert isinstance(closed.payload, e.SessionClosed) and closed.payload.by == "anna"
        assert await session.close(by="ben") == closed
        async for item in child.follow():
            if isinstance(item, Event) and isinstance(item.payload, e.SessionClosed):
                break
        for refused in (
            session.send("more"),
            child.send("more"),
            child.answer(name, "red"),
            session.rewind(2),
            session.deny("a1", by="anna"),
        ):
            with pytest.raises(Conflict, match="E-SESSION-CLOSED"):
                await refused
        fork = await session.fork()
        assert (await fork.state()).paused and not (await fork.state()).closed
        for each in (session, child):
            assert (await replay(await recorded(each))).identical


async def test_a_subagent_that_is_closed_alone_answers_its_parent() -> None:
    async with house(parts()) as engine:
        session, child, _ = await waiting(engine)
        await child.close(by="anna")
        async for _ in session.watch():
            pass
        (done,) = [x.payload for x in await recorded(session) if x.type == "tool.finished"]
        assert isinstance(done, e.ToolFinished) and done.error is not None
        assert done.error.code == "E-SUBAGENT-CANCELLED"
        assert not (await session.state()).closed
