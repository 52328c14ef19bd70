"""What may not happen to approvals: scenarios 8 to 12 of the list of failures."""

import asyncio
import json
from functools import partial

import pytest

from perdure.core import events as e
from perdure.core.agent import Rule, Verdict
from perdure.core.errors import Conflict, InvalidRequest
from perdure.core.events import Event
from perdure.core.inbox import Close, Say
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.session import Session
from perdure.models.scripted import Call, Reply
from perdure.ports.tool import Tool
from perdure.testing.stage import Stage, staged
from perdure.tools.python import FunctionTool, tool

WORDS = "I shall pay the invoice now."


def asks(state: State) -> bool:
    return bool(state.actions)


def payer(visits: list[str], words: str = "Pay.") -> FunctionTool[..., object]:
    async def pay(n: int) -> str:
        visits.append(f"pay {n}")
        return f"paid {n}"

    return tool(ask=True, description=words)(pay)


def till(stage: Stage, *more: Reply) -> list[str]:
    """An agent that looks (which needs nobody) and pays (which asks), in one reply."""
    visits: list[str] = []

    @tool(effect="once")
    async def look() -> str:
        visits.append("look")
        return "seen"

    calls = (Call("look"), Call("pay", {"n": 1}))
    stage.plays(Reply(text=WORDS, call=calls), *more, Reply(text="done"))
    stage.agent = Agent(
        "agent", "scripted:play", tools=[look, payer(visits)], approval_expires_s=1000
    )
    return visits


def notes(stage: Stage) -> list[str]:
    return [p.text for p in stage.payloads(e.NoteRecorded)]


@staged
async def test_failure_08_a_persons_answer_runs_the_one_call_and_no_finished_one(
    stage: Stage,
) -> None:
    visits = till(stage)
    first = await stage.start()
    await stage.say(first, "go")
    state = await stage.until(lambda s: asks(s) and visits)
    assert state.actions["a1"].said == WORDS, "the model's reason is part of the question"
    stage.kill(first)
    second = await stage.start()
    await stage.with_session(second, lambda s: s.allow("a1", by="anna"))
    await stage.still()
    assert visits == ["look", "pay 1"]
    assert [(p.by, p.decision) for p in stage.payloads(e.ActionResolved)] == [("anna", "allow")]


@staged
async def test_failure_09_of_two_people_at_once_one_wins_and_the_other_sees_who(
    stage: Stage,
) -> None:
    visits = till(stage)
    first, second = await stage.start(), await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    ends = await asyncio.gather(
        stage.with_session(first, lambda s: s.allow("a1", by="anna")),
        stage.with_session(second, lambda s: s.deny("a1", by="bert", reason="no")),
        return_exceptions=True,
    )
    (won,) = [end for end in ends if isinstance(end, Event)]
    (lost,) = [end for end in ends if isinstance(end, Conflict)]
    taken = won.payload
    assert isinstance(taken, e.ActionResolved) and lost.code == "E-ACTION-DECIDED"
    did = {"anna": "anna allowed it at", "bert": "bert denied it at"}[taken.by]
    assert did in lost.message
    await stage.still()
    assert visits.count("pay 1") == (taken.by == "anna")
    assert len(stage.payloads(e.ActionResolved)) == 1
    (note,) = notes(stage)
    assert "refused" in note and taken.by in note


@staged
async def test_failure_09_the_same_approval_twice_is_one_approval(stage: Stage) -> None:
    visits = till(stage)
    first, second = await stage.start(), await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    one, other = await asyncio.gather(
        stage.with_session(first, lambda s: s.allow("a1", by="anna")),
        stage.with_session(second, lambda s: s.allow("a1", by="anna")),
    )
    assert one == other and isinstance(one.payload, e.ActionResolved)
    await stage.still()
    assert visits.count("pay 1") == 1
    with pytest.raises(Conflict, match=r"anna allowed it at .* too late and is recorded"):
        await stage.with_session(second, lambda s: s.allow("a1", by="anna"))
    assert visits.count("pay 1") == 1 and len(notes(stage)) == 2


@staged
async def test_failure_09_an_approval_is_for_one_call(stage: Stage) -> None:
    again = Reply(call=(Call("pay", {"n": 1}),))
    visits = till(stage, again)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    await stage.with_session(first, lambda s: s.allow("a1", by="anna"))
    await stage.until(lambda s: "a2" in s.actions)
    assert visits == ["look", "pay 1"], "the same call again is another question"


