"""Items of a session as JSON."""

import json
from typing import Any

from perdure.core.content import Content, Image, Text
from perdure.doors.openai.agents.places import MOUNT
from perdure.doors.openai.agents.records import SessionRecord
from perdure.doors.openai.agents.views import arguments_of
from perdure.doors.openai.happenings import CallItem, Item, Words
from perdure.engine.kin import SOURCE, child_name

Json = dict[str, Any]


def said_json(event_id: str, content: Content, turn: str) -> Json:
    """Return what the user said."""
    return {
        "id": f"msg_{event_id.lower()}",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [_input(part) for part in content],
        "turn_id": turn,
    }


def item_json(record: SessionRecord, session: str, item: Item, turn: str, phase: str = "") -> Json:
    """Return an item of the model's, in the session (or subagent) `session`."""
    if isinstance(item, Words):
        return _words(item, turn, phase)
    if is_subagent(item):
        return _subagent(session, item, turn)
    match item.kind:
        case "mcp":
            return _mcp(record, item, turn)
        case "command":
            return _command(item, turn)
        case _:
            return _function(item, turn)


def output_json(item: CallItem, turn: str) -> Json:
    """Return what a client said of its call."""
    return {
        "id": f"fco_{item.id.removeprefix('fc_')}",
        "type": "function_call_output",
        "call_id": item.call.id,
        "status": "failed" if item.failed else "completed",
        "output": None if item.failed else item.output,
        "error": item.output if item.failed else None,
        "turn_id": turn,
    }


def is_subagent(item: CallItem) -> bool:
    """Whether a call gives a task to a subagent."""
    return item.spec is not None and item.spec.source.startswith(SOURCE)


def task_of(item: CallItem) -> str:
    """Return the task that a subagent is given."""
    arguments = arguments_of(item.call)
    return str(arguments.get("task") or "") if isinstance(arguments, dict) else ""


def _words(words: Words, turn: str, phase: str) -> Json:
    if words.channel == "reasoning":
        summary = [{"type": "summary_text", "text": words.text}] if words.text else []
        about: Json = {"type": "reasoning", "summary": summary}
    else:
        begun = words.text or words.status != "in_progress"
        content = [{"type": "output_text", "text": words.text}] if begun else []
        about = {"type": "message", "role": "assistant", "content": content, "phase": phase or None}
    return {"id": words.id, **about, "status": words.status, "turn_id": turn}


def _function(item: CallItem, turn: str) -> Json:
    return {
        "id": item.id,
        "type": "function_call",
        "call_id": item.call.id,
        "name": item.call.tool,
        "arguments": arguments_of(item.call),
        "status": "completed" if item.status == "failed" else item.status,
        "turn_id": turn,
    }


def _mcp(record: SessionRecord, item: CallItem, turn: str) -> Json:
    label, name = record.served.get(item.call.tool, ("", item.call.tool))
    return {
        "id": item.id,
        "type": "mcp_call",
        "server_label": label,
        "name": name,
        "arguments": arguments_of(item.call),
        "status": item.status,
        "output": None if item.failed else item.output,
        "error": {"message": item.output} if item.failed else None,
        "turn_id": turn,
    }


def _command(item: CallItem, turn: str) -> Json:
    duration = item.meta.get("duration_s")
    return {
        "id": item.id,
        "type": "command_execution",
        "command": _shown(item),
        "cwd": MOUNT,
        "output": item.output,
        "exit_code": item.meta.get("exit_code"),
        "duration_ms": round(duration * 1000) if isinstance(duration, int | float) else None,
        "status": item.status,
        "turn_id": turn,
    }


def _shown(item: CallItem) -> str:
    """Return a command as it was written; a file tool as its name and arguments."""
    arguments = arguments_of(item.call)
    if item.call.tool == "bash" and isinstance(arguments, dict):
        return str(arguments.get("command") or "")
    return f"{item.call.tool} {json.dumps(arguments)}"


def _subagent(session: str, item: CallItem, turn: str) -> Json:
    over = item.output is not None
    return {
        "id": item.id.replace("fc_", "sub_", 1),
        "type": "create_subagent_call",
        "agent_id": child_name(session, item.call.id),
        "content": [{"type": "output_text", "text": task_of(item)}],
        "model": None,
        "reasoning_effort": None,
        "status": item.status if over else "in_progress",
        "turn_id": turn,
    }


def _input(part: Text | Image) -> Json:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "input_image", "image_url": url}
