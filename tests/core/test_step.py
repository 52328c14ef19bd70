"""What is due: one answer for every state, and the same one after a crash."""

import pytest
from msgspec.structs import replace

from perdure.core import events as e, step as due
from perdure.core.agent import Effect, Limits, Verdict
from perdure.core.content import Text, ToolCall
from perdure.core.events import Payload
from perdure.core.evolve import fold
from perdure.core.step import next_step, status
from tests.core.values import ERROR, SPEC, journal

HI: tuple[Payload, ...] = (e.InputAccepted("message", (Text("hi"),), "k"),)
TURN = (*HI, e.TurnStarted(2))
ASKED = (*TURN, e.ModelRequested("scripted:play"))
SAID = (*ASKED, e.ModelResponded("ok", (Text("there"),)))
CALLS = (ToolCall("t1.1", "once", "{}"), ToolCall("t1.2", "read", "{}"))
CALLED = (*ASKED, e.ModelResponded("ok", CALLS))


def requested(call_id: str, verdict: Verdict, effect: Effect = Effect.ONCE) -> Payload:
    return e.ToolRequested(call_id, "once", effect, verdict, "d")


ASKING = (
    *CALLED,
    requested("t1.1", Verdict.ASK),
    e.ActionRequested("a1", "approve", "t1.1", "?", "d", expires_at_us=99),
    requested("t1.2", Verdict.ALLOW),
)
STARTED = (*ASKING, e.ToolStarted("t1.2", 1, 1))
DONE = (*STARTED, e.ToolFinished("t1.2", "ok"))
UNKNOWN = (*STARTED, e.ToolFinished("t1.2", "unknown"))

RUNS = "running"

CASES: list[tuple[str, tuple[Payload, ...], type, str]] = [
    ("nothing to do", (), due.Rest, "idle"),
    ("a message waits", HI, due.BeginTurn, RUNS),
    ("a turn has begun", TURN, due.CallModel, RUNS),
    ("the model was asked and its process died", ASKED, due.RecoverModel, RUNS),
    ("the model answered", SAID, due.EndTurn, RUNS),
    ("the turn is over", (*SAID, e.TurnEnded("completed")), due.Rest, "idle"),
    ("calls were proposed", CALLED, due.RequestTools, RUNS),
    ("one may run and one is asked about", ASKING, due.RunTools, RUNS),
    ("a call left and its process died", STARTED, due.RecoverTools, RUNS),
    ("only people can go on", DONE, due.Ask, "waiting"),
    ("a question was lost", UNKNOWN, due.Ask, "waiting"),
    (
        "refused calls are answered for",
        (*DONE, e.ActionResolved("a1", "deny")),
        due.Settle,
        "running",
    ),
    ("interrupted", (*DONE, e.InputAccepted("interrupt")), due.EndTurn, RUNS),
    (
        "interrupted in a model call",
        (*ASKED, e.InputAccepted("interrupt")),
        due.RecoverModel,
        "running",
    ),
    ("paused", (*TURN, e.InputAccepted("pause")), due.Rest, "paused"),
    ("parked", (*TURN, e.SessionParked(ERROR)), due.Rest, "parked"),
    (
        "resumed",
        (*TURN, e.SessionParked(ERROR), e.InputAccepted("resume")),
        due.CallModel,
        "running",
    ),
    ("closed", (e.SessionClosed(),), due.Rest, "closed"),
    ("failed for good", (*ASKED, e.ModelResponded("error", error=ERROR)), due.EndTurn, RUNS),
    ("a failed turn is over", (*TURN, e.TurnEnded("failed", ERROR)), due.Rest, "failed"),
    ("out of money", (*TURN, e.TurnEnded("budget", ERROR)), due.Rest, "budget"),
]


@pytest.mark.parametrize(
    ("name", "payloads", "step", "word"), CASES, ids=[case[0] for case in CASES]
)
def test_what_is_due(name: str, payloads: tuple[Payload, ...], step: type, word: str) -> None:
    state = fold(journal(*payloads))
    assert isinstance(next_step(state), step)
    assert status(state) == word


def test_a_question_lost_before_it_was_written_is_put_again() -> None:
    lost = (*CALLED, requested("t1.1", Verdict.ASK), requested("t1.2", Verdict.DENY))
    told = (*lost, e.ToolFinished("t1.2", "denied"))
    step = next_step(fold(journal(*told)))
    assert isinstance(step, due.RecoverTools)
    assert [c.call.id for c in step.calls] == ["t1.1"]


def test_an_open_call_is_never_simply_run_again() -> None:
    step = next_step(fold(journal(*STARTED)))
    assert isinstance(step, due.RecoverTools)
    assert [c.call.id for c in step.calls] == ["t1.2"]


def test_a_retry_says_when() -> None:
    failed = e.ModelResponded("error", error=ERROR, retry_at_us=77)
    assert next_step(fold(journal(*ASKED, failed))) == due.CallModel(77)


def test_the_first_expiry_is_named() -> None:
    step = next_step(fold(journal(*DONE)))
    assert isinstance(step, due.Ask)
    assert step.until_us == 99


@pytest.mark.parametrize(
    ("limits", "code"), [(Limits(steps=1), "STEPS"), (Limits(tool_calls=1), "TOOL_CALLS")]
)
def test_a_limit_ends_the_turn_before_it_is_passed(limits: Limits, code: str) -> None:
    tight = e.SessionUpdated(agent=replace(SPEC, limits=limits))
    done = (*CALLED, requested("t1.1", Verdict.ALLOW), requested("t1.2", Verdict.ALLOW))
    if code == "STEPS":
        ends = (e.ToolStarted("t1.1", 1, 1), e.ToolFinished("t1.1", "ok"))
        done = (*done, *ends, e.ToolStarted("t1.2", 1, 1), e.ToolFinished("t1.2", "ok"))
    step = next_step(fold(journal(*done, tight)))
    assert isinstance(step, due.EndTurn)
    assert (step.status, step.error and step.error.code) == ("budget", f"E-LIMIT-{code}")
