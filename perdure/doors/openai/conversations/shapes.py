"""Items as a conversation lists them: what the client sent, complete."""

from collections.abc import Iterator
from typing import Any, Final

from perdure.core.content import (
    Content,
    ContextItem,
    Image,
    ModelItem,
    Reasoning,
    ResultItem,
    Text,
    ToolCall,
)
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]

CLIENTS: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "shell_call": "shell_call_output",
    "local_shell_call": "local_shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
}  # calls that the client runs, and what it answers with
_STATED: Final = frozenset(
    (
        "message", "function_call", "function_call_output", "computer_call",
        "computer_call_output", "local_shell_call", "shell_call", "apply_patch_call",
    )
)  # fmt: skip


def complete(item: Json, number: int) -> Json:
    """Return an item of a client's with what its kind must have. Raises `Wording` (400) for a
    message without content.
    """
    kind, where = item.get("type"), f"items[{number}]"
    if kind in _STATED and not item.get("status"):
        item = {**item, "status": "completed"}
    if kind == "message":
        content = item.get("content")
        if not isinstance(content, list) or not all(isinstance(c, dict) for c in content):
            raise Wording(400, "A message needs content.", param=f"{where}.content")
        return {**item, "content": [_part(part) for part in content]}
    if kind == "reasoning":
        return {"summary": [], **item}
    return item


def _part(part: Json) -> Json:
    match part.get("type"):
        case "input_image":
            return {"detail": "auto", "file_id": None, "image_url": None, **part}
        case "output_text":
            return {"annotations": [], "logprobs": [], **part}
        case _:
            return part


def of_context(item: ContextItem, name: str) -> Iterator[Json]:
    """Yield what an item of the transcript shows, where no client's form of it is known."""
    match item:
        case ModelItem(items=parts):
            for number, part in enumerate(parts):
                match part:
                    case Text(text=text):
                        yield _message("assistant", [_said(text)], f"msg_{name}{number:02d}")
                    case Reasoning(text=text):
                        summary = [{"type": "summary_text", "text": text}]
                        yield {
                            "id": f"rs_{name}{number:02d}",
                            "type": "reasoning",
                            "summary": summary,
                        }
                    case ToolCall():
                        yield _call(part, f"fc_{name}{number:02d}")
                    case _:
                        pass
        case ResultItem():
            theirs = item.vendor_id or item.call_id
            yield output_of("function_call", f"fco_{name}", theirs, item.text)
        case _:
            yield user_message(item.content, f"msg_{name}")


def user_message(content: Content, name: str) -> Json:
    """Return a message of a user's that came another way."""
    parts: list[Json] = []
    for part in content:
        if isinstance(part, Image):
            url = part.url or f"data:{part.media_type};base64,{part.data}"
            parts.append(_part({"type": "input_image", "image_url": url}))
        else:
            parts.append({"type": "input_text", "text": part.text})
    return _message("user", parts, name)


def output_of(kind: str, name: str, call_id: str, text: str) -> Json:
    """Return what a call of that kind was answered."""
    answer = CLIENTS.get(kind, "function_call_output")
    output: Any = text
    if answer == "shell_call_output":
        outcome = {"type": "exit", "exit_code": 0}
        output = [{"stdout": text, "stderr": "", "outcome": outcome}]
    return {"id": name, "type": answer, "call_id": call_id, "output": output, "status": "completed"}


def words_of(item: Json) -> str:
    """Return the words of a message or of reasoning."""
    parts = item.get("content" if item["type"] == "message" else "summary") or []
    return "".join(str(part.get("text", "")) for part in parts)


def _message(role: str, content: list[Json], name: str) -> Json:
    return {
        "id": name,
        "type": "message",
        "role": role,
        "status": "completed",
        "content": content,
    }


def _said(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(call: ToolCall, name: str) -> Json:
    return {
        "id": name,
        "type": "function_call",
        "call_id": call.vendor_id or call.id,
        "name": call.tool,
        "arguments": call.arguments,
        "status": "completed",
    }
