"""Tool calls that fail: how often they are tried again, and who hears of what remains."""

import asyncio
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from perdure import Retry
from perdure.core import events as e
from perdure.core.agent import EnvironmentSpec, Limits, OnError, RetryPolicy
from perdure.core.content import ResultItem
from perdure.core.errors import ErrorInfo, error_info
from perdure.core.inbox import Decide
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.errors import rows_of
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.models.scripted import Call, Reply
from perdure.ports.store import Batch
from perdure.ports.tool import OutcomeUnknown, ToolContext, ToolFailed, ToolOutput
from perdure.stores.faults import Faults
from perdure.testing.broken_errors import ForgetsAttempts, TriesOnceAgain
from perdure.testing.stage import Stage, play, staged
from perdure.tools.python import tool

THREE = Retry(attempts=3, base_s=2.0)
ONE_CALL = (Reply(call=(Call("work", {"n": 1}),)), Reply(text="done"))
EFFECTS = ("read", "idempotent", "contained", "once")


def passing(retry_after_s: float | None = None) -> ToolFailed:
    info = error_info(
        "E-BUSY", "tool", "come back later", retryable=True, retry_after_s=retry_after_s
    )
    return ToolFailed(info)


@dataclass
class Job:
    """A tool that fails `fails` times with `error`, and what it was seen to do."""

    stage: Stage
    effect: str = "read"
    fails: int = 2
    error: Exception | ErrorInfo = field(default_factory=passing)
    retry: RetryPolicy | None = THREE
    on_error: OnError = "model"
    limits: Limits = field(default_factory=Limits)
    tool_retry: RetryPolicy | None = None
    visits: list[float] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    done: int = 0

    def agent(self) -> Agent:
        async def work(n: int, ctx: ToolContext) -> str | ToolOutput:
            self.visits.append(self.stage.loop.time())
            self.keys.add(ctx.idempotency_key)
            if len(self.visits) <= self.fails:
                if isinstance(self.error, ErrorInfo):
                    return ToolOutput(self.error.message, error=self.error)
                raise self.error
            self.done += 1
            return f"worked {n}"

        made = tool(effect=self.effect, retry=self.retry, on_error=self.on_error)(work)
        return Agent(
            "agent",
            "scripted:play",
            tools=[made],
            limits=self.limits,
            environment=EnvironmentSpec(kind="sim"),
            tool_retry=self.tool_retry,
        )


async def runs(stage: Stage, job: Job) -> None:
    stage.plays(*ONE_CALL)
    stage.agent = job.agent()
    await stage.say(await stage.start(), "go")
    await stage.still()


def told_last(stage: Stage) -> ResultItem:
    found = [item for item in stage.last_request() if isinstance(item, ResultItem)]
    return found[-1]


def statuses(stage: Stage) -> list[str]:
    return [p.status for p in stage.payloads(e.ToolFinished)]


def identical(stage: Stage) -> None:
    """A replay of what was recorded writes the same bytes."""
    report = asyncio.run(replay(stage.world.events("s")))
    assert report.identical, str(report)


@pytest.mark.parametrize("effect", EFFECTS)
def test_what_can_pass_is_tried_again(effect: str) -> None:
    jobs: list[Job] = []

    async def scene(stage: Stage) -> None:
        jobs.append(Job(stage, effect))
        await runs(stage, jobs[0])
        assert statuses(stage) == ["retry", "retry", "ok"]
        assert told_last(stage).text == "worked 1"

    stage = play(scene)
    (job,) = jobs
    assert len(job.visits) == 3
    assert len(job.keys) == 1, "with the same key"
    first, second = (b - a for a, b in zip(job.visits, job.visits[1:], strict=False))
    assert 1.0 <= first <= 2.1 and 2.0 <= second <= 4.1, "doubling, with jitter"
    attempts = [p.attempt for p in stage.payloads(e.ToolStarted)]
    assert attempts == [1, 2, 3], "each attempt is in the journal"
    rows = rows_of("s", stage.world.events("s"))
    assert [(row.code, row.stopped) for row in rows] == [("E-BUSY", False)] * 2
    identical(stage)


@staged
async def test_what_the_tool_asks_for_is_waited(stage: Stage) -> None:
    job = Job(stage, fails=1, error=passing(retry_after_s=77.0))
    await runs(stage, job)
    assert 77.0 <= job.visits[1] - job.visits[0] < 78.0


@staged
async def test_without_a_policy_nothing_is_tried_again(stage: Stage) -> None:
    job = Job(stage, retry=None)
    await runs(stage, job)
    assert len(job.visits) == 1
    assert told_last(stage).is_error


@staged
async def test_the_agent_speaks_for_tools_that_say_nothing(stage: Stage) -> None:
    job = Job(stage, retry=None, tool_retry=THREE)
    await runs(stage, job)
    assert len(job.visits) == 3
    assert not told_last(stage).is_error


