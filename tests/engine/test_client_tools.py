"""Calls that clients answer: put, answered from anywhere, once, also after crashes and in forks."""

import asyncio
from dataclasses import dataclass

import pytest

from perdure.core import events as e
from perdure.core.agent import Rule, Verdict
from perdure.core.content import ResultItem
from perdure.core.errors import Conflict, InvalidRequest, NotFound
from perdure.core.events import Event
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Scripted
from perdure.ports.store import Store
from perdure.ports.tool import Tool
from perdure.replaying import replay_session_with
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.tools.client import ask_user, client_tool, form
from perdure.tools.python import tool
from tests.engine.told import PRICES, Named, call, journal, script


@dataclass
class Address:
    street: str
    number: int


@client_tool
def sign(paper: str, copies: int = 1) -> bool:  # type: ignore[empty-body]
    """Have a paper signed."""


ship_to = form("ship_to", "Ask where to send the parcel.", Address)


@tool(effect="read")
def look(thing: str) -> str:
    """Look at something."""
    return f"{thing} is there"


TOOLS: list[Tool] = [ask_user, sign, ship_to, look]
QUESTION = {"call": [call("ask_user", question="Which colour?", options=["red", "blue"])]}
DONE = {"text": "So: {{last_result}}"}


def office(*rules: Rule) -> Agent:
    return Agent("office", "scripted:office", tools=TOOLS, permissions=rules)


def at_work(disk: MemoryDisk, model: Scripted, node: str = "n1", *, clerk: bool = False) -> Engine:
    return engine_of(MemoryStore(disk, node), model, clerk=clerk)


def engine_of(store: Store, model: Scripted, *, clerk: bool = False) -> Engine:
    bounds = Bounds(idle_s=0.0, poll_s=0.01)
    kit = Kit(store, FakeClock(), SeededIds(1), Named({"office": model}), prices=PRICES,
              bounds=bounds, clerk=clerk)  # fmt: skip
    return Engine(kit)


async def went_on(session: Session) -> str:
    """Let the session go on; return what the model said last."""
    async for _ in session.watch():
        pass
    state = await session.state()
    assert state.last_status == "completed", state
    said = [x for x in await session.context() if not isinstance(x, ResultItem)]
    return str(said[-1])


def finished(events: list[Event]) -> dict[str, str]:
    done = [x.payload for x in events if isinstance(x.payload, e.ToolFinished)]
    return {each.call_id: f"{each.status} {each.text}" for each in done}


def names(events: list[Event]) -> list[str]:
    return [event.type for event in events]


async def test_a_call_waits_and_any_process_answers_it() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        state = await session.send("go")
        assert status(state) == "waiting"
        (action,) = state.actions.values()
        assert (action.kind, action.expires_at_us) == ("answer", None)
        assert state.spent.tool_calls == 1
    async with at_work(disk, model, "clerk", clerk=True) as desk:
        event = await (await desk.session("s")).answer(action.call_id, "green", by="anna")
        assert isinstance(event.payload, e.ActionResolved)
        assert (event.payload.result, event.payload.by) == ("green", "anna")
    async with at_work(disk, model, "n2") as engine:
        session = await engine.session("s", office())
        assert "So: green" in await went_on(session)
    events = await journal(MemoryStore(disk))
    assert "tool.started" not in names(events)
    assert (await replay(events, prices=PRICES)).identical


async def test_twice_is_harmless_and_another_answer_is_told_who_was_first() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        name = next(iter((await session.send("go")).actions.values())).call_id
        first = await session.answer(name, "red", by="anna")
        assert await session.answer(name, "red", by="ben") == first
        with pytest.raises(Conflict, match=r"E-ANSWER-TWICE.*anna") as caught:
            await session.answer(name, "blue", by="ben")
        assert "2023-11-14" in caught.value.message
        await went_on(session)
        assert await session.answer(name, "red", by="anna") == first
        with pytest.raises(Conflict, match="E-ANSWER-TWICE"):
            await session.answer(name, "no paper", failed=True)
    assert names(await journal(MemoryStore(disk))).count("action.resolved") == 1


