"""What people and clients owe a session, with all that they need to decide."""

from perdure.cli.wire import Asked
from perdure.core.state import Phase, State
from perdure.engine.decisions import takes
from perdure.engine.grants import like_it


def asked_in(state: State) -> tuple[Asked, ...]:
    """Return what people owe a session, with the calls it is about."""
    calls = state.turn.calls if state.turn else {}
    return tuple(
        Asked(
            action.id,
            action.kind,
            calls[action.call_id].call,
            action.question,
            action.digest,
            calls[action.call_id].reason,
            action.expires_at_us,
            form=_form(state, calls[action.call_id].call.tool) if action.kind == "answer" else "",
            said=action.said,
            grant=like_it(state, action),
            takes=takes(state, calls[action.call_id].call.tool) if action.kind == "approve" else "",
        )
        for action in state.actions.values()
        if action.call_id in calls and calls[action.call_id].phase is not Phase.FINISHED
    )


def _form(state: State, tool: str) -> str:
    spec = state.spec.tool(tool)
    return spec.answer_schema if spec else ""
