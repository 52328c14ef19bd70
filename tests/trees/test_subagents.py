"""Subagents as their users meet them: results, waiting, stopping, limits, rights, names."""

import asyncio
from typing import Any

import pytest

from perdure.core import events as e
from perdure.core.agent import EnvironmentSpec, Limits, Rule, Verdict
from perdure.core.errors import Forbidden, InvalidRequest
from perdure.core.events import Event
from perdure.core.grants import Grant
from perdure.core.inbox import Decide
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.runtime import Engine
from perdure.engine.subagents import subagent
from perdure.ports.tool import ToolContext
from perdure.tools.python import tool
from tests.trees.family import (
    HELPER,
    LEAD,
    SIGNER,
    born,
    house,
    lead_of,
    look,
    part,
    results,
    says,
    sign,
    tasks,
    to_rest,
    until,
    uses,
)


async def test_each_call_is_a_session_and_its_last_words_are_the_result() -> None:
    parts = {
        "lead": part(tasks("apples", "pears"), says("Thanks.")),
        "helper": part(uses("look", thing="fruit"), says("I saw {{last_user}}: {{last_result}}.")),
    }
    async with house(parts) as engine:
        session = await engine.session("s", LEAD)
        state = await session.send("go")
        assert state.last_status == "completed"
        assert await results(session) == {
            "t1.1": "I saw apples: fruit is there.",
            "t1.2": "I saw pears: fruit is there.",
        }
        tree = await engine.tree("s")
        assert [(r.id, r.parent) for r in tree.rows] == [
            ("s", ""),
            ("s.t1.1", "s"),
            ("s.t1.2", "s"),
        ]
        assert tree.tokens == sum(r.tokens for r in tree.rows) > 0
        child = await engine.session("s.t1.1")
        first = (await anext(child.events())).payload
        assert isinstance(first, e.SessionCreated)
        assert (first.parent, first.parent_call) == ("s", "t1.1")


async def test_a_child_that_fails_is_an_error_that_the_parent_reads() -> None:
    broken = {"error": {"kind": "refused", "message": "no"}}
    parts = {"lead": part(tasks("a"), says("{{last_result}}")), "helper": part(broken)}
    async with house(parts) as engine:
        session = await engine.session("s", LEAD)
        state = await session.send("go")
        assert state.last_status == "completed"
        assert "E-MODEL-REFUSED" in (await results(session))["t1.1"]
        finished = [i.payload async for i in session.events() if i.type == "tool.finished"]
        assert isinstance(finished[0], e.ToolFinished) and finished[0].error
        assert finished[0].error.code == "E-SUBAGENT-FAILED"


async def test_the_parent_waits_with_a_child_that_waits_for_a_person() -> None:
    parts = {
        "lead": part(tasks("a", "b"), says("done")),
        "helper": part(uses("sign", paper="lease"), says("{{last_result}}")),
    }
    async with house(parts) as engine:
        session = await engine.session("s", lead_of(SIGNER))
        state = await session.send("go")
        assert state.turn is not None  # it came back because only a person can go on
        rows = {row.id: row for row in await engine.sessions()}
        assert (rows["s"].status, rows["s"].waiting) == ("waiting", 2)
        assert rows["s.t1.1"].status == "waiting"
        notes = [i.payload async for i in session.events() if i.type == "note.recorded"]
        assert len(notes) == 2
        state = await to_rest(engine, session)
        assert state.last_status == "completed"
        assert set((await results(session)).values()) == {"lease is signed"}


async def test_two_levels_up_it_is_known_that_somebody_waits() -> None:
    middle = Agent("middle", "scripted:middle", tools=[subagent(SIGNER)])
    top = Agent("lead", "scripted:lead", tools=[subagent(middle)])
    parts = {
        "lead": part(tasks("a", tool="middle"), says("done")),
        "middle": part(tasks("b"), says("{{last_result}}")),
        "helper": part(uses("sign", paper="lease"), says("{{last_result}}")),
    }
    async with house(parts) as engine:
        session = await engine.session("s", top)
        await session.send("go")
        assert [r.status for r in (await engine.tree("s")).rows] == ["waiting"] * 3
        assert (await to_rest(engine, session)).last_status == "completed"
        assert await results(session) == {"t1.1": "lease is signed"}


class Slow:
    """A tool that runs until it is cancelled, and tells whether it is alive."""

    def __init__(self) -> None:
        self.alive = 0
        self.started = asyncio.Event()
        self.ended: list[int] = []  # how many children's journals were open when it died

    def tool(self, effect: str = "read") -> object:
        @tool(effect=effect)
        async def dig(context: ToolContext) -> str:
            """Dig without end."""
            self.alive += 1
            self.started.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.alive -= 1
            return ""

        return dig