@pytest.mark.parametrize("error", [ConnectionResetError("cut off"), TimeoutError("too late")])
@pytest.mark.parametrize("effect", EFFECTS)
def test_a_lost_connection_can_pass_but_not_for_what_may_happen_once(
    error: Exception, effect: str
) -> None:
    async def scene(stage: Stage) -> None:
        job = Job(stage, effect, fails=1, error=error)
        await runs(stage, job)
        assert len(job.visits) == (1 if effect == "once" else 2)

    identical(play(scene))


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_tools_own_mistake_is_not_tried_again(effect: str) -> None:
    @staged
    async def scene(stage: Stage) -> None:
        job = Job(stage, effect, error=ValueError("no such thing"))
        await runs(stage, job)
        assert len(job.visits) == 1
        assert "no such thing" in told_last(stage).text

    scene()


@staged
async def test_an_unknown_outcome_is_never_tried_again(stage: Stage) -> None:
    job = Job(stage, "idempotent", error=OutcomeUnknown("who knows"))
    await runs(stage, job)
    assert len(job.visits) == 1
    assert status(stage.state()) == "waiting"


@pytest.mark.parametrize("effect", ["read", "contained", "once"])
@pytest.mark.parametrize("decision", ["rerun", "failed", "done"])
def test_a_person_hears_of_the_error_that_remains(effect: str, decision: e.Decision) -> None:
    async def scene(stage: Stage) -> None:
        job = Job(stage, effect, fails=3, on_error="ask")
        await runs(stage, job)
        assert statuses(stage) == ["retry", "retry", "held"]
        (action,) = stage.state().actions.values()
        assert "FAILED 3 times: E-BUSY: come back later" in action.question
        rows = rows_of("s", stage.world.events("s"))
        assert [row.stopped for row in rows] == [False, False, False, True]
        assert functools.reduce(lambda a, b: a.followed_by(b), rows).count == 3
        letter = Decide(action.id, decision, "anna", result="by hand")
        await stage.with_session(stage.processes[-1], lambda s: s.decide(letter))
        await stage.until(lambda s: s.turn is None)
        said = {"rerun": "worked 1", "failed": "E-BUSY: come back later", "done": "by hand"}
        assert told_last(stage).text == said[decision]
        assert len(job.visits) == (4 if decision == "rerun" else 3)

    identical(play(scene))


@staged
async def test_a_rerun_that_fails_again_is_asked_about_again(stage: Stage) -> None:
    job = Job(stage, fails=9, on_error="ask")
    await runs(stage, job)
    (action,) = stage.state().actions.values()
    letter = Decide(action.id, "rerun", "anna")
    await stage.with_session(stage.processes[-1], lambda s: s.decide(letter))
    await stage.until(lambda s: s.actions and action.id not in s.actions)
    assert len(job.visits) == 4, "one more, because a person said so"


def test_a_turn_fails_where_that_was_asked_for() -> None:
    async def scene(stage: Stage) -> None:
        job = Job(stage, fails=3, on_error="fail")
        await runs(stage, job)
        state = stage.state()
        assert status(state) == "failed"
        assert state.last_error is not None and state.last_error.code == "E-BUSY"
        assert len(stage.requests) == 1
        stopped = [row.stopped for row in rows_of("s", stage.world.events("s"))]
        assert stopped == [False, False, False, True], "it stops with its turn"

        async def resumes(session: Any) -> None:
            await session.resume()

        await stage.with_session(stage.processes[-1], resumes)
        await stage.still()
        assert told_last(stage).text == "come back later", "the model reads of it after all"

    identical(play(scene))


@staged
async def test_wrong_arguments_always_go_to_the_model(stage: Stage) -> None:
    job = Job(stage, on_error="fail")
    stage.plays(Reply(call=(Call("work", {"m": 1}),)), Reply(text="sorry"))
    stage.agent = job.agent()
    await stage.say(await stage.start(), "go")
    await stage.still()
    assert status(stage.state()) == "idle"
    assert not job.visits
    assert "E-TOOL-ARGUMENTS" in told_last(stage).text


@staged
async def test_the_turns_time_holds_while_a_retry_is_waited_for(stage: Stage) -> None:
    job = Job(stage, error=passing(retry_after_s=900.0), limits=Limits(wall_s=60.0))
    await runs(stage, job)
    assert status(stage.state()) == "budget"
    assert len(job.visits) == 1
    ended = stage.state().updated_at_us - stage.state().created_at_us
    assert ended < 70_000_000, "and it is not waited for in vain"


@staged
async def test_an_interrupt_ends_the_waiting(stage: Stage) -> None:
    job = Job(stage, "once", error=passing(retry_after_s=900.0))
    stage.plays(*ONE_CALL)
    stage.agent = job.agent()
    process = await stage.start()
    await stage.say(process, "go")
    await stage.happens(lambda: job.visits)
    await stage.with_session(process, lambda s: s.interrupt())
    await stage.happens(lambda: stage.state().turn is None)
    last = stage.payloads(e.ToolFinished)[-1]
    assert last.status == "cancelled" and "after this call had failed" in last.text


