"""Calls and their outputs as clients send them back: one shape for each kind of tool."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from perdure.core.content import Text, UserItem
from perdure.doors.openai.problems import Wording

Item = Mapping[str, Any]

KINDS: Final = frozenset((
    "function_call_output", "custom_tool_call_output", "shell_call_output",
    "local_shell_call_output", "apply_patch_call_output",
))  # fmt: skip
CALLS: Final = frozenset(
    ("function_call", "custom_tool_call", "shell_call", "local_shell_call", "apply_patch_call")
)
SEALED: Final = "perdure.1:"  # what the content of a compaction item begins with


def call_id_of(item: Item) -> str:
    """Return the id of the call that an output answers."""
    return str(item.get("call_id") or item.get("id") or "")


def call_of(item: Item) -> tuple[str, str, str]:
    """Return a call's id, its tool's name and its arguments as JSON text."""
    call_id = str(item.get("call_id") or "")
    match item.get("type"):
        case "custom_tool_call":
            given = json.dumps({"input": item.get("input") or ""})
            return call_id, str(item.get("name") or ""), given
        case "shell_call":
            return call_id, "shell", json.dumps(item.get("action") or {})
        case "local_shell_call":
            return call_id, "local_shell", json.dumps(item.get("action") or {})
        case "apply_patch_call":
            return call_id, "apply_patch", json.dumps(item.get("operation") or {})
        case _:
            return call_id, str(item.get("name") or ""), str(item.get("arguments") or "{}")


def result_of(item: Item, text_of: Callable[[object], str]) -> tuple[str, bool]:
    """Return what the model reads of an output, and whether it failed."""
    match item.get("type"):
        case "shell_call_output":
            parts = item.get("output")
            chunks = parts if isinstance(parts, list) else []
            return "\n".join(
                _printed(chunk) for chunk in chunks if isinstance(chunk, Mapping)
            ), False
        case "apply_patch_call_output":
            return text_of(item.get("output") or item.get("status")), item.get("status") == "failed"
        case _:
            return text_of(item.get("output")), item.get("status") == "incomplete"


def told(item: Item) -> str:
    """Return an earlier call of an MCP tool in words: the model cannot have made it here."""
    result = item.get("output") or item.get("error") or ""
    said = result if isinstance(result, str) else json.dumps(result)
    return f"[{item.get('server_label')}.{item.get('name')} {item.get('arguments')}: {said}]"


def sealed(summary: str, said: Sequence[str] = ()) -> str:
    """Return what a compaction item holds: the user's words, and the rest in short."""
    plain = json.dumps([*said, summary]).encode()
    return SEALED + base64.urlsafe_b64encode(plain).decode()


def compacted(item: Item, where: str) -> list[UserItem]:
    """Return what a compaction item stands for. Raises `Wording` (400) for another server's."""
    text = str(item.get("encrypted_content") or "")
    try:
        if not text.startswith(SEALED):
            raise ValueError
        words = json.loads(base64.urlsafe_b64decode(text.removeprefix(SEALED)))
        return [UserItem((Text(str(each)),)) for each in words if each]
    except (ValueError, TypeError) as error:
        said = "This compaction item was not made by this server."
        raise Wording(400, said, param=where) from error


def _printed(chunk: Item) -> str:
    outcome = chunk.get("outcome")
    kind = outcome.get("type") if isinstance(outcome, Mapping) else ""
    code = outcome.get("exit_code") if isinstance(outcome, Mapping) else None
    end = "[killed: timeout]" if kind == "timeout" else f"[exit code {code}]"
    said = [str(chunk.get("stdout") or ""), str(chunk.get("stderr") or ""), end]
    return "\n".join(each.rstrip("\n") for each in said if each)
