"""Deleting a session: with its subagents, not under somebody's hands, its followers told."""

import asyncio

import pytest

from perdure.core.errors import Conflict, NotFound, SessionBusy
from perdure.engine.agent import Agent
from perdure.engine.deleting import delete_session
from perdure.engine.session import Session
from perdure.engine.subagents import subagent
from perdure.stores.memory import MemoryDisk, MemoryStore
from tests.engine.test_client_tools import DONE, QUESTION, at_work, office
from tests.engine.told import call, script


async def test_a_session_at_rest_is_gone_at_once() -> None:
    disk, model = MemoryDisk(), script(DONE, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        await session.send("go")
        assert await delete_session(engine, "s") == ["s"]
        with pytest.raises(NotFound):
            await session.state()
        with pytest.raises(NotFound):
            await delete_session(engine, "s")
        again = await engine.session("s", office())
        await again.send("go")
        assert (await again.state()).turn is None
    assert [row.id for row in await MemoryStore(disk).sessions()] == ["s"]


async def test_one_that_waits_for_an_answer_is_deleted_and_its_followers_hear_of_it() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        await session.send("go")
        follower = session.follow((await session.state()).seq)
        waiting = asyncio.ensure_future(anext(follower))
        await asyncio.wait([waiting], timeout=0.05)
        await delete_session(engine, "s")
        with pytest.raises(NotFound):
            await waiting
    assert await MemoryStore(disk).sessions() == []


async def test_what_another_process_owns_is_not_deleted() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE)
    async with at_work(disk, model) as engine:
        await (await engine.session("s", office())).send("go")
        other = MemoryStore(disk, "other")
        await engine.let_go("s")
        await other.claim("s")
        with pytest.raises(SessionBusy):
            await delete_session(engine, "s")
        assert (await Session(engine, "s").state()).actions


async def test_a_session_goes_with_its_subagents() -> None:
    helper = Agent("helper", "scripted:office")
    boss = Agent("boss", "scripted:office", tools=[subagent(helper)])
    task = {"call": [call("helper", task="do it")]}
    disk, model = MemoryDisk(), script(task, {"text": "did it"}, DONE)
    async with at_work(disk, model) as engine:
        await (await engine.session("s", boss)).send("go")
        names = {row.id for row in await engine.sessions()}
        assert len(names) == 2
        child = (names - {"s"}).pop()
        with pytest.raises(Conflict) as refused:
            await delete_session(engine, child)
        assert refused.value.code == "E-SESSION-CHILD"
        assert set(await delete_session(engine, "s")) == names
    assert await MemoryStore(disk).sessions() == []
