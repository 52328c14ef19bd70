"""The inbox: whatever is posted, whenever it is taken, becomes events that the journal accepts."""

import pytest
from hypothesis import given, settings, strategies as st

from perdure.core import events as e
from perdure.core.agent import Effect, Verdict
from perdure.core.codec import Reader, encode
from perdure.core.content import Text, ToolCall
from perdure.core.events import Event, Payload
from perdure.core.evolve import evolve, fold
from perdure.core.inbox import Decide, Late, Post, Put, Say, Update, accept
from perdure.core.state import Phase
from perdure.core.step import Step, next_step
from tests.core.values import WALKS, event_of, journal, struct_of

POSTS: st.SearchStrategy[Post] = st.one_of(*(struct_of(t) for t in (Say, Late, Update, Put)))
DECISIONS = struct_of(Decide)


@given(WALKS, POSTS | DECISIONS, st.data())
@settings(max_examples=300, deadline=None)
def test_every_letter_leaves_a_trace_that_folds(
    events: list[Event], post: Post, data: st.DataObject
) -> None:
    state = fold(events)
    if isinstance(post, Decide) and state.actions:
        action = data.draw(st.sampled_from(sorted(state.actions)))
        seen = data.draw(st.sampled_from([state.actions[action].digest, "", "other"]))
        post = Decide(action, post.decision, "anna", seen=seen, arguments=post.arguments)
    taken = accept(state, post, "key")
    assert taken
    for payload in taken:
        state = evolve(state, event_of(state, payload))
        assert isinstance(next_step(state), Step)


@given(POSTS | DECISIONS)
@settings(deadline=None)
def test_a_letter_survives_a_round_trip(post: Post) -> None:
    assert encode(Reader[Post](Post).read(encode(post))) == encode(post)


CALL = ToolCall("t1.1", "once", "{}")
BEFORE: tuple[Payload, ...] = (
    e.InputAccepted("message", (Text("go"),), "k"),
    e.TurnStarted(2),
    e.ModelRequested("scripted:play"),
    e.ModelResponded("ok", (CALL,)),
)
ASKING = (
    *BEFORE,
    e.ToolRequested("t1.1", "once", Effect.ONCE, Verdict.ASK, "shown"),
    e.ActionRequested("a1", "approve", "t1.1", "?", "shown"),
)
LOST = (
    *BEFORE,
    e.ToolRequested("t1.1", "once", Effect.ONCE, Verdict.ALLOW, "shown"),
    e.ToolStarted("t1.1", 1, 1),
    e.ToolFinished("t1.1", "unknown"),
    e.ActionRequested("a1", "resolve", "t1.1", "?", "shown"),
)


def taken(before: tuple[Payload, ...], post: Post) -> list[str]:
    return [e.type_of(p) for p in accept(fold(journal(*before)), post, "key")]


@pytest.mark.parametrize(
    ("before", "post", "events"),
    [
        (ASKING, Decide("a1", "allow", "anna", seen="shown"), ["action.resolved"]),
        (ASKING, Decide("a1", "allow", "anna", seen="something else"), ["note.recorded"]),
        (ASKING, Decide("a1", "rerun", "anna"), ["note.recorded"]),
        (ASKING, Decide("a1", "expired", "anna"), ["note.recorded"]),
        (ASKING, Decide("a9", "allow", "anna"), ["note.recorded"]),
        (LOST, Decide("a1", "done", "anna", result="seen"), ["action.resolved"]),
        (LOST, Decide("a1", "allow", "anna"), ["note.recorded"]),
        (LOST, Late("t1.1", 1, "ok", "here it is"), ["tool.late_result", "action.resolved"]),
        (LOST, Late("t1.1", 2, "ok", "another attempt's"), ["tool.late_result"]),
        (LOST, Late("t1.1", 1, "unknown", "no news"), ["tool.late_result"]),
        (BEFORE, Late("t1.1", 1, "ok", "too early"), ["tool.late_result"]),
        ((e.SessionClosed(),), Say("message"), ["note.recorded"]),
        ((e.SessionClosed(),), Update(e.SessionUpdated()), ["note.recorded"]),
        ((e.SessionClosed(),), Late("t1.1", 1, "ok"), ["tool.late_result"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, list) else type(value).__name__,
)
def test_what_a_letter_becomes(before: tuple[Payload, ...], post: Post, events: list[str]) -> None:
    assert taken(before, post) == events


def test_the_second_of_two_decisions_finds_nothing_to_decide() -> None:
    state = fold(journal(*ASKING))
    (first,) = accept(state, Decide("a1", "allow", "anna"), "k1")
    state = evolve(state, event_of(state, first))
    (second,) = accept(state, Decide("a1", "deny", "bert"), "k2")
    assert isinstance(second, e.NoteRecorded)
    assert "'bert' refused" in second.text
    assert state.open_calls[0].phase is Phase.READY
