"""Rewinds and forks as the fold sees them: what counts, what is in question, what never returns."""

from random import Random

import pytest

from perdure.core import events as e
from perdure.core.agent import Effect, Verdict
from perdure.core.content import Text, ToolCall, Usage, UserItem, text_of
from perdure.core.context import Transcript
from perdure.core.errors import CorruptJournal
from perdure.core.events import Event
from perdure.core.evolve import fold
from perdure.core.state import Phase, State
from perdure.core.step import next_step, status
from perdure.core.timeline import effective, left_since
from perdure.engine.work import key_of
from tests.core.histories import Drawn, History, interrupted


def turn_of(state: State) -> dict[str, Phase]:
    return {c.call.id: c.phase for c in state.open_calls}


def said(events: list[Event]) -> list[str]:
    items = Transcript(effective(events)).items
    return [text_of(i.content) for i in items if isinstance(i, UserItem)]


def at_a_call(effect: Effect, verdict: Verdict = Verdict.ALLOW) -> History:
    """A session whose first call was decided on and has not left."""
    history = History("s").message("one").begin().replies("t")
    return history.request("t1.1", effect, verdict)


def one_turn(history: History, text: str) -> History:
    history.message(text).begin().replies()
    return history.add(e.TurnEnded("completed"))


@pytest.fixture(params=range(40), ids=lambda seed: f"seed{seed}")
def family(request: pytest.FixtureRequest) -> list[Drawn]:
    """A drawn session, a fork of it, and a fork of that."""
    dice = Random(request.param)
    first = Drawn(dice, "s").grow(70)
    second = first.branch(dice.randrange(1, len(first.events) + 1), "f").grow(40)
    third = second.branch(dice.randrange(1, len(second.events) + 1), "g").grow(40)
    return [first, second, third]


def test_every_prefix_folds_and_has_a_next_step(family: list[Drawn]) -> None:
    for history in family:
        for seq in range(1, len(history.events) + 1):
            state = fold(history.events[:seq])
            assert state == history.states[seq]
            assert next_step(state) is not None and status(state)


def test_folding_on_from_any_event_is_the_same_where_no_rewind_goes_further(
    family: list[Drawn],
) -> None:
    for history in family:
        events = history.events
        for seq in range(1, len(events)):
            later = events[seq:]
            backs = [ev.payload.to for ev in later if isinstance(ev.payload, e.SessionRewound)]
            if min(backs, default=seq) >= seq:
                assert fold(later, history.states[seq]) == history.state


def test_no_call_id_and_no_idempotency_key_is_used_for_two_calls(family: list[Drawn]) -> None:
    fresh: set[str] = set()
    for number, history in enumerate(family):
        own = history.events
        if number:  # the shared past is the origin's
            own = own[next(i for i, ev in enumerate(own) if _begins(ev, history.name)) :]
        for event in own:
            if isinstance(event.payload, e.ModelResponded):
                for call in event.payload.items:
                    if isinstance(call, ToolCall):
                        state = history.states[event.seq]
                        assert state.turn is not None
                        key = key_of(history.name, state.turn.calls[call.id])
                        assert key not in fresh
                        fresh.add(key)
        ids = [
            i.id
            for ev in history.events
            if isinstance(ev.payload, e.ModelResponded)
            for i in ev.payload.items
            if isinstance(i, ToolCall)
        ]
        assert len(ids) == len(set(ids))


def _begins(event: Event, name: str) -> bool:
    return isinstance(event.payload, e.SessionForked) and event.payload.session == name


def test_nothing_spent_comes_back_by_a_rewind_and_a_fork_begins_with_nothing(
    family: list[Drawn],
) -> None:
    for history in family:
        for event in history.events:
            before, after = history.states[event.seq - 1], history.states[event.seq]
            if isinstance(event.payload, e.SessionForked):
                assert after.spent == type(after.spent)()
            else:
                assert after.spent.micro_usd >= before.spent.micro_usd
                assert after.spent.tokens >= before.spent.tokens
                assert after.spent.steps >= before.spent.steps


def test_the_transcript_is_that_of_the_moment_and_letters_that_wait_are_read_once(
    family: list[Drawn],
) -> None:
    for history in family:
        for event in history.events:
            state = history.states[event.seq]
            past = effective(history.events[: event.seq])
            heard = said(history.events[: event.seq])
            assert len(heard) == len(set(heard))
            waiting = {q.seq for q in state.queue if q.kind != "resume"}
            assert waiting <= {ev.seq for ev in past}, "a letter that waits has no text"
            payload = event.payload
            if isinstance(payload, e.SessionRewound):
                then = Transcript(effective(history.events[: payload.to])).items
                assert Transcript(past).items == then