async def test_several_wait_together_while_other_tools_run() -> None:
    several = {"call": [call("look", thing="x"), call("sign", paper="lease"), *QUESTION["call"]]}
    disk, model = MemoryDisk(), script(several, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        state = await session.send("go")
        assert len(state.actions) == 2
        one, two = (a.call_id for a in state.actions.values())
        await session.answer(two, "blue")
        state = await session.state()
        assert status(state) == "waiting" or state.turn
        await session.answer(one, result=True)
        await went_on(session)
        events = [event async for event in session.events()]
    kinds = names(events)
    assert kinds.index("action.requested") < kinds.index("tool.started")
    assert sorted(finished(events).values()) == ["ok blue", "ok true", "ok x is there"]
    assert (await replay(events, prices=PRICES)).identical


async def test_what_does_not_fit_the_form_is_not_posted() -> None:
    disk, model = MemoryDisk(), script({"call": [call("ship_to", message="the vase")]}, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        name = next(iter((await session.send("go")).actions.values())).call_id
        with pytest.raises(InvalidRequest, match=r"E-ANSWER-FORM.*`number` must be a whole number"):
            await session.answer(name, {"street": "Elm", "number": "four"})
        with pytest.raises(InvalidRequest, match="lacks `street`"):
            await session.answer(name, {"number": 4})
        with pytest.raises(InvalidRequest, match="no JSON form"):
            await session.answer(name, object())
        assert (await session.state()).actions
        await session.answer(name, Address("Elm", 4))
        assert '"number":4' in await went_on(session)


async def test_arguments_of_the_model_are_checked_before_anybody_is_asked() -> None:
    wrong = {"call": [call("sign", paper=7, colour="red")]}
    disk, model = MemoryDisk(), script(wrong, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        assert not (await session.send("go")).actions
        events = [event async for event in session.events()]
    (text,) = finished(events).values()
    assert "E-TOOL-ARGUMENTS" in text and "`paper` must be a text" in text and "colour" in text
    assert (await replay(events, prices=PRICES)).identical


async def test_a_client_may_say_that_there_is_no_answer() -> None:
    disk, model = MemoryDisk(), script({"call": [call("sign", paper="lease")]}, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        name = next(iter((await session.send("go")).actions.values())).call_id
        await session.answer(name, "the pen is dry", failed=True, by="anna")
        assert "the pen is dry" in await went_on(session)
        events = [event async for event in session.events()]
    assert finished(events)[name].startswith("error")
    assert (await replay(events, prices=PRICES)).identical


@pytest.mark.parametrize("verdict", [Verdict.ASK, Verdict.DENY])
async def test_permissions_come_first(verdict: Verdict) -> None:
    disk, model = MemoryDisk(), script({"call": [call("sign", paper="lease")]}, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office(Rule("sign", verdict)))
        state = await session.send("go")
        if verdict is Verdict.DENY:
            assert not state.actions
            return
        (action,) = state.actions.values()
        assert action.kind == "approve"
        with pytest.raises(Conflict, match="E-ANSWER-EARLY"):
            await session.answer(action.call_id, result=True)
        await session.allow(action.id, by="anna")
        async for _ in session.watch():
            pass
        (asked,) = (await session.state()).actions.values()
        assert asked.kind == "answer"
        with pytest.raises(InvalidRequest, match="E-ACTION-ANSWER"):
            await session.resolve(asked.id, "done", by="anna", result="yes")
        await session.answer(asked.call_id, result=True)
        await went_on(session)
        events = [event async for event in session.events()]
    assert (await replay(events, prices=PRICES)).identical


async def test_an_answer_that_comes_too_late_is_filed_and_refused() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        name = next(iter((await session.send("go")).actions.values())).call_id
        await session.interrupt()
        async for _ in session.watch():
            pass
        for _ in range(2):
            with pytest.raises(Conflict, match="E-ANSWER-LATE"):
                await session.answer(name, "red", by="anna")
        with pytest.raises(NotFound, match="E-CALL-UNKNOWN"):
            await session.answer("c99", "red")
        events = [event async for event in session.events()]
    assert (
        finished(events)[name] == "cancelled Interrupted by the user before this call was answered."
    )
    notes = [x.payload.text for x in events if isinstance(x.payload, e.NoteRecorded)]
    assert len(notes) == 1 and "anna" in notes[0]
    assert (await replay(events, prices=PRICES)).identical


async def test_a_call_that_is_no_clients_has_no_answer() -> None:
    disk, model = MemoryDisk(), script({"call": [call("look", thing="x")]}, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        await session.send("go")
        (name,) = finished([event async for event in session.events()])
        with pytest.raises(NotFound, match="E-CALL-UNKNOWN"):
            await session.answer(name, "x")


async def test_a_fork_asks_for_itself() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        state = await session.send("go")
        name = next(iter(state.actions.values())).call_id
        await session.answer(name, "red")
        await went_on(session)
        (plan,) = (await session.preflight(state.seq)).calls
        assert (plan.verdict, plan.call_id) == ("ask", name) and "client" in plan.why
        (early,) = (await session.preflight(state.seq - 1)).calls
        assert early.verdict == "ask"
        fork = await session.fork(state.seq)
        assert (await fork.state()).awaits_answer(name)
        await fork.answer(name, "blue")
        async for _ in fork.resume():
            pass
        events = [event async for event in fork.events()]
        assert finished(events)[name] == "ok blue"
        there = [event async for event in session.events()]
        assert finished(there)[name] == "ok red"
    assert (await replay(events, prices=PRICES)).identical


async def test_after_a_rewind_the_question_is_open_again() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        state = await session.send("go")
        name = next(iter(state.actions.values())).call_id
        await session.answer(name, "red", by="anna")
        await went_on(session)
        await session.rewind(state.seq)
        await session.answer(name, "blue", by="ben")
        async for _ in session.resume():
            pass
        with pytest.raises(Conflict, match=r"E-ANSWER-TWICE.*ben"):
            await session.answer(name, "red")
        events = [event async for event in session.events()]
    assert [x.text for x in (x.payload for x in events) if isinstance(x, e.ToolFinished)] == [
        "red",
        "blue",
    ]
    assert (await replay(events, prices=PRICES)).identical


async def test_with_another_model_the_recorded_answer_is_given_again() -> None:
    disk, model = MemoryDisk(), script(QUESTION, DONE)
    async with at_work(disk, model) as engine:
        session = await engine.session("s", office())
        name = next(iter((await session.send("go")).actions.values())).call_id
        await session.answer(name, "red")
        await went_on(session)
    other = Named({"office": script(QUESTION, DONE)})
    rerun = await replay_session_with(MemoryStore(disk), "s", other)
    assert rerun.differs_at is None and rerun.stopped is None


@pytest.mark.parametrize("given", [{"type": "objekt"}, 7])
def test_a_form_that_is_none_is_refused_where_its_author_looks(given: object) -> None:
    with pytest.raises(InvalidRequest, match="E-TOOL-DEFINITION"):
        form("ship_to", "x", given)


def test_a_client_tool_of_a_schema() -> None:
    made = client_tool(
        name="scan",
        description="Scan a code.",
        parameters={"type": "object", "properties": {"shelf": {"type": "integer"}}},
        answer={"type": "string", "pattern": "^[0-9]+$"},
        ask="shelf > 3",
        effect="read",
    )
    assert (
        made.spec.client and made.spec.ask == "shelf > 3" and "pattern" in made.spec.answer_schema
    )
    with pytest.raises(InvalidRequest, match="no parameter"):
        client_tool(name="scan", parameters={"type": "object"}, ask="box > 3")


@pytest.mark.parametrize("effect", ["read", "once"])
async def test_an_answer_is_taken_while_another_tool_runs(effect: str) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    @tool(effect=effect)
    async def dig(hole: str) -> str:
        """Dig, for as long as it takes."""
        begun.set()
        await may_end.wait()
        return "dug"

    both = {"call": [call("dig", hole="deep"), *QUESTION["call"]]}
    disk, model = MemoryDisk(), script(both, DONE)
    agent = Agent("office", "scripted:office", tools=[ask_user, dig])
    async with at_work(disk, model) as engine:
        session = await engine.session("s", agent)
        working = asyncio.create_task(_until_still(session))
        await begun.wait()
        async for item in session.follow():
            if isinstance(item, Event) and isinstance(item.payload, e.ActionRequested):
                await session.answer(item.payload.call_id, "red", by="anna")
                break
        may_end.set()
        await working
        assert (await session.state()).last_status == "completed"
        events = [event async for event in session.events()]
    kinds = names(events)
    assert kinds.index("action.resolved") < kinds.index("tool.finished")
    assert sorted(finished(events).values()) == ["ok dug", "ok red"]
    assert (await replay(events, prices=PRICES)).identical


async def _until_still(session: Session) -> None:
    await session.send("go")
