"""What may not happen to sessions: scenarios 19, 21 and 26 to 31 of the list of failures."""

from dataclasses import replace

import pytest

from perdure.core import events as e, journal as records
from perdure.core.agent import Limits, RetryPolicy
from perdure.core.codec import encode
from perdure.core.content import ModelItem, Text
from perdure.core.errors import Conflict, CorruptJournal
from perdure.core.events import Event
from perdure.core.inbox import Decide, Say
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.session import Session
from perdure.models.scripted import Call, Failure, Reply
from perdure.ports.tool import OutcomeUnknown
from perdure.testing.sim_disks import InMemory
from perdure.testing.stage import Stage, staged
from perdure.tools.python import FunctionTool, tool


@staged
async def test_failure_19_a_torn_stream_is_kept_and_never_spliced(stage: Stage) -> None:
    torn = Failure("torn", partial="The answer is f", times=2)
    stage.plays(Reply(text="The answer is 42.", error=torn))
    await stage.say(await stage.start(), "go")
    await stage.still()
    tries = stage.payloads(e.ModelResponded)
    assert [p.status for p in tries] == ["incomplete", "incomplete", "ok"]
    assert [p.partial for p in tries] == ["The answer is f", "The answer is f", ""]
    items = await stage.with_session(stage.processes[0], lambda s: s.context())
    said = [i for item in items if isinstance(item, ModelItem) for i in item.items]
    assert said == [Text("The answer is 42.")]
    assert [p.attempt for p in stage.payloads(e.ModelRequested)] == [1, 2, 3]