def test_a_rewind_never_makes_what_left_since_leave_again_by_itself(family: list[Drawn]) -> None:
    for history in family:
        for event in history.events:
            payload = event.payload
            if isinstance(payload, e.SessionRewound):
                left = left_since(
                    history.states[payload.to], history.events[payload.to : event.seq - 1]
                )
                turn = history.states[event.seq].turn
                for name in left:
                    assert turn is not None and turn.calls[name].phase is Phase.UNKNOWN


def test_a_hundred_rewinds_one_into_the_other_fold_in_no_time() -> None:
    history = one_turn(History("s"), "one")
    for _ in range(100):
        history.rewind(len(history.events))
    assert fold(history.events) == history.state
    assert history.state.generation == 100
    assert said(history.events) == ["one"]


def test_going_back_to_what_was_taken_back_makes_it_count_again() -> None:
    history = one_turn(one_turn(History("s"), "one"), "two")
    whole = len(history.events)
    history.rewind(1)
    assert said(history.events) == []
    history.rewind(whole)
    assert said(history.events) == ["one", "two"]
    assert history.state.turns == 2


def test_going_back_to_before_an_earlier_rewind() -> None:
    history = one_turn(one_turn(History("s"), "one"), "two")
    first = next(ev.seq for ev in history.events if isinstance(ev.payload, e.TurnEnded))
    one_turn(history.rewind(first), "other")
    assert said(history.events) == ["one", "other"]
    history.rewind(1)
    assert said(history.events) == []
    one_turn(history, "new")
    assert said(history.events) == ["new"]
    assert history.state.turns == 4


def test_a_letter_that_nobody_has_read_outlives_a_rewind() -> None:
    history = one_turn(History("s"), "one")
    history.add(e.InputAccepted("steer", (Text("mind the gap"),), "k"))
    history.rewind(1)
    assert [q.kind for q in history.state.queue] == ["steer"]
    history.message("two").add(e.TurnStarted(history.state.queue[-1].seq)).replies()
    assert sorted(said(history.events)) == ["mind the gap", "two"]


def test_a_rewind_in_the_middle_of_a_turn_drops_the_model_call_and_keeps_its_bill() -> None:
    history = History("s").message("one").begin().add(e.ModelRequested("m"))
    flying = len(history.events)
    history.add(e.ModelResponded("ok", items=(Text("x"),), usage=_used(7)))
    history.add(e.TurnEnded("completed"))
    history.rewind(flying)
    turn = history.state.turn
    assert turn is not None and turn.model is None and turn.owes_reply
    assert history.state.spent.micro_usd == 7
    assert history.state.paused


def _used(cost: int) -> Usage:
    return Usage(input_tokens=1, output_tokens=1, cost_micro_usd=cost)


@pytest.mark.parametrize("effect", [x for x in Effect if x is not Effect.ONCE])
def test_a_call_that_may_run_again_is_decided_anew(effect: Effect) -> None:
    history = at_a_call(effect)
    cut = len(history.events)
    history.start("t1.1").add(e.ToolFinished("t1.1", "ok"))
    assert turn_of(interrupted(history).rewind(cut).state) == {"t1.1": Phase.PROPOSED}


def test_a_once_call_that_left_since_is_in_question() -> None:
    history = at_a_call(Effect.ONCE)
    cut = len(history.events)
    history.start("t1.1").add(e.ToolFinished("t1.1", "ok"))
    forked = history.fork(cut, "f")
    assert turn_of(forked.state) == {"t1.1": Phase.UNKNOWN}
    assert turn_of(interrupted(history).rewind(cut).state) == {"t1.1": Phase.UNKNOWN}


def test_a_once_call_stays_in_question_in_forks_and_rewinds_of_a_fork() -> None:
    history = at_a_call(Effect.ONCE)
    cut = len(history.events)
    history.start("t1.1").add(e.ToolFinished("t1.1", "ok"))
    child = history.fork(cut, "f")
    assert turn_of(child.fork(cut, "g").state) == {"t1.1": Phase.UNKNOWN}
    back = interrupted(child).rewind(cut)
    assert turn_of(back.state) == {"t1.1": Phase.UNKNOWN}
    assert turn_of(back.fork(cut, "h").state) == {"t1.1": Phase.UNKNOWN}


