"""The transcript: what a strict vendor accepts, in an order that no crash changes."""

from hypothesis import given, settings

from perdure.core import events as e, step as due
from perdure.core.agent import Effect, Verdict
from perdure.core.content import ModelItem, ResultItem, Text, ToolCall, UserItem, text_of
from perdure.core.context import Transcript
from perdure.core.events import Event, Payload
from perdure.core.evolve import evolve
from perdure.core.state import State
from perdure.core.step import next_step
from perdure.testing.sim_model import what_is_wrong
from tests.core.values import WALKS, journal


def said(text: str, kind: e.InputKind = "message") -> Payload:
    return e.InputAccepted(kind, (Text(text),), text)


def shown(events: list[Event]) -> list[str]:
    """Return the transcript in short: who said what."""
    found = []
    for item in Transcript(events).items:
        match item:
            case UserItem(content):
                found.append(f"user {text_of(content)}")
            case ModelItem(items=items):
                found.append(
                    "model " + " ".join(getattr(i, "text", getattr(i, "id", "")) for i in items)
                )
            case ResultItem(call_id=call_id, text=text):
                found.append(f"{call_id} {text}")
    return found


CALL = ToolCall("t1.1", "read", "{}", "v1")
START = (said("go"), e.TurnStarted(2), e.ModelRequested("scripted:play"))
CALLED = (*START, e.ModelResponded("ok", (Text("wait"), CALL)))
READY = e.ToolRequested("t1.1", "read", Effect.READ, Verdict.ALLOW, "d")
STARTED = (*CALLED, READY, e.ToolStarted("t1.1", 1, 1))


def test_a_steer_never_comes_between_a_call_and_its_result() -> None:
    steer = said("faster", "steer")
    events = journal(*STARTED, steer, e.ToolFinished("t1.1", "ok", "seen"))
    assert shown(events) == ["user go", "model wait t1.1", "t1.1 seen"]
    done = e.ToolFinished("t1.1", "ok", "seen")
    asked = journal(*STARTED, steer, done, e.ModelRequested("m:x", steers=(8,)))
    assert shown(asked)[-1] == "user faster"


def test_a_message_enters_with_its_turn() -> None:
    assert shown(journal(said("one"), said("two"), e.TurnStarted(2))) == ["user one"]


def test_only_a_finished_reply_joins() -> None:
    torn = e.ModelResponded("incomplete", partial="half a sen", error=None, retry_at_us=1)
    again = (e.ModelRequested("scripted:play", 2), e.ModelResponded("ok", (Text("whole"),)))
    assert shown(journal(*START, torn, *again)) == ["user go", "model whole"]


def test_an_unknown_outcome_is_no_result_until_somebody_decides() -> None:
    unknown = journal(*STARTED, e.ToolFinished("t1.1", "unknown"))
    assert shown(unknown) == ["user go", "model wait t1.1"]
    cancelled = e.ToolFinished("t1.1", "cancelled", "stopped")
    decided = journal(*STARTED, e.ToolFinished("t1.1", "unknown"), cancelled)
    assert shown(decided)[-1] == "t1.1 stopped"
    (*_, result) = Transcript(decided).items
    assert isinstance(result, ResultItem)
    assert (result.is_error, result.vendor_id) == (True, "v1")


@given(WALKS)
@settings(deadline=None)
def test_whenever_the_model_is_due_a_vendor_would_take_what_it_is_sent(events: list[Event]) -> None:
    state, transcript = State(), Transcript()
    for event in events:
        state = evolve(state, event)
        transcript.apply(event)
        if isinstance(event.payload, e.ModelRequested):
            wrong = [w for w in what_is_wrong(tuple(transcript.items)) if "nothing" not in w]
            assert not wrong
        assert not (isinstance(next_step(state), due.CallModel) and state.open_calls)


@given(WALKS)
@settings(max_examples=50, deadline=None)
def test_it_is_the_same_however_it_is_built(events: list[Event]) -> None:
    half = Transcript(events[: len(events) // 2])
    for event in events[len(events) // 2 :]:
        half.apply(event)
    whole = Transcript(events)
    assert half.items == whole.items
    assert (half.seq, half.fresh_bytes) == (whole.seq, whole.fresh_bytes)
