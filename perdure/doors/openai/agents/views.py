"""Sessions and turns as JSON: pure functions of what is kept and of the journal's state."""

import json
from typing import Any, Final, Literal

from perdure.core.content import ToolCall, Usage
from perdure.core.errors import ErrorInfo
from perdure.core.state import ActionState, State
from perdure.core.step import status as state_of
from perdure.doors.openai.agents.definitions import snapshot
from perdure.doors.openai.agents.records import SessionRecord

Json = dict[str, Any]
Status = Literal["idle", "in_progress", "requires_action", "failed", "budget_reached"]

_MICRO: Final = 1_000_000
_CENT: Final = 10_000  # micro-dollars
_SPENT: Final = ("E-LIMIT-USD", "E-LIMIT-TOKENS")
_CODES: Final = {
    "E-LIMIT-USD": "session_budget_exceeded",
    "E-LIMIT-TOKENS": "session_budget_exceeded",
    "E-LIMIT-STEPS": "usage_limit_exceeded",
    "E-LIMIT-TOOL_CALLS": "usage_limit_exceeded",
    "E-LIMIT-WALL_S": "request_timeout",
    "E-MODEL-RATE": "rate_limit_exceeded",
    "E-MODEL-OVERLOADED": "server_overloaded",
    "E-CONTEXT-OVERFLOW": "context_length_exceeded",
    "E-MODEL-AUTH": "authentication_error",
    "E-MODEL-REJECT": "invalid_request",
    "E-MODEL-UNREACHABLE": "connection_failed",
}
_KINDS: Final = {
    "environment": "sandbox_error",
    "model": "server_error",
    "input": "invalid_request",
}


def status_of(state: State) -> Status:
    """Return a session's status in the client's words."""
    match state_of(state):
        case "running" | "sleeping":
            return "in_progress"
        case "waiting":
            return "requires_action"
        case "parked":
            return "failed"
        case "budget" if state.last_error is not None and state.last_error.code in _SPENT:
            return "budget_reached"
        case _:
            return "idle"


def turn_id(session: str, number: int) -> str:
    """Return the id of a session's turn."""
    return f"turn_{session.removeprefix('sess_')}_{number}"


def session_json(record: SessionRecord, state: State) -> Json:
    """Return a session as it is in `state`."""
    spent, now = state.spent, status_of(state)
    error = state.parked or (state.last_error if now == "budget_reached" else None)
    found: Json = {
        "id": record.id,
        "object": "agent.session",
        "agent": snapshot(record.agent_id, record.settings),
        "created_at": record.created_at,
        "last_active_at": max(record.created_at, state.updated_at_us // _MICRO),
        "environment": record.environment,
        "error": error.message if error else None,
        "metadata": record.metadata,
        "required_actions": actions_of(record, state),
        "status": now,
        "usage": usage_json(Usage(spent.input_tokens, spent.output_tokens)),
        "vault_ids": list(record.vault_ids),
        "spend_control": {
            "limit": record.spend_limit,
            "consumed": None if spent.unpriced else spent.micro_usd // _CENT,
        },
    }
    if record.prompt_cache_options:
        found["prompt_cache_options"] = record.prompt_cache_options
    if record.review:
        found["review"] = record.review
    return found


def actions_of(record: SessionRecord, state: State) -> list[Json]:
    """Return what the session waits for."""
    if state.turn is None:
        return []
    turn = turn_id(record.id, state.turn.number)
    calls = state.turn.calls
    asked = [(action, calls.get(action.call_id)) for action in state.actions.values()]
    return [_action(record, action, call.call, turn) for action, call in asked if call]


def _action(record: SessionRecord, action: ActionState, call: ToolCall, turn: str) -> Json:
    arguments = arguments_of(call)
    if action.kind == "answer":
        about = {"call_id": call.id, "name": call.tool, "arguments": arguments}
        return {"type": "function_call", "turn_id": turn, **about}
    label, name = record.served.get(call.tool, ("", call.tool))
    request = {
        "type": "mcp_tool_call",
        "server_label": label,
        "name": name,
        "arguments": arguments,
        "message": action.question,
    }
    about = {"request_id": action.id, "turn_id": turn, "request": request}
    return {"type": "mcp_approval_request", **about}


def arguments_of(call: ToolCall) -> object:
    """Return a call's arguments as JSON; what is none, as the text that the model wrote."""
    try:
        return json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments


def usage_json(usage: Usage) -> Json:
    """Return tokens."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def error_json(error: ErrorInfo | None) -> Json:
    """Return why a turn failed."""
    if error is None:
        return {"code": "internal_error", "message": "The turn failed."}
    code = _CODES.get(error.code) or _KINDS.get(error.kind, "internal_error")
    return {"code": code, "message": f"{error.message} [{error.code}]"}