def test_a_once_call_in_flight_at_the_cut_is_for_a_person_in_the_fork() -> None:
    """Its owner in the origin may be alive: that it did not happen yet says nothing."""
    history = at_a_call(Effect.ONCE).start("t1.1")
    assert turn_of(history.fork(len(history.events), "f").state) == {"t1.1": Phase.UNKNOWN}


def test_an_approval_is_not_spent_in_two_lines_of_time() -> None:
    history = at_a_call(Effect.ONCE, Verdict.ASK)
    history.add(e.ActionRequested("a1", "approve", "t1.1", "?", "digest t1.1"))
    history.add(e.ActionResolved("a1", "allow", "ann", "digest t1.1"))
    forked = history.fork(len(history.events), "f").state
    assert turn_of(forked) == {"t1.1": Phase.PROPOSED}
    assert not forked.open_calls[0].approved


def test_a_decision_to_run_again_is_not_spent_in_two_lines_of_time() -> None:
    history = at_a_call(Effect.ONCE).start("t1.1")
    history.add(e.ToolFinished("t1.1", "unknown"))
    history.add(e.ActionRequested("a1", "resolve", "t1.1", "?", "digest t1.1"))
    history.add(e.ActionResolved("a1", "rerun", "ann", "digest t1.1"))
    forked = history.fork(len(history.events), "f").state
    assert turn_of(forked) == {"t1.1": Phase.UNKNOWN}


def test_a_call_taken_over_keeps_its_key_and_a_fresh_one_has_its_own() -> None:
    history = at_a_call(Effect.IDEMPOTENT).start("t1.1")
    key = key_of("s", history.state.open_calls[0])
    child = history.fork(len(history.events), "f")
    grandchild = child.fork(len(child.events), "g")
    assert key_of("f", child.state.open_calls[0]) == key
    assert key_of("g", grandchild.state.open_calls[0]) == key
    child.add(e.ToolFinished("t1.1", "ok")).add(e.InputAccepted("resume")).replies("t")
    (fresh,) = child.state.open_calls
    assert fresh.call.id == "t1g1.2"
    assert fresh.session == ""


def test_other_arguments_have_another_key() -> None:
    history = at_a_call(Effect.IDEMPOTENT, Verdict.ASK)
    history.add(e.ActionRequested("a1", "approve", "t1.1", "?", "digest t1.1"))
    before = key_of("s", history.state.open_calls[0])
    history.add(e.ActionResolved("a1", "allow", "ann", "d2", arguments='{"n": 2}'))
    assert key_of("s", history.state.open_calls[0]) != before


def test_a_fork_taken_back_into_the_past_it_shares_is_still_itself() -> None:
    history = at_a_call(Effect.IDEMPOTENT)
    cut = len(history.events)
    history.start("t1.1").add(e.ToolFinished("t1.1", "ok"))
    child = interrupted(history.fork(len(history.events), "f"))
    state = child.rewind(cut).state
    assert state.id == "f"
    assert [c.session for c in state.open_calls] == ["s"]
    assert state.spent.micro_usd == 0


def test_a_workspace_that_was_opened_since_goes_back_to_its_beginning() -> None:
    history = History("s")
    one_turn(history.add(e.EnvironmentSnapshotted("first")), "one")
    history.add(e.EnvironmentSnapshotted("second", "t1.1")).rewind(1)
    assert (history.state.snapshot, history.state.restore_due) == ("first", True)


def test_a_paused_fork_is_shown_as_paused_before_its_workspace_is_made() -> None:
    history = one_turn(History("s").add(e.EnvironmentSnapshotted("first")), "one")
    assert status(history.fork(len(history.events), "f").state) == "paused"


@pytest.mark.parametrize("to", [0, 99])
def test_a_rewind_to_nowhere_is_no_journal(to: int) -> None:
    history = one_turn(History("s"), "one")
    seq = len(history.events) + 1
    event = Event(seq, "x", 1, 0, e.SessionRewound(to))
    with pytest.raises(CorruptJournal):
        fold([*history.events, event])


def test_a_rewind_while_a_turn_is_open_is_no_journal() -> None:
    history = at_a_call(Effect.ONCE)
    event = Event(len(history.events) + 1, "x", 1, 0, e.SessionRewound(1))
    with pytest.raises(CorruptJournal):
        fold([*history.events, event])