async def test_an_interrupt_ends_the_children_before_the_parents_call_is_closed() -> None:
    slow = Slow()
    worker = Agent("worker", "scripted:worker", tools=[slow.tool()])  # type: ignore[list-item]
    middle = Agent("helper", "scripted:helper", tools=[subagent(worker)])
    parts = {
        "lead": part(tasks("a", "b"), says("done")),
        "helper": part(tasks("c", tool="worker"), says("x")),
        "worker": part(uses("dig"), says("x")),
    }
    async with house(parts) as engine:
        session = await engine.session("s", lead_of(middle))
        sending = asyncio.ensure_future(session.send("go")._wait())
        for name in ("s.t1.1.t1.1", "s.t1.2.t1.1"):
            await until(await born(engine, name), e.ToolStarted)
        await slow.started.wait()
        alive_at_close: list[int] = []
        engine.hub.publish = _spy(engine, alive_at_close, slow)  # type: ignore[method-assign]
        await session.interrupt(by="test")
        state = await sending
        assert state.last_status == "cancelled"
        assert slow.alive == 0 and set(alive_at_close) == {0}
        tree = await engine.tree("s")
        assert len(tree.rows) == 5
        for row in tree.rows:
            assert (await (await engine.session(row.id)).state()).last_status == "cancelled", row.id


def _spy(engine: Engine, seen: list[int], slow: Slow) -> Any:
    publish: Any = engine.hub.publish

    def spy(session: str, events: list[Event], *more: Any) -> None:
        if session == "s" and any(isinstance(i.payload, e.ToolFinished) for i in events):
            seen.append(slow.alive)
        publish(session, events, *more)

    return spy


async def test_a_pause_reaches_the_children_and_so_does_the_resume() -> None:
    go_on = asyncio.Event()

    @tool(effect="read")
    async def wait() -> str:
        """Wait for the test."""
        await go_on.wait()
        return "waited"

    helper = Agent("helper", "scripted:helper", tools=[wait])
    parts = {
        "lead": part(tasks("a"), says("{{last_result}}")),
        "helper": part(uses("wait"), says("{{last_result}}")),
    }
    async with house(parts) as engine:
        session = await engine.session("s", lead_of(helper))
        sending = asyncio.ensure_future(session.send("go")._wait())
        child = await born(engine, "s.t1.1")
        await until(child, e.ToolStarted)
        await session.pause()
        await until(child, e.InputAccepted, 2)
        go_on.set()
        await until(child, e.ToolFinished)
        assert status(await child.state()) == "paused"
        await sending  # a paused session is at rest for whoever waits for it
        assert status(await session.state()) == "paused"
        state = await session.resume()
        assert state.last_status == "completed"
        assert await results(session) == {"t1.1": "waited"}


async def test_deeper_than_allowed_is_an_error_that_the_model_reads() -> None:
    agent = Agent("a0", "scripted:leaf")
    for level in range(1, 5):
        # Each level asks for more than is left: what holds above holds below.
        deep = 2 if level == 4 else 9
        agent = Agent(f"a{level}", f"scripted:a{level}", tools=[subagent(agent, max_depth=deep)])
    parts = {
        "leaf": part(says("leaf")),
        **{
            f"a{n}": part(tasks("x", tool=f"a{n - 1}"), says("{{last_result}}"))
            for n in range(1, 5)
        },
    }
    async with house(parts) as engine:
        session = await engine.session("s", agent)
        state = await session.send("go")
        assert state.last_status == "completed"
        assert len((await engine.tree("s")).rows) == 3
        assert "E-SUBAGENT-DEPTH" in (await results(session))["t1.1"]


async def test_wider_than_allowed_is_an_error_that_the_model_reads() -> None:
    parts = {"lead": part(tasks(*"abcde"), says("ok")), "helper": part(says("{{last_user}}"))}
    async with house(parts) as engine:
        session = await engine.session("s", lead_of(HELPER, max_children=3))
        await session.send("go")
        texts = [text for _, text in sorted((await results(session)).items())]
        assert texts[:3] == ["a", "b", "c"]
        assert all("E-SUBAGENT-WIDTH" in text for text in texts[3:])
        assert len((await engine.tree("s")).rows) == 4


async def test_a_fork_does_not_share_the_children() -> None:
    parts = {
        "lead": part(tasks("a"), says("{{last_result}}")),
        "helper": part(uses("sign", paper="lease"), says("{{last_result}}")),
    }
    async with house(parts) as engine:
        session = await engine.session("s", lead_of(SIGNER))
        await session.send("go")  # the child waits
        fork = await session.fork(name="f")
        async for _ in fork.resume():
            pass
        assert [r.id for r in (await engine.tree("f")).rows] == ["f", "f.t1.1"]
        assert (await to_rest(engine, session)).last_status == "completed"
        assert (await fork.state()).turn is not None
        assert (await to_rest(engine, fork)).last_status == "completed"
        assert len((await engine.tree("s")).rows) == 2


