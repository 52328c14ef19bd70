"""How things end: turns, with every open call answered for in the same breath."""

from collections.abc import Iterator

from perdure.core import events as e
from perdure.core.agent import Effect
from perdure.core.errors import ErrorInfo, error_info
from perdure.core.events import Payload, TurnStatus
from perdure.core.state import CallState, Phase
from perdure.engine.work import Work


async def end_turn(work: Work, status: TurnStatus, error: ErrorInfo | None = None) -> None:
    """Append the end of the turn; calls still open get a cancelled result first.

    The model must never meet a call without a result, and a workspace that an interrupted
    command left half changed is taken back first. So are subagents ended whose parent was
    interrupted and died before it could tell them.
    """
    if work.trees is not None:
        await work.trees.stop_all(work.state)
    for call in work.state.open_calls:
        if call.phase is Phase.STARTED and call.effect is Effect.CONTAINED and call.snapshot:
            await work.place.back_to(call.snapshot, call.call.id)
    work.journal.append(*_cancelled(work, status), e.TurnEnded(status, error))


def cancelled_text(call: CallState, why: str) -> str:
    """Return what the model reads of a call that was stopped."""
    if call.failures and call.phase is not Phase.STARTED and call.effect is not Effect.IDEMPOTENT:
        back = "; what it changed was taken back" if call.effect is Effect.CONTAINED else ""
        return f"{why} after this call had failed{back}. {call.reason}".strip()
    if call.attempt and call.effect in (Effect.ONCE, Effect.IDEMPOTENT):
        # Also one that was to be run again: what its earlier attempts did is not undone by that.
        return f"{why} while this call was running. It is not known whether it took effect."
    if call.phase is Phase.STARTED and call.effect is Effect.CONTAINED:
        return f"{why} while this call was running; what it changed was taken back."
    if call.phase is Phase.STARTED:
        return f"{why} while this call was running."
    return f"{why} before this call ran. It had no effect."


def _cancelled(work: Work, status: TurnStatus) -> Iterator[Payload]:
    why = {"cancelled": "Interrupted by the user", "budget": "Stopped at a limit"}.get(
        status, "Stopped"
    )
    for call in work.state.open_calls:
        if call.phase is Phase.STARTED and call.effect is Effect.ONCE:
            info = error_info("E-TOOL-UNKNOWN", "tool", why, subject=call.call.tool)
            yield e.ToolFinished(call.call.id, "unknown", error=info)
        text = cancelled_text(call, why)
        if work.state.awaits_answer(call.call.id):
            doubt = "" if call.effect is Effect.READ else " It is not known what came of it."
            text = f"{why} before this call was answered.{doubt}"
        yield e.ToolFinished(call.call.id, "cancelled", text)
