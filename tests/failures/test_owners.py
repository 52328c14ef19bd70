"""What may not happen between processes and to those who wait for them: scenarios 13, 15, 17, 18
and 22 to 24 of the list of failures. Time is virtual, so an hour costs nothing.
"""

import asyncio

from perdure.core import events as e
from perdure.core.agent import Limits, RetryPolicy
from perdure.core.content import ResultItem
from perdure.core.events import Event
from perdure.core.inbox import Say
from perdure.engine.agent import Agent
from perdure.engine.hub import Follower
from perdure.engine.kit import Bounds
from perdure.engine.session import Session
from perdure.models.scripted import Call, Failure, Reply
from perdure.testing.faults import Process
from perdure.testing.stage import Stage, staged
from perdure.tools.python import tool

HOUR_S = 3600.0


def jump(stage: Stage, seconds: float) -> None:
    """Let the wall clock jump; the monotonic one does not notice."""
    stage.world.clock_offset_us += int(seconds * 1_000_000)


async def resume(stage: Stage, process: Process, key: str) -> None:
    await stage.with_session(process, lambda s: s.post(Say("resume"), key))


@staged
async def test_failure_13_two_that_resume_one_session_do_it_once(stage: Stage) -> None:
    visits: list[str] = []

    @tool
    async def pay() -> str:
        visits.append("pay")
        await stage.passes(100)
        return "paid"

    down = Reply(error=Failure("auth", times=99))
    stage.plays(down)
    stage.agent = Agent("agent", "scripted:play", tools=[pay])
    await stage.say(await stage.start(), "go")
    await stage.until(lambda s: s.last_status == "failed")
    await stage.end(stage.processes[0])
    stage.plays(Reply(call=(Call("pay"),)), Reply(text="done"))
    first, second = await stage.start(), await stage.start()
    await asyncio.gather(resume(stage, first, "r1"), resume(stage, second, "r2"))
    await stage.until(lambda s: s.last_status == "completed")
    assert visits == ["pay"]
    assert len(stage.payloads(e.TurnStarted)) == 2, "one that failed, one that was resumed"
    assert not stage.payloads(e.SessionRecovered), "nobody took it from a living owner"


