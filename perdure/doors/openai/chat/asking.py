"""A request for a chat completion, in the words of one for a response."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from perdure.doors.openai.problems import Wording

Json = dict[str, Any]
_SAME: Final = ("model", "temperature", "top_p", "parallel_tool_calls", "stream", "user")


def as_response(body: Json) -> Json:
    """Return what to ask for. Raises `Wording` (400) for what one reply cannot give."""
    if body.get("n") not in (None, 1):
        raise Wording(400, "One choice is given: n is 1.", param="n")
    modalities = body.get("modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        raise Wording(400, "This server writes text only.", param="modalities")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Wording(400, "'messages' is a list of at least one message.", param="messages")
    asked: Json = {name: body[name] for name in _SAME if body.get(name) is not None}
    asked |= {"input": list(items(messages)), "store": False, "tools": list(_tools(body))}
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    if most:
        asked["max_output_tokens"] = most
    choice = body.get("tool_choice") or body.get("function_call")
    if choice is not None and asked["tools"]:
        asked["tool_choice"] = _choice(choice)
    if body.get("reasoning_effort") is not None:
        asked["reasoning"] = {"effort": body["reasoning_effort"]}
    text = _text(body)
    return asked | ({"text": text} if text else {})


def items(messages: Sequence[object]) -> Iterator[Json]:
    """Yield messages as items."""
    last = ""  # the call that a message of the old form answers
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise Wording(400, "A message is an object.", param=where)
        match message.get("role"):
            case "system" | "developer" | "user" as role:
                content = _content(message.get("content"), where)
                yield {"type": "message", "role": role, "content": content}
            case "assistant":
                for item in _replied(message, number, where):
                    last = str(item.get("call_id") or last)
                    yield item
            case "tool" | "function" as role:
                call_id = last if role == "function" else str(message.get("tool_call_id") or "")
                output = _content(message.get("content"), where)
                yield {"type": "function_call_output", "call_id": call_id, "output": output}
            case role:
                raise Wording(400, f"There is no role {role!r}.", param=f"{where}.role")


def _replied(message: Mapping[str, Any], number: int, where: str) -> Iterator[Json]:
    said = message.get("content") or message.get("refusal")
    if said:
        content = _content(said, where, kind="output_text")
        yield {"type": "message", "role": "assistant", "content": content}
    calls = message.get("tool_calls") or []
    if isinstance(message.get("function_call"), Mapping):
        calls = [{"id": f"fn_{number}", "function": message["function_call"]}]
    for call in calls if isinstance(calls, list) else []:
        about = call if isinstance(call, Mapping) else {}
        called = about.get("function") or about.get("custom")
        if not isinstance(called, Mapping):
            raise Wording(400, "A tool call has a function.", param=f"{where}.tool_calls")
        yield {
            "type": "function_call",
            "call_id": str(about.get("id") or ""),
            "name": str(called.get("name") or ""),
            "arguments": str(called.get("arguments") or called.get("input") or "{}"),
        }


def _content(value: object, where: str, kind: str = "input_text") -> str | list[Json]:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise Wording(400, "Content is a text or a list of parts.", param=f"{where}.content")
    return [_part(part, f"{where}.content[{n}]", kind) for n, part in enumerate(value)]


def _part(part: object, where: str, kind: str) -> Json:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return {"type": kind, "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "input_image", "image_url": url}
        case {"type": "file", "file": dict(about)}:
            return {"type": "input_file", **about}
        case _:
            raise Wording(400, "Parts are texts, images and files.", param=where)


def _tools(body: Json) -> Iterator[Json]:
    given = body.get("tools")
    if given is None:
        functions = body.get("functions") or []
        named = functions if isinstance(functions, list) else [functions]
        given = [{"type": "function", "function": f} for f in named]
    if not isinstance(given, list):
        raise Wording(400, "'tools' is a list.", param="tools")
    for number, tool in enumerate(given):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        about = tool.get(kind) if kind in ("function", "custom") else None
        if not isinstance(about, Mapping):
            said = "Tools are functions, or custom tools."
            raise Wording(400, said, param=f"tools[{number}]")
        yield {"type": kind, **about}


def _choice(choice: object) -> object:
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return {"type": "function", "name": name}
        case {"type": "custom", "custom": {"name": str(name)}}:
            return {"type": "custom", "name": name}
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(tools), **allowed}}:
            named = [_choice(tool) for tool in tools]
            return {"type": "allowed_tools", "mode": allowed.get("mode"), "tools": named}
        case {"name": str(name)}:
            return {"type": "function", "name": name}
        case _:
            return choice


def _text(body: Json) -> Json:
    found: Json = {}
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": dict(schema)}:
            found["format"] = {"type": "json_schema", **schema}
        case {"type": str(kind)}:
            found["format"] = {"type": kind}
        case _:
            pass
    if body.get("verbosity") is not None:
        found["verbosity"] = body["verbosity"]
    return found