async def test_a_fork_of_a_child_is_nobodys_subagent_and_keeps_its_rights() -> None:
    lead = Agent(
        "lead",
        "scripted:lead",
        tools=[subagent(HELPER)],
        permissions=[Rule("look", Verdict.DENY)],
        limits=Limits(tokens=50_000),
    )
    parts = {"lead": part(tasks("a"), says("x")), "helper": part(says("y"))}
    async with house(parts) as engine:
        await (await engine.session("s", lead)).send("go")
        child = await engine.session("s.t1.1")
        state = await (await child.fork(name="f")).state()
        assert (state.parent, state.parent_call) == ("", "")
        assert Rule("look", Verdict.DENY) in state.spec.permissions
        assert state.limits.tokens is not None and state.limits.tokens <= 50_000


async def test_what_the_parents_rules_deny_is_denied_to_the_child() -> None:
    lead = Agent(
        "lead",
        "scripted:lead",
        tools=[subagent(HELPER)],
        permissions=[Rule("look", Verdict.DENY, "thing == 'safe'")],
    )
    parts = {
        "lead": part(tasks("a"), says("x")),
        "helper": part(uses("look", thing="safe"), says("{{last_result}}")),
    }
    async with house(parts) as engine:
        session = await engine.session("s", lead)
        await session.send("go")
        assert "not allowed" in (await results(session))["t1.1"]
        with pytest.raises(Forbidden) as caught:
            await engine.session("s.t1.1", HELPER, adopt=True)
        assert caught.value.code == "E-SUBAGENT-RIGHTS"
        child = await engine.session("s.t1.1")
        before = await child.state()
        await child.update(e.SessionUpdated(agent=HELPER.spec([look.spec])))
        await until(child, e.NoteRecorded)
        assert (await child.state()).spec == before.spec


async def test_what_a_person_allowed_the_parent_beyond_a_call_is_not_allowed_to_the_child() -> None:
    lead = Agent("lead", "scripted:lead", tools=[sign, subagent(SIGNER)])
    parts = {
        "lead": part(uses("sign", paper="lease"), tasks("a"), says("x")),
        "helper": part(uses("sign", paper="lease"), says("y")),
    }
    async with house(parts) as engine:
        session = await engine.session("s", lead)
        state = await session.send("go")
        (action,) = state.actions.values()
        grant = Grant("g", "sign", sign.spec.digest, by="anna")
        await session.decide(Decide(action.id, "allow", "anna", seen=action.digest, grant=grant))
        async for _ in session.watch():
            pass
        assert (await session.state()).grants
        child = await (await engine.session("s.t1.2")).state()
        assert [a.kind for a in child.actions.values()] == ["approve"] and not child.grants


async def test_an_environment_more_open_than_the_parents_is_refused_at_once() -> None:
    wild = Agent("helper", "scripted:helper", environment=EnvironmentSpec("process"))
    async with house({}) as engine:
        with pytest.raises(InvalidRequest) as caught:
            await engine.session("s", lead_of(wild))
        assert caught.value.code == "E-SUBAGENT-RIGHTS"
        assert await engine.sessions() == []


async def test_an_agent_cannot_be_its_own_subagent() -> None:
    tools: list[object] = []
    agent = Agent("loop", "scripted:lead", tools=tools)  # type: ignore[arg-type]
    tools.append(subagent(agent))
    async with house({}) as engine:
        with pytest.raises(InvalidRequest) as caught:
            await engine.register(agent)
        assert caught.value.code == "E-SUBAGENT-LOOP"


async def test_a_session_that_has_the_childs_name_is_left_alone() -> None:
    parts = {"lead": part(tasks("a"), says("x")), "helper": part(says("y"), says("y"))}
    async with house(parts) as engine:
        stranger = await engine.session("s.t1.1", HELPER)
        session = await engine.session("s", LEAD)
        await session.send("go")
        assert "E-SUBAGENT-NAME" in (await results(session))["t1.1"]
        assert (await stranger.state()).turns == 0


async def test_a_task_that_is_no_text_is_refused() -> None:
    parts = {"lead": part(uses("helper", tusk="a"), says("x"))}
    async with house(parts) as engine:
        session = await engine.session("s", LEAD)
        await session.send("go")
        assert "E-TOOL-ARGUMENTS" in (await results(session))["t1.1"]
