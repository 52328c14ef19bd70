"""Output items of a response as JSON, one function for each kind."""

import json
from typing import Any, Final

from perdure.core.content import Usage
from perdure.core.errors import ErrorInfo
from perdure.doors.openai.happenings import CallItem, Item, Words
from perdure.doors.openai.tools import Shown

Json = dict[str, Any]

_CODES: Final = {
    "E-MODEL-RATE": "rate_limit_exceeded",
    "E-MODEL-REJECT": "invalid_prompt",
    "E-MODEL-REFUSED": "invalid_prompt",
}
_FUNCTION: Final = Shown("function")


def words_json(words: Words) -> Json:
    """Return a message, or reasoning."""
    if words.channel == "reasoning":
        summary = [{"type": "summary_text", "text": words.text}] if words.text else []
        return {"id": words.id, "type": "reasoning", "summary": summary, "status": words.status}
    content = [] if words.status == "in_progress" else [text_part(words.text)]
    return {
        "id": words.id,
        "type": "message",
        "role": "assistant",
        "status": words.status,
        "content": content,
    }


def item_json(item: Item, shown: Shown | None, approval: str | None = None) -> Json:
    """Return an output item. `approval` is the request that let an MCP call run."""
    if isinstance(item, Words):
        return words_json(item)
    shown = shown or _FUNCTION
    match shown.look:
        case "mcp":
            return _mcp_call(item, shown, approval)
        case "shell":
            return _shell_call(item, shown)
        case "local_shell":
            return _local_shell_call(item)
        case "custom":
            return _plain(item, "custom_tool_call") | {
                "name": item.call.tool,
                "input": text_of_input(item.call.arguments),
            }
        case "apply_patch":
            operation = object_of(item.call.arguments)
            return _plain(item, "apply_patch_call") | {
                "status": _status(item),
                "operation": operation,
            }
        case _:
            return _plain(item, "function_call") | {
                "name": item.call.tool,
                "arguments": item.call.arguments,
                "status": _status(item),
            }


def call_id_of(item: CallItem) -> str:
    """Return the call's id as the client sees it."""
    return item.call.vendor_id or item.call.id


def _plain(item: CallItem, kind: str) -> Json:
    return {"id": item.id, "type": kind, "call_id": call_id_of(item)}


def _status(item: CallItem) -> str:
    return "completed" if item.status == "failed" else item.status


def _mcp_call(item: CallItem, shown: Shown, approval: str | None) -> Json:
    parts = [{"type": "text", "text": item.output}]
    said = {"type": "mcp_tool_execution_error", "content": parts}
    return {
        "id": item.id,
        "type": "mcp_call",
        "server_label": shown.label,
        "name": shown.name or item.call.tool,
        "arguments": item.call.arguments,
        "status": item.status,
        "output": None if item.failed else item.output,
        "error": said if item.failed else None,
        "approval_request_id": approval,
    }


def _shell_call(item: CallItem, shown: Shown) -> Json:
    """A shell call. Our own shell runs one script, which is one command here."""
    given = object_of(item.call.arguments)
    commands = given.get("commands")
    if not isinstance(commands, list):
        commands = [str(given.get("command", ""))]
    timeout = given.get("timeout_ms")
    if timeout is None and isinstance(given.get("timeout_s"), int | float):
        timeout = int(given["timeout_s"] * 1000)
    most = given.get("max_output_length")
    local = {"type": "local"} if shown.label == "local" else None
    return _plain(item, "shell_call") | {
        "status": _status(item),
        "action": {
            "commands": [str(c) for c in commands],
            "timeout_ms": timeout if isinstance(timeout, int) else None,
            "max_output_length": most if isinstance(most, int) else None,
        },
        "environment": local,
    }


def _local_shell_call(item: CallItem) -> Json:
    given = object_of(item.call.arguments)
    commands = given.get("commands")
    words = [str(c) for c in commands] if isinstance(commands, list) else []
    timeout = given.get("timeout_ms")
    return _plain(item, "local_shell_call") | {
        "status": _status(item),
        "action": {
            "type": "exec",
            "command": ["bash", "-lc", "\n".join(words)],
            "env": {},
            "timeout_ms": timeout if isinstance(timeout, int) else None,
            "user": None,
            "working_directory": None,
        },
    }


def shell_output_json(item: CallItem) -> Json:
    """Return what our own shell printed, as an item of its own."""
    text, code = item.output or "", item.meta.get("exit_code")
    body, _, last = text.rpartition("\n")
    printed = body + "\n" if body and last.startswith("[exit code ") else text
    outcome: Json = {"type": "exit", "exit_code": code if isinstance(code, int) else 1}
    if last.startswith("[killed: timeout"):
        outcome = {"type": "timeout"}
    return {
        "id": f"sho_{item.id.partition('_')[2]}",
        "type": "shell_call_output",
        "call_id": call_id_of(item),
        "max_output_length": None,
        "status": "completed" if item.status == "failed" else item.status,
        "output": [{"stdout": printed, "stderr": "", "outcome": outcome}],
    }


def object_of(arguments: str) -> Json:
    """Return arguments as an object; what is none is an empty one."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def text_of_input(arguments: str) -> str:
    """Return the free text of a custom tool's call."""
    given = object_of(arguments).get("input")
    return given if isinstance(given, str) else arguments


def usage_json(usage: Usage) -> Json:
    """Return tokens in the form of a response."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def error_json(error: ErrorInfo | None) -> Json:
    """Return a turn's error in the form of a response."""
    if error is None:
        return {"code": "server_error", "message": "The turn failed."}
    return {
        "code": _CODES.get(error.code, "server_error"),
        "message": f"{error.message} [{error.code}]",
    }


def text_part(text: str) -> Json:
    """Return a part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
