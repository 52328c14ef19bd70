"""What is done about a model call that failed for good, before its turn is given up. Pure.

`retry.delay_s` comes first: as long as the same call may be tried again, nothing else is done.
"""

from typing import Final

import msgspec

from perdure.core.errors import ErrorInfo
from perdure.core.events import Remedy
from perdure.core.state import State

# Another model may do: this one is not there, not paid for, overloaded, or cannot be understood.
FALLS_BACK: Final = (
    "E-KEY-MISSING",
    "E-MODEL-AUTH",
    "E-MODEL-UNKNOWN",
    "E-MODEL-NAME",
    "E-MODEL-URL",
    "E-MODEL-RATE",
    "E-MODEL-OVERLOADED",
    "E-MODEL-UNREACHABLE",
    "E-MODEL-TORN",
    "E-MODEL-GARBLED",
)

COMPACTIONS: Final = 4  # in one turn: each leaves half of what did not fit before it


class Cure(msgspec.Struct, frozen=True):
    """What is done: a `remedy` (empty: nothing, the turn fails), and the model it names."""

    remedy: Remedy = ""
    fallback: str = ""


def remedy_of(state: State, error: ErrorInfo) -> Cure:
    """Return what is done about `error`, which the model call that is open ended with.

    Only for an error after which the same call is not tried again.
    """
    later = models_due(state)[1:]
    if error.code in FALLS_BACK and later:
        # A refusal of the content, or a transcript that is too long, is the transcript's matter:
        # going from model to model with it would be shopping for one that says yes.
        return Cure("fallback", later[0])
    turn = state.turn
    if turn is None:
        return Cure()
    if error.code == "E-CONTEXT-OVERFLOW" and state.spec.compaction.on_overflow:
        return Cure("compact" if turn.compactions < COMPACTIONS else "")
    if error.code == "E-MODEL-REJECT" and not turn.repairs:
        return Cure("repair")
    return Cure()


def models_due(state: State) -> tuple[str, ...]:
    """Return the model that is called, or is to be called next, and those that may follow it.

    A turn begins with the agent's own model and goes through its fallbacks in their order; none
    comes twice, so that a turn cannot go round in a circle.
    """
    turn, spec = state.turn, state.spec
    chain = tuple(dict.fromkeys((spec.model, *spec.fallbacks)))
    if turn is not None and turn.model is not None:
        called = turn.model.model
        # The definition was changed while it was called: what that names comes next.
        return chain[chain.index(called) :] if called in chain else (called, *chain)
    now = turn.model_name if turn is not None else ""
    return chain[chain.index(now) :] if now in chain else chain
