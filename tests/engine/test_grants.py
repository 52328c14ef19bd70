"""What people allow beyond one call: for a session, and as a rule."""

from pathlib import Path
from typing import Any

import pytest

from perdure.app import Options
from perdure.core import events as e
from perdure.core.agent import Verdict
from perdure.core.errors import Conflict, InvalidRequest, NotFound
from perdure.core.inbox import Decide
from perdure.engine import grants
from perdure.engine.agent import Agent
from perdure.engine.subagents import subagent
from perdure.sync import Runtime as SyncRuntime
from tests.engine.desk import DAY_US, Desk, asked, go_on, requested, rule_for
from tests.trees.family import Cast, part, says, tasks


async def test_a_session_grant_answers_for_the_rest_of_the_session() -> None:
    desk = Desk(30, 40, 60)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna", scope="session", when="eur < 50")
        state = await go_on(session)
        assert desk.done == [30, 40] and list(state.actions) == ["a2"], "60 does not fit"
        first, second, third = await requested(session)
        assert first.grant is None and third.grant is None
        assert second.grant == state.grants["s:a1"] and second.verdict is Verdict.ALLOW
        assert second.rule == "refund: eur < 50 → allow (this session, by anna)"
        await session.deny("a2", by="bert", reason="too much")
        await go_on(session)
        await desk.checked(engine)
        other = await engine.session("t", desk.agent())
        assert (await asked(other)).actions, "it holds in its own session only"


async def test_without_a_condition_all_calls_are_covered_but_those_that_are_forbidden() -> None:
    desk = Desk(30, 600, 400)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna", scope="session")
        state = await go_on(session)
        assert desk.done == [30, 400] and state.last_status == "completed"
        assert [p.verdict.value for p in await requested(session)] == ["ask", "deny", "allow"]
        await desk.checked(engine)


async def test_a_grant_ends_at_its_time() -> None:
    desk = Desk(30, 40, 50)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        until = desk.clock.now_us() + DAY_US
        await session.allow("a1", by="anna", scope="session", until_us=until)
        await go_on(session)
        assert desk.done == [30, 40, 50]
    desk = Desk(30, 40)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.pause(by="anna")
        until = desk.clock.now_us() + DAY_US
        await session.allow("a1", by="anna", scope="session", until_us=until)
        desk.clock.advance(2 * 24 * 3600)
        state = await session.resume(by="anna")
        assert desk.done == [30] and list(state.actions) == ["a2"]
        await desk.checked(engine)


async def test_what_was_granted_can_be_revoked() -> None:
    desk = Desk(30, 40)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.pause()
        await session.allow("a1", by="anna", scope="session")
        gone = await session.revoke("s:a1", by="bert")
        assert gone.payload == e.GrantRevoked("s:a1", "bert")
        state = await session.resume()
        assert desk.done == [30] and state.actions, "it asks again"
        with pytest.raises(NotFound, match="E-GRANT-UNKNOWN"):
            await session.revoke("s:a1", by="bert")
        await desk.checked(engine)


async def test_a_rule_holds_in_all_sessions_of_its_agent_and_in_all_processes() -> None:
    desk = Desk(30, 40)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna", scope="rule", when="eur < 50")
        await go_on(session)
        assert desk.done == [30, 40]
        (rule,) = await engine.rules()
        assert (rule.name, rule.agent, rule.when, rule.by) == ("s:a1", "clerk", "eur < 50", "anna")
    async with desk.open("n2") as engine:
        other = await engine.session("t", desk.agent())
        state = await asked(other)
        assert state.last_status == "completed" and desk.done == [30, 40, 30, 40]
        assert [p.grant for p in await requested(other)] == [rule, rule]
        boss = await engine.session("u", desk.agent("boss"))
        assert (await asked(boss)).actions, "another agent is asked about"
        await desk.checked(engine)


async def test_a_revoked_rule_is_out_of_force_everywhere_at_once() -> None:
    desk = Desk(30, 40)
    async with desk.open() as engine, desk.open("n2") as elsewhere:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna", scope="rule")
        await go_on(session)
        await elsewhere.revoke_rule("s:a1", by="bert")
        assert await engine.rules() == []
        other = await engine.session("t", desk.agent())
        assert (await asked(other)).actions
        with pytest.raises(NotFound, match="E-GRANT-UNKNOWN"):
            await elsewhere.revoke_rule("s:a1", by="bert")
        async for item in session.follow():
            if isinstance(item, e.Event) and isinstance(item.payload, e.GrantRevoked):
                assert item.payload.by == "bert"
                break
        await desk.checked(engine)


