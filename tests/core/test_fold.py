"""The fold: every prefix of a journal is a state; what cannot follow is refused by name."""

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from perdure.core import events as e
from perdure.core.agent import Verdict
from perdure.core.codec import decode, encode
from perdure.core.content import Text, ToolCall, Usage
from perdure.core.errors import CorruptJournal
from perdure.core.events import EVENT_TYPES, Event, Payload
from perdure.core.evolve import evolve, fold
from perdure.core.state import Phase, State
from perdure.core.step import Step, next_step, status
from tests.core.values import PAYLOADS, SPEC, WALKS, event_of, journal, walk


@given(WALKS)
@settings(deadline=None)
def test_every_prefix_folds_and_has_a_next_step(events: list[Event]) -> None:
    state = State()
    for event in events:
        state = evolve(state, event)
        assert isinstance(next_step(state), Step)
        assert status(state)
    assert state == fold(events)


@given(WALKS)
@settings(max_examples=30, deadline=None)
def test_a_cached_state_goes_on_like_the_journal(events: list[Event]) -> None:
    half = len(events) // 2
    cached = decode(encode(fold(events[:half])), State)
    assert encode(fold(events[half:], cached)) == encode(fold(events))


@given(WALKS, PAYLOADS)
@settings(max_examples=300, deadline=None)
def test_anything_may_come_and_only_what_may_follow_is_taken(
    events: list[Event], payload: Payload
) -> None:
    state = fold(events)
    before = encode(state)
    event = event_of(state, payload)
    try:
        assert isinstance(next_step(evolve(state, event)), Step)
    except CorruptJournal as error:
        refusal = str(error)
    else:
        refusal = f"Event {event.seq} ({event.type})"
    assert f"Event {event.seq} ({event.type})" in refusal
    assert encode(state) == before, "a state is never changed"


def test_the_walks_meet_every_type() -> None:
    met = {event.type for seed in range(200) for event in walk(seed)}
    # A fork and a rewind need another past beside the events: tests/core/test_timeline.py.
    assert met == set(EVENT_TYPES) - {"session.forked", "session.rewound"}


def refused(events: list[Event], payload: Payload) -> str:
    with pytest.raises(CorruptJournal) as caught:
        evolve(fold(events), event_of(fold(events), payload))
    return caught.value.message


CALL = ToolCall("t1.1", "once", "{}")
TURN = (e.InputAccepted("message", (Text("go"),), "k"), e.TurnStarted(2))
ASKED = (*TURN, e.ModelRequested("scripted:play"))
CALLED = (*ASKED, e.ModelResponded("ok", (CALL,), usage=Usage(10, 5)))
READY = (*CALLED, e.ToolRequested("t1.1", "once", SPEC.tools[3].effect, Verdict.ALLOW, "d"))
STARTED = (*READY, e.ToolStarted("t1.1", 1, 1))

ORDERS: list[tuple[tuple[Payload, ...], Payload]] = [
    ((), e.SessionCreated("again", SPEC)),
    ((), e.TurnStarted(7)),
    ((), e.TurnEnded("completed")),
    ((), e.ModelRequested("scripted:play")),
    ((), e.ToolStarted("t1.1", 1, 1)),
    ((), e.SessionRecovered(1, 2)),
    ((), e.ActionResolved("a1", "allow")),
    (TURN, e.TurnStarted(2)),
    (TURN, e.ModelResponded("ok")),
    (TURN, e.ModelRequested("scripted:play", steers=(2,))),
    (TURN, e.SessionClosed()),
    (ASKED, e.ModelRequested("scripted:play")),
    (ASKED, e.TurnEnded("completed")),
    (ASKED, e.ModelResponded("ok", (CALL, CALL))),
    (CALLED, e.TurnEnded("completed")),
    (CALLED, e.ModelRequested("scripted:play")),
    (CALLED, e.ToolStarted("t1.1", 1, 1)),
    (CALLED, e.ToolFinished("t1.1", "ok")),
    (CALLED, e.ToolFinished("t9.9", "ok")),
    (READY, e.ToolStarted("t1.1", 2, 1)),
    (READY, e.ToolFinished("t1.1", "denied")),
    (READY, e.ToolFinished("t1.1", "unknown")),
    (STARTED, e.ToolRequested("t1.1", "once", SPEC.tools[3].effect, Verdict.ALLOW, "d")),
    (STARTED, e.ToolStarted("t1.1", 3, 1)),
    (STARTED, e.ToolFinished("t1.1", "denied")),
    ((*STARTED, e.ToolFinished("t1.1", "ok")), e.ToolFinished("t1.1", "ok")),
    ((e.SessionClosed(),), e.InputAccepted("message")),
]


@pytest.mark.parametrize(
    ("before", "payload"), ORDERS, ids=lambda x: getattr(type(x), "__name__", "")
)
def test_what_cannot_follow_is_refused_by_name(
    before: tuple[Payload, ...], payload: Payload
) -> None:
    events = journal(*before)
    assert f"Event {len(events) + 1} (" in refused(events, payload)


def test_a_seq_that_does_not_follow_is_refused() -> None:
    events = journal()
    with pytest.raises(CorruptJournal, match="Event 3 "):
        evolve(fold(events), Event(3, "x", 1, 0, e.NoteRecorded("gap")))


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(CorruptJournal, match="newer than"):
        evolve(State(), event_of(State(), e.SessionCreated("s", SPEC, format=e.FORMAT + 1)))


def test_a_rerun_starts_again_under_the_same_permit() -> None:
    lost = (*STARTED, e.ToolFinished("t1.1", "unknown"))
    asked = (*lost, e.ActionRequested("a1", "resolve", "t1.1", "?", "d"))
    state = fold(journal(*asked, e.ActionResolved("a1", "rerun", digest="d")))
    (call,) = state.open_calls
    assert (call.phase, call.attempt, call.approved) == (Phase.READY, 1, "d")


def test_edited_arguments_take_the_call_and_its_digest_with_them() -> None:
    asking = (*CALLED, e.ToolRequested("t1.1", "once", SPEC.tools[3].effect, Verdict.ASK, "d"))
    asked = (*asking, e.ActionRequested("a1", "approve", "t1.1", "?", "d"))
    allowed = e.ActionResolved("a1", "allow", "anna", "edited", arguments='{"n":2}')
    (call,) = fold(journal(*asked, allowed)).open_calls
    assert (call.call.arguments, call.digest, call.approved) == ('{"n":2}', "edited", "edited")


def test_values_of_the_application_come_and_go() -> None:
    put, gone = e.StateSet("k", msgspec.Raw(b"[1]")), e.StateSet("k", msgspec.Raw(b"null"))
    assert bytes(fold(journal(put)).values["k"]) == b"[1]"
    assert not fold(journal(put, gone)).values


@given(st.integers(0, 5))
def test_a_resume_is_dropped_when_nothing_is_owed_any_more(count: int) -> None:
    owing = (*ASKED, e.ModelResponded("error", error=None), e.TurnEnded("failed"))
    resumes = tuple(e.InputAccepted("resume", key=f"r{i}") for i in range(count))
    state = fold(journal(*owing, *resumes))
    assert len(state.queue) == count
    if count:
        answered = (
            e.TurnStarted(state.queue[0].seq),
            e.ModelRequested("scripted:play"),
            e.ModelResponded("ok", (Text("there"),)),
            e.TurnEnded("completed"),
        )
        assert not fold(journal(*owing, *resumes, *answered)).queue