def test_what_others_did_meanwhile_is_kept_when_a_contained_call_is_tried_again() -> None:
    async def scene(stage: Stage) -> None:
        @tool(effect="contained", retry=THREE)
        async def spoil(ctx: ToolContext) -> str:
            await ctx.sandbox.run(json.dumps([["append", "half", "x"]]))
            if ctx.attempt == 1:
                raise passing()
            return "not spoilt"

        @tool(effect="contained")
        async def build(ctx: ToolContext) -> str:
            await ctx.sandbox.run(json.dumps([["append", "whole", "x"]]))
            return "built"

        stage.plays(Reply(call=(Call("spoil"), Call("build"))), Reply(text="done"))
        where = EnvironmentSpec(kind="sim")
        stage.agent = Agent("agent", "scripted:play", tools=[spoil, build], environment=where)
        await stage.say(await stage.start(), "go")
        await stage.still()
        results = [i.text for i in stage.last_request() if isinstance(i, ResultItem)]
        assert sorted(results) == ["built", "not spoilt"]
        files = stage.world.workspaces["s"]
        assert files == {"half": "x", "whole": "x"}, "taken back once, and nothing else with it"

    identical(play(scene))


# Crashes


class DieAt(Faults):
    """Kills the process at the commit that carries event `seq`: before or after it."""

    def __init__(self, stage: Stage, seq: int, *, after: bool) -> None:
        self._stage, self._seq, self._after = stage, seq, after

    def before_commit(self, batches: Sequence[Batch]) -> None:
        if not self._after:
            self._look(batches)

    def after_commit(self, batches: Sequence[Batch]) -> None:
        if self._after:
            self._look(batches)

    def _look(self, batches: Sequence[Batch]) -> None:
        if any(self._seq == r.seq for batch in batches for r in batch.records):
            self._stage.kill(self._stage.processes[0])


def crashed_at(
    seq: int, effect: str, *, after: bool, engine: type[Engine] = Engine
) -> tuple[Stage, Job]:
    """Play a call that fails twice, in a process that dies at event `seq`."""
    jobs: list[Job] = []

    async def scene(stage: Stage) -> None:
        job = Job(stage, effect, fails=99)
        jobs.append(job)
        stage.engine_type = engine
        stage.plays(*ONE_CALL)
        stage.agent = job.agent()
        first = await stage.start(DieAt(stage, seq, after=after))
        try:
            await stage.say(first, "go")
            await stage.until(lambda s: not first.alive or (s.turns and s.turn is None))
        except Exception:  # noqa: BLE001  # it died while it was spoken to
            assert not first.alive
        if not first.alive:
            await stage.say(await stage.start(), "go")
        await stage.until(lambda s: s.actions or (s.turns and s.turn is None))

    return play(scene), jobs[0]


def check(stage: Stage, job: Job) -> None:
    """What must hold wherever the process died."""
    started = len(stage.payloads(e.ToolStarted))
    lost = 1 if job.effect == "read" else 0  # a read does not wait until it is written down
    assert len(job.visits) <= started + lost, "an effect that no journal knows of"
    most = THREE.attempts + len(stage.processes) - 1
    assert len(job.visits) <= most, "a crash gives no call more than one attempt"
    if job.effect == "once":
        told = statuses(stage)
        failed = told.count("retry") + told.count("error")
        assert len(job.visits) <= failed + told.count("unknown"), "run again without being sure"


CRASHES = [(seq, after) for seq in range(3, 17) for after in (False, True)]


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_crash_at_any_event_gives_no_call_more_attempts(effect: str) -> None:
    died = 0
    for seq, after in CRASHES:
        stage, job = crashed_at(seq, effect, after=after)
        check(stage, job)
        identical(stage)
        died += len(stage.processes) > 1
    assert died >= 10, "the crashes did happen"


def test_an_engine_that_tries_a_once_call_again_is_caught() -> None:
    jobs: list[Job] = []

    async def scene(stage: Stage) -> None:
        # It could pass, but nobody says that nothing happened.
        unsure = error_info("E-UNSURE", "tool", "the line broke", retryable=True)
        jobs.append(Job(stage, "once", fails=99, error=unsure))
        await runs(stage, jobs[-1])

    async def broken(stage: Stage) -> None:
        stage.engine_type = TriesOnceAgain
        await scene(stage)

    play(scene)
    assert len(jobs[-1].visits) == 1
    play(broken)
    assert len(jobs[-1].visits) == 3, "the broken engine is told apart"


def test_an_engine_that_forgets_its_attempts_over_a_crash_is_caught() -> None:
    caught = 0
    for seq, after in CRASHES:
        try:
            stage, job = crashed_at(seq, "read", after=after, engine=ForgetsAttempts)
            check(stage, job)
        except AssertionError:
            caught += 1
    assert caught
