"""Closing a session: by anybody, through crashes, against what comes at the same moment."""

import asyncio
from pathlib import Path

import pytest

from perdure import sync
from perdure.core import events as e
from perdure.core.errors import Conflict
from perdure.core.events import Event
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.replay import replay
from perdure.models.scripted import Call, Reply
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.sim_user import Gone
from perdure.testing.stage import Stage, play
from perdure.tools.client import ask_user
from tests.engine.test_client_crashes import DiesAt
from tests.engine.test_client_tools import DONE, QUESTION, at_work, office
from tests.engine.told import PRICES, journal, script


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["input.accepted", "turn.ended", "session.closed"])
def test_a_kill_on_the_way_does_not_keep_it_open(kind: str, after: bool, store: str) -> None:
    async def scene(stage: Stage) -> None:
        stage.agent = Agent("agent", "scripted:play", tools=[ask_user])
        stage.plays(Reply(call=(Call("ask_user", {"question": "Which?"}),)), Reply(text="x"))
        first = await stage.start()
        await stage.say(first, "go")
        await stage.until(lambda state: state.actions)
        await stage.end(first)
        second = await stage.start(DiesAt(stage, kind, after=after))
        with pytest.raises(Gone):
            await stage.with_session(second, lambda session: session.close(by="anna"))
        third = await stage.start()
        closed = await stage.with_session(third, lambda session: session.close(by="anna"))
        assert isinstance(closed.payload, e.SessionClosed)
        await stage.until(lambda state: state.closed)
        assert len(stage.payloads(e.SessionClosed)) == 1
        assert (await replay(stage.world.events("s"))).identical

    play(scene, store)


async def test_a_clerk_closes_what_has_no_turn_open() -> None:
    disk, model = MemoryDisk(), script(DONE)
    async with at_work(disk, model) as engine:
        await (await engine.session("s", office())).send("go")
    async with at_work(disk, model, "clerk", clerk=True) as desk:
        await (await desk.session("s")).close(by="anna")
    events = await journal(MemoryStore(disk))
    assert events[-1].type == "session.closed"
    assert (await replay(events, prices=PRICES)).identical


async def test_what_comes_at_the_same_moment_is_taken_or_refused() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        name = next(iter((await session.send("go")).actions.values())).call_id

        async def say() -> None:
            await session.send("more")

        told = await asyncio.gather(
            session.close(by="anna"),
            session.close(by="ben"),
            say(),
            session.rewind(2),
            session.answer(name, "red"),
            return_exceptions=True,
        )
        assert told[0] == told[1] and isinstance(told[0], Event)
        refused = {each.code for each in told[2:] if isinstance(each, Conflict)}
        assert refused <= {"E-SESSION-CLOSED", "E-ANSWER-LATE"}
        assert all(isinstance(each, Event | Conflict | None) for each in told[2:]), told
        assert status(await session.state()) == "closed"
        events = [event async for event in session.events()]
    assert (await replay(events, prices=PRICES)).identical


async def test_a_paused_session_is_closed_with_its_turn() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        state = await session.send("go")
        await session.pause()
        name = next(iter(state.actions.values())).call_id
        await session.answer(name, "red", by="anna")
        assert (await session.state()).paused
        await session.close(by="anna")
        with pytest.raises(Conflict, match="E-SESSION-CLOSED"):
            await session.answer(name, "red")
        events = [event async for event in session.events()]
    assert (await replay(events, prices=PRICES)).identical


def test_without_asyncio(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text(
        '[[reply]]\n[[reply.call]]\ntool = "ask_user"\narguments = { question = "Which?" }\n'
        '[[reply]]\ntext = "So: {{last_result}}"\n'
    )
    agent = Agent("office", f"scripted:{path}", tools=[ask_user])
    with sync.Runtime(f"sqlite:///{tmp_path / 's.db'}") as runtime:
        session = runtime.session("s", agent)
        list(session.send("go"))
        name = next(iter(session.state().actions.values())).call_id
        event = session.answer(name, "red", by="anna")
        assert session.answer(name, "red") == event
        list(session.watch())
        assert session.state().last_status == "completed"
        closed = session.close(by="anna")
        assert session.close() == closed and session.state().closed
        with pytest.raises(Conflict, match="E-SESSION-CLOSED"):
            list(session.send("more"))