@staged
async def test_failure_21_a_reader_that_leaves_misses_nothing_and_stops_nothing(
    stage: Stage,
) -> None:
    stage.plays(Reply(call=(Call("look"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[looker()])
    first = await stage.start()
    seen: list[Event] = []

    async def read(session: Session, until: str) -> None:
        async for item in session.follow(len(seen)):
            if isinstance(item, Event):
                seen.append(item)
                if item.type == until:
                    return

    await stage.say(first, "go")
    await stage.with_session(first, lambda s: read(s, "model.requested"))
    await stage.still()
    assert status(stage.state()) == "idle", "it went on without a reader"
    await stage.with_session(first, lambda s: read(s, "turn.ended"))
    assert seen == stage.world.events("s")


def looker(doc: str = "Look around.", *, ask: str | bool = "") -> FunctionTool[[], object]:
    async def look() -> str:
        return "seen"

    return tool(effect="read", ask=ask, description=doc)(look)


@staged
async def test_failure_26_changed_code_does_not_slip_under_a_living_session(stage: Stage) -> None:
    stage.plays(Reply(text="hello"), Reply(call=(Call("look"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[looker()])
    first = await stage.start()
    await stage.say(first, "go")
    await stage.still()
    await stage.end(first)
    other = Agent("agent", "scripted:play", tools=[looker("Look elsewhere.")])
    second = await stage.start(agent=other)
    with pytest.raises(Conflict, match="E-CODE-DRIFT"):
        await stage.say(second, "again", key="k2")
    await stage.with_session(second, lambda s: s.steer("look now"))
    parked = await stage.until(lambda s: s.parked)
    assert parked.parked is not None
    assert parked.parked.code == "E-CODE-DRIFT"
    await stage.on(second, lambda engine: engine.session("s", other, adopt=True))
    await stage.with_session(second, lambda s: s.post(Say("resume", by="anna")))
    await stage.until(lambda s: s.turn is None and s.last_status == "completed")


@staged
async def test_failure_26_a_call_in_flight_whose_tool_was_replaced_is_left_to_a_person(
    stage: Stage,
) -> None:
    visits: list[str] = []

    def stocker(doc: str, *, deadly: bool) -> FunctionTool[[], object]:
        async def stock() -> str:
            visits.append(doc)
            if deadly:
                await stage.dies_here()
            return "stocked"

        return tool(effect="idempotent", description=doc)(stock)

    stage.plays(Reply(call=(Call("stock"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[stocker("old", deadly=True)])
    await stage.say(await stage.start(), "go")
    await stage.processes[0].died
    other = Agent("agent", "scripted:play", tools=[stocker("new", deadly=False)])
    second = await stage.start(agent=other)
    await stage.until(lambda s: s.parked)
    await stage.on(second, lambda engine: engine.session("s", other, adopt=True))
    await stage.with_session(second, lambda s: s.post(Say("resume", by="anna")))
    state = await stage.until(lambda s: s.actions)
    assert visits == ["old"], "it is not the call that was decided on"
    (action,) = state.actions.values()
    await decide(stage, Decide(action.id, "rerun", "anna"))
    await stage.until(lambda s: s.last_status == "completed")
    assert visits == ["old", "new"]


@staged
async def test_failure_26_a_question_that_code_forgot_is_still_asked(stage: Stage) -> None:
    stage.plays(Reply(text="hello"), Reply(call=(Call("look"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[looker(ask=True)])
    first = await stage.start()
    await stage.say(first, "go")
    await stage.still()
    await stage.end(first)
    careless = Agent("agent", "scripted:play", tools=[looker()])
    second = await stage.start(agent=careless)
    await stage.with_session(second, lambda s: s.steer("look now"))
    await stage.until(lambda s: s.actions or s.parked)
    assert not stage.payloads(e.ToolStarted), "the session was pinned to an agent that asks"


@staged
async def test_failure_26_a_whole_number_of_seconds_is_no_other_definition(stage: Stage) -> None:
    stage.plays(Reply(text="hello"))
    stage.agent = Agent("agent", "scripted:play", limits=Limits(wall_s=60), approval_expires_s=100)
    await stage.say(await stage.start(), "go")
    await stage.still()
    await stage.say(await stage.start(), "again", key="k2")
    assert (await stage.until(lambda s: s.turns == 2)).spec.approval_expires_s == 100


@staged
async def test_failure_27_what_a_newer_version_wrote_is_refused_and_kept(stage: Stage) -> None:
    stage.plays(Reply(text="hello"))
    first = await stage.start()
    await stage.say(first, "go")
    await stage.still()
    await stage.end(first)
    assert isinstance(stage.disk, InMemory)
    last = stage.disk.records("s", 0)[-1]
    data = encode({"seq": last.seq + 1, "id": "x", "at_us": 1, "turn": 0}).replace(
        b"}", b',"payload":{"type":"thought.dreamt"}}'
    )
    strange = records.Record(last.seq + 1, "thought.dreamt", data, records.link(last.hash, data))
    stage.disk.put("s", strange)
    second = await stage.start()
    with pytest.raises(CorruptJournal, match=f"Event {strange.seq} .*this version"):
        await stage.with_session(second, lambda s: s.state())
    assert stage.disk.records("s", 0)[-1] == strange, "nothing was changed"


@pytest.mark.parametrize(
    "change",
    [
        {"instructions": "Be rude."},
        {"limits": Limits(steps=7)},
        {"model": "scripted:other"},
        {"permissions": ()},
        {"retry": RetryPolicy(attempts=1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_failure_28_another_configuration_is_not_taken_silently(change: dict[str, object]) -> None:
    @staged
    async def scene(stage: Stage) -> None:
        stage.plays(Reply(text="hello"))
        await stage.say(await stage.start(), "go")
        await stage.still()
        process = stage.processes[0]
        other = replace(stage.agent, **change)  # type: ignore[arg-type]  # one field of its own type
        if other == stage.agent:
            return
        with pytest.raises(Conflict, match="E-CODE-DRIFT"):
            await stage.on(process, lambda engine: engine.session("s", other))
        assert stage.state().version == stage.state(at=1).version

    scene()


@staged
async def test_failure_29_a_session_that_kills_its_owners_is_parked(stage: Stage) -> None:
    visits: list[int] = []

    @tool(effect="idempotent")
    async def bomb() -> str:
        visits.append(1)
        await stage.dies_here()
        return "never"

    stage.plays(Reply(call=(Call("bomb"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[bomb])
    await stage.say(await stage.start(), "go")
    for _ in range(4):
        await stage.processes[-1].died
        await stage.start()
    state = await stage.until(lambda s: s.parked)
    assert state.parked is not None
    assert state.parked.code == "E-SESSION-POISON"
    assert len(visits) == 4, "once, and three tries more"
    assert [p.attempt for p in stage.payloads(e.SessionRecovered)] == [1, 2, 3, 4]
    assert len(stage.requests) == 1, "the prompt does not grow: the model was asked once"
    await stage.start()
    await stage.passes(1000)
    assert len(visits) == 4


@staged
async def test_failure_30_a_session_that_hangs_holds_up_no_other(stage: Stage) -> None:
    hanging: list[str] = []

    @tool(effect="read", timeout_s=50_000)
    async def stuck() -> str:
        hanging.append("stuck")
        await stage.passes(40_000)
        return "at last"

    stage.plays(Reply(call=(Call("stuck"),), when=()), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[stuck], limits=Limits(wall_s=None))
    process = await stage.start()
    await stage.say(process, "hang", name="a")
    await stage.happens(lambda: hanging)
    stage.plays(Reply(text="fine"))
    other = await stage.start()
    for name in ("b", "c", "d"):
        began = stage.loop.time()
        await stage.say(other, "go", name=name)
        await stage.still(name)
        assert stage.loop.time() - began < 60
    assert status(stage.state("a")) == "running"


async def decide(stage: Stage, letter: Decide) -> None:
    await stage.with_session(stage.processes[-1], lambda s: s.decide(letter))


WAYS_OUT = {
    "failed": (Reply(error=Failure("auth", times=1)), Reply(text="done")),
    "unknown": (Reply(call=(Call("lose"),)), Reply(text="done")),
    "asking": (Reply(call=(Call("beg"),)), Reply(text="done")),
    "budget": (Reply(call=(Call("beg"),)), Reply(text="done")),
    "parked": (Reply(call=(Call("nowhere"),)), Reply(text="done")),
    "paused": (Reply(text="done"),),
}


@pytest.mark.parametrize("dead_end", WAYS_OUT)
def test_failure_31_every_state_has_a_way_out(dead_end: str) -> None:
    @staged
    async def scene(stage: Stage) -> None:
        @tool
        async def lose() -> str:
            raise OutcomeUnknown("the line went dead")

        @tool(ask=True)
        async def beg() -> str:
            return "thank you"

        @tool(effect="contained")
        async def nowhere() -> str:
            return "there is no environment here"

        limits = Limits(tool_calls=0) if dead_end == "budget" else Limits()
        stage.plays(*WAYS_OUT[dead_end])
        stage.agent = Agent("agent", "scripted:play", tools=[lose, beg, nowhere], limits=limits)
        process = await stage.start()
        if dead_end == "paused":
            await stage.on(process, lambda engine: engine.session("s", stage.agent))
            await stage.with_session(process, lambda s: s.pause())
            await stage.until(lambda s: s.paused)
        await stage.say(process, "go")
        state = await stage.still()
        for action in state.actions.values():
            what: e.Decision = "deny" if action.kind == "approve" else "failed"
            await decide(stage, Decide(action.id, what, "anna", "no"))
        if status(stage.state()) == "parked":
            await stage.with_session(process, lambda s: s.interrupt())
        await stage.still()
        assert status(stage.state()) in ("idle", "failed", "budget"), "and all three take messages"
        stage.plays()
        assert await stage.say(process, "and now?", key="k2")
        await stage.until(lambda s: s.turns == 2 and s.turn is None)

    scene()
