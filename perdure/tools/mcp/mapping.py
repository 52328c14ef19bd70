"""From an MCP server's words to ours: tool definitions and results, as plain JSON values.

Knows nothing of connections. A server is a stranger: whatever it sends is mapped, never trusted.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from perdure.core.agent import Effect, ToolSpec
from perdure.core.codec import encode
from perdure.core.errors import error_info
from perdure.core.policy import REMOTE_SOURCE
from perdure.ports.tool import ToolOutput
from perdure.tools.output import NO_OUTPUT, cut

NAME_MAX: Final = 64
DESCRIPTION_MAX: Final = 8000
MESSAGE_MAX: Final = 500


def effect_of(definition: Mapping[str, Any], override: str | None) -> Effect:
    """Map the server's hints: read-only, idempotent, otherwise once. The operator's word wins."""
    if override is not None:
        return Effect(override)
    hints = definition.get("annotations")
    hints = hints if isinstance(hints, dict) else {}
    if hints.get("readOnlyHint") is True:
        return Effect.READ
    return Effect.IDEMPOTENT if hints.get("idempotentHint") is True else Effect.ONCE


def spec_of(
    server: str, name: str, definition: Mapping[str, Any], effect: Effect, timeout_s: float
) -> ToolSpec:
    """Make the spec of a server's tool under the name the model will call it by."""
    schema = definition.get("inputSchema")
    schema = {**schema, "type": "object"} if isinstance(schema, dict) else {"type": "object"}
    schema.setdefault("properties", {})
    description = definition.get("description") or definition.get("title") or ""
    return ToolSpec(
        name=name,
        description=str(description)[:DESCRIPTION_MAX],
        input_schema=msgspec.Raw(encode(schema)),
        effect=effect,
        timeout_s=timeout_s,
        source=f"{REMOTE_SOURCE}{server}",
    )


def names_of(server: str, tools: list[str]) -> dict[str, str]:
    """Name each tool `server__tool` in letters that every vendor takes, no two alike."""
    given: dict[str, str] = {}
    for tool in sorted(tools):
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", f"{server}__{tool}")
        if len(name) > NAME_MAX or name in given.values() or not name.endswith(tool):
            # A name that had to be bent could be another tool's: its own digest keeps it apart.
            mark = hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            name = f"{name[: NAME_MAX - 9]}_{mark}"
        given[tool] = name
    return given


def sendable(arguments: Mapping[str, Any]) -> bool:
    """Say whether the arguments can be written as JSON that others can read."""
    try:
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def output_of(result: Mapping[str, Any], tool: str) -> ToolOutput:
    """Map a `tools/call` result; one that says it is an error becomes an output with an error."""
    blocks = result.get("content")
    parts = [_part(block) for block in blocks] if isinstance(blocks, list) else []
    whole = "\n".join(part for part in parts if part)
    if not whole and result.get("structuredContent") is not None:
        whole = json.dumps(result["structuredContent"], ensure_ascii=False)
    text, full = cut(whole or NO_OUTPUT)
    if result.get("isError") is not True:
        return ToolOutput(text, full=full)
    error = error_info("E-TOOL-FAILED", "tool", text[:MESSAGE_MAX], subject=tool)
    return ToolOutput(text, error=error, full=full)


def _part(block: Any) -> str:
    """Show one block of content as text; what is not text is named, so the model knows of it."""
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "resource", "resource": {"uri": uri}}:
            return f"[a resource: {uri}]"
        case {"type": "resource_link", "uri": uri}:
            return f"[a link: {block.get('name', '')} {uri}]"
        case {"type": "image" | "audio" as kind, "data": str(data)}:
            return f"[{kind}, {block.get('mimeType', 'unknown')}, {len(data) * 3 // 4} bytes]"
        case {"type": kind}:
            return f"[content of the kind {kind}]"
        case _:
            return ""