async def test_a_rule_that_was_only_proposed_allows_nothing() -> None:
    """A crash between the two steps: the proposal is there, the decision is not."""
    desk = Desk(30, 40)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        state = await asked(session)
        grant = rule_for(state, "a1")
        await grants.propose(engine.kit.store, grant, "s", "a1")
        other = await engine.session("t", desk.agent())
        assert (await asked(other)).actions and desk.done == []
        assert await engine.rules() == []
        assert len(await engine.kit.store.docs("rule")) == 1, "it may still be decided"
        await session.deny("a1", by="bert")
        assert await engine.rules() == []
        assert await engine.kit.store.docs("rule") == [], "it came to nothing"


async def test_a_rule_whose_decision_is_journaled_holds_though_nobody_confirmed_it() -> None:
    """A crash after the second step: the journal knows more than the document."""
    desk = Desk(30, 40)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        state = await asked(session)
        grant = rule_for(state, "a1")
        await grants.propose(engine.kit.store, grant, "s", "a1")
        await session.decide(Decide("a1", "allow", "anna", grant=grant))
        other = await engine.session("t", desk.agent())
        assert (await asked(other)).last_status == "completed"
        assert await engine.rules() == [grant]
        await desk.checked(engine)


async def test_of_two_rules_for_one_action_the_one_that_was_decided_holds() -> None:
    desk = Desk(30, 40)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        state = await asked(session)
        theirs = rule_for(state, "a1", by="bert", when="eur < 1000")
        mine = rule_for(state, "a1", when="eur < 31")
        await grants.propose(engine.kit.store, mine, "s", "a1")
        await grants.propose(engine.kit.store, theirs, "s", "a1")
        await session.decide(Decide("a1", "allow", "anna", grant=mine))
        with pytest.raises(Conflict, match="anna allowed it"):
            await session.allow("a1", by="bert", scope="rule", when="eur < 1000")
        assert await engine.rules() == [mine]
        state = await go_on(session)
        assert desk.done == [30] and state.actions, "40 does not fit the rule that holds"


async def test_a_subagent_may_be_granted_something_too() -> None:
    desk = Desk(30, 40)
    lead = Agent("lead", "scripted:lead", tools=[subagent(desk.agent())])
    desk.parts["lead"] = part(tasks("one", tool="clerk"), tasks("two", tool="clerk"), says("so"))
    async with desk.open() as engine:
        session = await engine.session("s", lead)
        await asked(session)
        (name,) = [row.id for row in await engine.sessions() if row.parent]
        child = await engine.session(name)
        await child.allow("a1", by="anna", scope="rule", when="eur < 50")
        await go_on(session)
        assert desk.done == [30, 40, 30, 40], "the second subagent is one of the same agent"
        (rule,) = await engine.rules()
        assert (rule.name, rule.agent) == (f"{name}:a1", "clerk")
        await desk.checked(engine)


async def test_a_fork_takes_what_was_granted_before_it_and_a_rewind_what_came_after() -> None:
    desk = Desk(30, 40, 45)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        before = await asked(session)
        await session.allow("a1", by="anna", scope="session", when="eur < 42")
        await go_on(session)
        assert desk.done == [30, 40]
        fork = await session.fork(name="f")
        assert list((await fork.state()).grants) == ["s:a1"]
        early = await session.fork(before.seq, name="g")
        assert (await early.state()).grants == {}
        await session.rewind(before.seq, by="anna")
        assert (await session.state()).grants == {}
        state = await session.resume()
        assert [a.kind for a in state.actions.values()] == ["resolve"], "the call left once"
        await fork.revoke("s:a1", by="bert")
        assert (await fork.state()).grants == {}
        await desk.checked(engine)


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"when": "eur < 50"}, "E-GRANT"),
        ({"until_us": 10**18}, "E-GRANT"),
        ({"scope": "session", "until_us": 1}, "E-GRANT"),
        ({"scope": "week"}, "E-GRANT"),
        ({"scope": "rule", "when": "eur <"}, "E-CONDITION"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_is_decided(
    wish: dict[str, Any], code: str
) -> None:
    desk = Desk(30)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        with pytest.raises(InvalidRequest, match=code):
            await session.allow("a1", by="anna", **wish)
        assert list((await session.state()).actions) == ["a1"]
        assert await engine.kit.store.docs("rule") == []


def test_the_same_without_asyncio(tmp_path: Path) -> None:
    desk = Desk(30, 40, 60)
    options = Options(models=Cast(desk.parts))
    with SyncRuntime(f"sqlite:///{tmp_path}/perdure.db", options) as runtime:
        session = runtime.session("s", desk.agent())
        list(session.send("go"))
        session.allow("a1", by="anna", scope="session", when="eur < 35")
        list(session.watch())
        assert list(session.state().grants) == ["s:a1"] and desk.done == [30]
        session.revoke("s:a1", by="bert")
        assert session.state().grants == {}
        session.allow("a2", by="anna", scope="rule", when="eur < 100")
        list(session.watch())
        assert desk.done == [30, 40, 60]
        assert [rule.name for rule in runtime.rules()] == ["s:a2"]
        runtime.revoke_rule("s:a2", by="bert")
        assert runtime.rules() == []
