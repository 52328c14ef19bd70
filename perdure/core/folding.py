"""What all folds share: finding the turn and the call an event is about, or refusing the event."""

from perdure.core.errors import CorruptJournal
from perdure.core.events import Event
from perdure.core.state import CallState, Phase, State, Turn


def open_turn(state: State, event: Event) -> Turn:
    """Return the open turn. Raises `CorruptJournal` when there is none."""
    if state.turn is None:
        raise corrupt(event, "no turn is open")
    return state.turn


def call_in(state: State, event: Event, call_id: str, *phases: Phase) -> CallState:
    """Return a call of the open turn that is in one of `phases`. Raises `CorruptJournal`."""
    call = open_turn(state, event).calls.get(call_id)
    if call is None:
        raise corrupt(event, f"there is no call {call_id}")
    if call.phase not in phases:
        raise corrupt(event, f"call {call_id} is {call.phase.value}")
    return call


def corrupt(event: Event, why: str) -> CorruptJournal:
    """Return the error of an event that cannot follow what came before it."""
    return CorruptJournal(
        "E-JOURNAL-ORDER", f"Event {event.seq} ({event.type}) cannot follow: {why}."
    )