@staged
async def test_failure_10_a_tool_that_changed_after_the_approval_is_asked_about_again(
    stage: Stage,
) -> None:
    visits = till(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    await stage.with_session(first, lambda s: s.pause())
    await stage.with_session(first, lambda s: s.allow("a1", by="anna", scope="session"))
    await stage.end(first)
    tools = [each for each in stage.agent.tools if not _is(each, "pay")]
    other = Agent("agent", "scripted:play", tools=[*tools, payer(visits, "Pay twice.")])
    second = await stage.start(agent=other)
    await stage.on(second, lambda engine: engine.session("s", other, adopt=True))
    await stage.with_session(second, lambda s: s.post(Say("resume", by="anna")))
    state = await stage.until(lambda s: "a2" in s.actions)
    assert "pay 1" not in visits, "neither the approval nor the grant was for this tool"
    assert state.actions["a2"].digest != stage.payloads(e.ActionRequested)[0].digest
    await stage.with_session(second, lambda s: s.allow("a2", by="anna"))
    await stage.until(lambda s: s.last_status == "completed")
    assert visits.count("pay 1") == 1


def _is(each: object, name: str) -> bool:
    return isinstance(each, Tool) and each.spec.name == name


@staged
async def test_failure_10_what_was_shown_is_what_is_approved(stage: Stage) -> None:
    visits = till(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    with pytest.raises(Conflict, match=r"E-ACTION-REFUSED .*still open: what was shown"):
        await stage.with_session(first, lambda s: s.allow("a1", by="anna", seen="something else"))
    assert "pay 1" not in visits and "a1" in stage.state().actions
    assert notes(stage) == ["allow of a1 by 'anna' refused: what was shown is not what would run"]


@staged
async def test_failure_10_edited_arguments_run_as_edited_unless_a_rule_forbids_them(
    stage: Stage,
) -> None:
    visits = till(stage)
    stage.agent = Agent(
        "agent",
        "scripted:play",
        tools=stage.agent.tools,
        permissions=[Rule("pay", Verdict.DENY, "n > 100")],
    )
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    edited = json.dumps({"n": 1000})
    await stage.with_session(first, lambda s: s.allow("a1", by="anna", arguments=edited))
    await stage.until(lambda s: s.last_status == "completed")
    assert visits == ["look"]
    assert [p.status for p in stage.payloads(e.ToolFinished)] == ["ok", "denied"]


@staged
async def test_failure_11_an_approval_is_honoured_after_a_restart_whatever_else_is_posted(
    stage: Stage,
) -> None:
    visits = till(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    await stage.with_session(first, lambda s: s.pause())
    await stage.with_session(first, lambda s: s.allow("a1", by="anna"))
    stage.kill(first)
    second = await stage.start()
    await stage.with_session(second, lambda s: s.steer("and be quick"))
    await stage.with_session(second, lambda s: s.set("colour", "red"))
    assert "pay 1" not in visits, "it is paused"
    await stage.say(second, "something else", key="k2")
    await stage.until(lambda s: s.turns == 2 and s.turn is None)
    assert visits == ["look", "pay 1"]
    assert [p.by for p in stage.payloads(e.ActionResolved)] == ["anna"]


@staged
async def test_failure_12_an_approval_after_the_cancel_is_refused_and_recorded(
    stage: Stage,
) -> None:
    visits = till(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    await stage.with_session(first, lambda s: s.interrupt(by="bert"))
    await stage.until(lambda s: s.turn is None)
    with pytest.raises(Conflict, match=r"E-ACTION-DECIDED .*its turn had ended"):
        await stage.with_session(first, lambda s: s.allow("a1", by="anna"))
    assert visits == ["look"]
    assert notes(stage) == [
        "allow of a1 by 'anna' refused: no such action is open: its turn has ended"
    ]


@staged
async def test_failure_12_an_approval_after_the_expiry_is_refused_and_recorded(
    stage: Stage,
) -> None:
    visits = till(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    await stage.passes(1001)
    await stage.until(lambda s: s.turn is None)
    with pytest.raises(Conflict, match=r"it had expired at .*: nobody decided in time"):
        await stage.with_session(first, lambda s: s.allow("a1", by="anna", scope="rule"))
    assert visits == ["look"]
    assert notes(stage) == ["allow of a1 by 'anna' refused: it had expired: nobody decided in time"]
    assert await stage.on(first, lambda engine: engine.rules()) == []


@staged
async def test_failure_12_an_approval_after_the_close_is_refused_and_recorded(
    stage: Stage,
) -> None:
    visits = till(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    await stage.with_session(first, lambda s: s.post(Close("bert")))
    await stage.until(lambda s: s.closed)
    with pytest.raises(Conflict, match=r"E-SESSION-CLOSED .*recorded as refused"):
        await stage.with_session(first, lambda s: s.allow("a1", by="anna"))
    assert visits == ["look"] and "allow of a1 by 'anna' refused" in notes(stage)[-1]


@staged
async def test_failure_12_what_was_never_asked_is_an_error_of_its_own(stage: Stage) -> None:
    till(stage)
    first = await stage.start()
    await stage.say(first, "go")
    await stage.until(asks)
    for name in ("a2", "a0", "x", "a"):
        with pytest.raises(InvalidRequest, match="E-ACTION-UNKNOWN"):
            await stage.with_session(first, partial(Session.allow, action_id=name, by="anna"))
    assert notes(stage) == []