@staged
async def test_failure_15_a_tool_may_take_a_day_and_is_not_run_again(stage: Stage) -> None:
    visits: list[str] = []

    @tool(effect="idempotent", timeout_s=2 * 24 * HOUR_S)
    async def bake() -> str:
        visits.append("bake")
        await stage.passes(24 * HOUR_S)
        return "baked"

    stage.plays(Reply(call=(Call("bake"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[bake], limits=Limits(wall_s=None))
    await stage.say(await stage.start(), "go")
    await stage.happens(lambda: visits)
    other = await stage.start()
    for number in range(10):  # the other process tries for it, again and again
        await stage.passes(HOUR_S)
        await resume(stage, other, f"r{number}")
    await stage.until(lambda s: s.last_status == "completed")
    assert visits == ["bake"]
    assert not stage.payloads(e.SessionRecovered)


@staged
async def test_failure_17_work_that_does_not_move_has_an_end(stage: Stage) -> None:
    @tool(effect="read", timeout_s=60)
    async def stuck() -> str:
        await stage.passes(10**9)
        return "never"

    stage.plays(Reply(call=(Call("stuck"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[stuck])
    began = stage.loop.time()
    await stage.say(await stage.start(), "go")
    await stage.until(lambda s: s.last_status == "completed")
    assert stage.loop.time() - began < 100
    (result,) = [i for i in stage.last_request() if isinstance(i, ResultItem)]
    assert "60" in result.text, "the model reads that time was up"
    (done,) = stage.payloads(e.ToolFinished)
    assert (done.status, done.error is not None) == ("error", True)


@staged
async def test_failure_18_a_letter_whose_sender_died_is_read_soon(stage: Stage) -> None:
    stage.plays(Reply(text="one"), Reply(text="two"))
    stage.bounds = Bounds(poll_s=5.0, idle_s=10 * HOUR_S)
    owner = await stage.start()
    await stage.say(owner, "go")
    await stage.still()
    sender = await stage.start()
    began = stage.loop.time()
    await stage.say(sender, "again", key="k2")
    stage.kill(sender)  # whatever it wanted to tell the owner, it does not
    await stage.happens(lambda: stage.state().turns == 2)
    assert stage.loop.time() - began < 3 * stage.bounds.poll_s


@staged
async def test_failure_22_a_reader_in_another_process_misses_nothing(stage: Stage) -> None:
    @tool(effect="read")
    async def look(n: int) -> str:
        return f"seen {n}"

    calls = tuple(Call("look", {"n": n}) for n in range(8))
    stage.plays(*(Reply(call=calls) for _ in range(6)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[look])
    owner, reader = await stage.start(), await stage.start()
    await stage.say(owner, "go")
    seen: list[int] = []

    async def read() -> None:
        """Read in pieces: each time from the cursor on."""
        while "turn.ended" not in {ev.type for ev in stage.world.events("s")[: len(seen)]}:
            await stage.with_session(reader, _three)

    async def _three(session: Session) -> None:
        items = session.follow(seen[-1] if seen else 0)
        async for item in items:
            if isinstance(item, Event):
                seen.append(item.seq)
                if len(seen) % 3 == 0 or item.type == "turn.ended":
                    break
        await items.aclose()

    await read()
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > 100


@staged
async def test_failure_23_a_reader_that_sleeps_costs_no_memory_and_misses_nothing(
    stage: Stage,
) -> None:
    @tool(effect="read")
    async def look(n: int) -> str:
        return f"seen {n}"

    calls = tuple(Call("look", {"n": n}) for n in range(10))
    stage.plays(*(Reply(call=calls, text="looking " * 50) for _ in range(8)), Reply(text="done"))
    stage.bounds = Bounds(poll_s=5.0, follower_backlog=7)
    stage.agent = Agent("agent", "scripted:play", tools=[look])
    process = await stage.start()
    await stage.say(process, "go")
    seen: list[int] = []

    async def read(session: Session) -> int:
        most = 0
        async for item in session.follow():
            if not isinstance(item, Event):
                continue
            seen.append(item.seq)
            if len(seen) == 2:
                await stage.until(lambda s: s.last_status == "completed")
                hub = stage.processes[0].running.hub
                most = max(len(f._items) for f in hub._followers["s"])
            if item.type == "turn.ended":
                break
        return most

    most = await stage.with_session(process, read)
    assert 0 < most <= 7, "what was published meanwhile is read from the journal, not from memory"
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > 150


def test_failure_23_a_backlog_is_bounded() -> None:
    follower = Follower(5)
    for seq in range(1, 1000):
        follower.put(Event(seq, f"{seq}", 0, 0, e.NoteRecorded("x")))
        assert len(follower._items) <= 5


@staged
async def test_failure_24_a_clock_that_goes_back_does_not_stop_the_work(stage: Stage) -> None:
    stage.plays(Reply(text="done", error=Failure("rate_limited", times=2, retry_after_s=40)))
    stage.agent = Agent("agent", "scripted:play", retry=RetryPolicy(attempts=5, cap_s=60))
    began = stage.loop.time()
    await stage.say(await stage.start(), "go")
    await stage.happens(lambda: len(stage.payloads(e.ModelResponded)) == 1)
    jump(stage, -24 * HOUR_S)
    await stage.until(lambda s: s.last_status == "completed")
    assert 80 <= stage.loop.time() - began < 400, "neither a day late, nor before it was asked to"


@staged
async def test_failure_24_a_clock_that_goes_ahead_makes_nothing_happen_twice(stage: Stage) -> None:
    visits: list[str] = []

    @tool
    async def pay() -> str:
        visits.append("pay")
        jump(stage, 24 * HOUR_S)
        await stage.passes(100)
        return "paid"

    stage.plays(Reply(call=(Call("pay"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[pay], limits=Limits(wall_s=None))
    await stage.say(await stage.start(), "go")
    other = await stage.start()
    await stage.happens(lambda: visits)
    await resume(stage, other, "r")
    await stage.until(lambda s: s.last_status == "completed")
    assert visits == ["pay"]
    assert not stage.payloads(e.SessionRecovered), "no clock decides who owns a session"
