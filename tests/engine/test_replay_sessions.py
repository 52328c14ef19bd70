"""Replays of sessions that were decided on, cut short, forked, taken back, or had subagents."""

import pytest

from perdure.core import events as e
from perdure.core.agent import Limits, RetryPolicy, Rule, Verdict
from perdure.core.errors import NotFound
from perdure.core.events import Event
from perdure.engine.agent import Agent
from perdure.engine.replay import replay
from perdure.engine.subagents import subagent
from perdure.replaying import recorded, replay_session
from perdure.testing.clocks import FakeClock
from perdure.tools.python import tool
from tests.engine.told import (
    NO_LOOKING,
    PRICES,
    REFUND,
    Shop,
    call,
    clerk,
    engine_on,
    journal,
    memory,
    refunded,
    script,
    spec_of,
)


@pytest.mark.parametrize("way", ["allowed", "edited", "denied"])
async def test_decisions_of_people_are_followed(way: str) -> None:
    shop, store = Shop(), memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        session = await engine.session("s", clerk(shop))
        amount, deny = {"allowed": (None, ""), "edited": (20, ""), "denied": (None, "no")}[way]
        await refunded(session, amount=amount, deny=deny)
        ran = list(shop.calls)
        report = await replay(await journal(store), prices=PRICES)
    assert report.identical, report
    assert str(report) == f"s: {report.events} events, all identical"
    assert shop.calls == ran, "a replay runs no tool"


async def test_a_question_that_nobody_answered_expires_again() -> None:
    store, clock = memory(), FakeClock()
    async with engine_on(store, {"clerk": REFUND}, clock) as engine:
        session = await engine.session("s", clerk(Shop()))
        await session.send("go")
        clock.advance(8 * 24 * 3600)
        await session.steer("still there?")
        async for item in session.follow():
            if isinstance(item, Event) and isinstance(item.payload, e.TurnEnded):
                break
        events = await journal(store)
    resolved = [x.payload for x in events if isinstance(x.payload, e.ActionResolved)]
    assert [each.decision for each in resolved] == ["expired"]
    report = await replay(events, prices=PRICES)
    assert report.identical, report


async def test_failures_of_the_model_and_the_end_of_patience() -> None:
    torn = {"error": {"kind": "torn", "times": 1, "partial": "I was abo"}, "text": "Again."}
    rude = {"error": {"kind": "overloaded", "times": 9}}
    store = memory()
    agent = Agent("a", "scripted:a", retry=RetryPolicy(attempts=3, base_s=0.0))
    async with engine_on(store, {"a": script(torn, rude)}) as engine:
        session = await engine.session("s", agent)
        await session.send("one")
        state = await session.send("two")
        assert state.last_status == "failed"
        events = await journal(store)
    report = await replay(events, prices=PRICES)
    assert report.identical, report


async def test_limits_end_turns_again_with_and_without_prices() -> None:
    store = memory()
    limits = Limits(usd=0.004, steps=2)
    async with engine_on(store, {"clerk": REFUND}) as engine:
        session = await engine.session("s", clerk(Shop(), limits=limits, limit=1000))
        for word in ("one", "two", "three", "four", "five", "six"):
            await session.send(word)
        events = await journal(store)
    ends = [x.payload.error for x in events if isinstance(x.payload, e.TurnEnded)]
    assert {error.code for error in ends if error} == {"E-LIMIT-STEPS", "E-LIMIT-USD"}
    assert (await replay(events, prices=PRICES)).identical
    assert (await replay(events)).identical


async def test_forks_and_rewinds() -> None:
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        session = await engine.session("s", clerk(Shop()))
        await session.send("go")
        asked = (await session.state()).seq
        fork = await session.fork(name="f")
        await refunded(session)
        action = next(iter((await fork.state()).actions), None)
        await fork.resume()
        assert action is not None
        await fork.deny(action, by="bert", reason="not in this world")
        async for _ in fork.watch():
            pass
        await session.rewind(asked)
        await session.resume()
        await refunded(session, amount=3)
        for name in ("s", "f"):
            report = await replay_session(store, name, prices=PRICES)
            assert report.identical, report
        early = await session.fork(5, name="early")
        await early.resume()
        assert (await replay_session(store, "early", prices=PRICES)).identical


async def test_sessions_with_subagents_and_the_subagents_themselves() -> None:
    @tool(effect="read")
    def look(thing: str) -> str:
        """Look at something."""
        return f"{thing} is there"

    helper = Agent("helper", "scripted:helper", tools=[look])
    lead = Agent("lead", "scripted:lead", tools=[subagent(helper)], limits=Limits(usd=0.05))
    give = {"call": [call("helper", task="apples"), call("helper", task="pears")]}
    parts = {
        "lead": script(give, give, give, {"text": "Thanks."}),
        "helper": script({"call": [call("look", thing="it")]}, {"text": "I saw {{last_result}}."}),
    }
    store = memory()
    async with engine_on(store, parts) as engine:
        session = await engine.session("s", lead)
        await session.send("go")
        rows = (await engine.tree("s")).rows
        assert len(rows) > 2
        for row in rows:
            report = await replay_session(store, row.id, prices=PRICES)
            assert report.identical, report


async def test_another_definition_diverges_where_it_decides_differently() -> None:
    shop, store = Shop(), memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        before = clerk(shop)
        await refunded(await engine.session("s", before))
        events = await journal(store)
    variants = {
        "tool.requested: verdict was 'ask', now 'allow'": clerk(shop, limit=1000),
        "tool.requested: verdict was 'ask', now 'deny'": clerk(shop, forbid="amount > 400"),
        "tool.requested: verdict was 'allow', now 'deny'": clerk(shop, rules=[NO_LOOKING]),
        "but now comes turn.ended": clerk(shop, limits=Limits(steps=2)),
    }
    for text, agent in variants.items():
        report = await replay(events, agent=spec_of(agent))
        assert not report.identical
        assert text in str(report), report
    other_words = clerk(shop, instructions="Be stern, and brief." * 50)
    spec = spec_of(other_words)
    assert (await replay(events, agent=spec)).identical


async def test_a_stricter_rule_that_changes_nothing_here_changes_nothing() -> None:
    shop, store = Shop(), memory()
    rule = Rule("wire_money", Verdict.DENY)
    async with engine_on(store, {"clerk": REFUND}) as engine:
        await refunded(await engine.session("s", clerk(shop)))
        agent = clerk(shop, rules=[rule])
        assert (await replay_session(store, "s", agent=spec_of(agent))).identical


async def test_nothing_is_written_and_unknown_sessions_are_named() -> None:
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        await refunded(await engine.session("s", clerk(Shop())))
        before = [await store.read("s"), await store.sessions(), await store.mailboxes()]
        await replay_session(store, "s")
        assert [await store.read("s"), await store.sessions(), await store.mailboxes()] == before
        assert (await replay_session(store, "s", 4)).events == 4
        assert len(await recorded(store, "s", 4)) == 4
        with pytest.raises(NotFound):
            await replay_session(store, "nobody")
        with pytest.raises(NotFound):
            await replay_session(store, "s", 4000)
