"""The OpenAI Responses dialect: our request to a body, its stream of events to our reply.

The provider keeps nothing (`store: false`): its items, encrypted reasoning included, live in the
journal and go back unchanged. No I/O and no SDK here.
"""

from collections.abc import Mapping
from typing import Any, Final

from perdure.core.agent import ToolSpec
from perdure.core.content import (
    Image,
    ModelItem,
    Opaque,
    Part,
    Reasoning,
    ReplyItem,
    Text,
    ToolCall,
    Usage,
)
from perdure.ports.model import (
    CallDelta,
    Delta,
    ModelReply,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
)
from perdure.wire import failures, history, steering
from perdure.wire.history import Built, Round
from perdure.wire.lenient import arguments, child, children, clean, number, raw, text

DIALECT: Final = "openai-responses"

_TEXT: Final = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING: Final = frozenset(
    {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}
)
_LAST: Final = frozenset({"response.completed", "response.incomplete"})


def request(req: ModelRequest, provider: str = "openai") -> Built:
    """Return the body of POST /responses."""
    done, dropped = history.rounds(req.items)
    items: list[Any] = []
    for turn in done:
        items += _round(turn, provider, dropped)
    body: dict[str, Any] = {
        "model": req.model,
        "input": items,
        "max_output_tokens": req.max_output_tokens,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
    }
    if req.instructions.strip():
        body["instructions"] = clean(req.instructions)
    if req.tools:
        body["tools"] = [_tool(tool) for tool in req.tools]
    body |= steering.for_responses(req)
    return Built(body, tuple(dropped))


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "name": history.wire_name(tool.name),
        "description": clean(tool.description),
        "parameters": tool.input_schema,
        "strict": False,
    }


def _round(turn: Round, provider: str, dropped: list[str]) -> list[Any]:
    found: list[Any] = []
    if turn.reply is not None:
        own = history.is_own(turn.reply, provider, DIALECT)
        ids = history.call_ids(turn.reply, own)
        if own:
            found += turn.reply.raw
        else:
            dropped += history.foreign(turn.reply)
            found += _converted(turn.reply, ids)
        for result in turn.results:
            call_id, said = ids[result.call_id], history.result_text(result)
            found.append({"type": "function_call_output", "call_id": call_id, "output": said})
    if turn.said:
        found.append({"role": "user", "content": _content(turn.said)})
    return found


def _converted(reply: ModelItem, ids: Mapping[str, str]) -> list[Any]:
    """Tell a reply by its plain items, in the order written."""
    found: list[Any] = []
    for item in reply.items:
        match item:
            case Text():
                found.append({"role": "assistant", "content": clean(item.text)})
            case ToolCall():
                found.append(
                    {
                        "type": "function_call",
                        "call_id": ids[item.id],
                        "name": history.wire_name(item.tool),
                        "arguments": history.as_object(item.arguments),
                    }
                )
            case Reasoning() | Opaque():
                pass  # reported by `history.foreign`
    return found or [{"role": "assistant", "content": history.NO_TEXT}]


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, str]]:
    only = history.text_only(parts)
    return only if only is not None else [_part(part) for part in parts]


def _part(part: Part) -> dict[str, str]:
    match part:
        case Text():
            return {"type": "input_text", "text": clean(part.text)}
        case Image():
            return {"type": "input_image", "image_url": history.data_url(part)}


class ResponsesReader:
    """Takes the events of one stream; see `perdure.wire.stream.Reader`."""

    def __init__(
        self, req: ModelRequest, provider: str = "openai", dropped: tuple[str, ...] = ()
    ) -> None:
        self._request = req
        self._provider = provider
        self._dropped = dropped
        self._tools = history.our_names(req)
        self._calling: dict[int, str] = {}
        self._done: dict[int, dict[str, Any]] = {}
        self._text: list[str] = []
        self._written_chars = 0
        self._final: dict[str, Any] | None = None
        self._begun = False

    @property
    def ended(self) -> bool:
        return self._final is not None

    @property
    def partial(self) -> str:
        return "".join(self._text)

    def feed(self, event: Mapping[str, Any]) -> list[Delta]:
        """Take the next event. Raises `ModelFailed` for `error` and `response.failed`."""
        kind = text(event, "type")
        index = number(event, "output_index") if "output_index" in event else len(self._done)
        self._begun = True
        delta = text(event, "delta")
        self._written_chars += len(delta)
        if kind in _TEXT:
            self._text.append(delta)
            return [TextDelta(delta)] if delta else []
        if kind in _REASONING:
            return [ReasoningDelta(delta)] if delta else []
        if kind == "response.output_item.added":
            return self._added(index, child(event, "item"))
        if kind == "response.function_call_arguments.delta":
            return [CallDelta(self._calling.get(index, ""), delta)] if delta else []
        if kind == "response.output_item.done":
            self._done[index] = child(event, "item")
        elif kind in _LAST:
            self._final = child(event, "response")
        elif kind in ("error", "response.failed", "response.cancelled") or event.get("error"):
            raise failures.from_event(self._provider, _error(event), model=self._request.model)
        return []

    def reply(self, request_id: str = "") -> ModelReply | None:
        if self._final is None:
            return None
        output = self._output(self._final)
        items = self._items(output)
        return ModelReply(
            items=items,
            usage=self._usage(),
            finish=_finish(self._final, output, items),
            raw=tuple(raw(item) for item in output),
            dialect=DIALECT,
            provider=self._provider,
            model=text(self._final, "model") or self._request.model,
            request_id=request_id or text(self._final, "id"),
            dropped=self._dropped,
        )

    def spent(self) -> Usage | None:
        return history.estimate(self._request, self._written_chars) if self._begun else None

    def _output(self, final: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the items as they were finished; some servers list them only at the end."""
        listed = children(final, "output")
        output = [self._done[i] for i in sorted(self._done)]
        output = listed if len(listed) > len(output) else output
        if not output and self._text:
            part = {"type": "output_text", "text": self.partial}
            output = [{"type": "message", "role": "assistant", "content": [part]}]
        return output

    def _added(self, index: int, item: Mapping[str, Any]) -> list[Delta]:
        if item.get("type") != "function_call":
            return []
        name = text(item, "name")
        self._calling[index] = self._tools.get(name, name)
        return [CallDelta(self._calling[index], "")]

    def _items(self, output: list[dict[str, Any]]) -> tuple[ReplyItem, ...]:
        found: list[ReplyItem] = []
        number_ = self._request.first_call
        for item in output:
            kind = text(item, "type")
            if kind == "message":
                found += _message(item)
            elif kind == "reasoning":
                found.append(Reasoning(_thought(item)))
            elif kind == "function_call":
                found.append(self._call(item, f"{self._request.call_prefix}{number_}"))
                number_ += 1
            else:
                found.append(Opaque(kind))
        return tuple(found)

    def _call(self, item: dict[str, Any], call_id: str) -> ToolCall:
        name = text(item, "name")
        vendor_id = text(item, "call_id") or text(item, "id")
        if not vendor_id:
            # Written into the raw item too, so that the answer finds its call.
            vendor_id = item["call_id"] = history.made_id(call_id)
        written = arguments(item.get("arguments")) or "{}"
        return ToolCall(call_id, self._tools.get(name, name), written, vendor_id)

    def _usage(self) -> Usage:
        usage = child(self._final or {}, "usage")
        if not usage:
            return history.estimate(self._request, self._written_chars)
        return Usage(
            input_tokens=number(usage, "input_tokens"),
            output_tokens=number(usage, "output_tokens"),
            cached_tokens=number(child(usage, "input_tokens_details"), "cached_tokens"),
            reasoning_tokens=number(child(usage, "output_tokens_details"), "reasoning_tokens"),
        )


def _message(item: Mapping[str, Any]) -> list[ReplyItem]:
    found: list[ReplyItem] = []
    for part in children(item, "content"):
        kind = text(part, "type")
        if kind in ("output_text", "text", "refusal"):
            found.append(Text(text(part, "text") or text(part, "refusal")))
        else:
            found.append(Opaque(kind))
    return found


def _thought(item: Mapping[str, Any]) -> str:
    parts = [text(p, "text") for p in children(item, "summary") + children(item, "content")]
    return "\n\n".join(part for part in parts if part)


def _finish(
    final: Mapping[str, Any], output: list[dict[str, Any]], items: tuple[ReplyItem, ...]
) -> str:
    reason = text(child(final, "incomplete_details"), "reason")
    if reason == "max_output_tokens":
        return "length"
    if reason == "content_filter":
        return "refusal"
    parts = [p for item in output for p in children(item, "content")]
    if any(part.get("type") == "refusal" for part in parts):
        return "refusal"
    if any(isinstance(item, ToolCall) for item in items):
        return "tool_calls"
    return "other" if reason else "stop"


def _error(event: Mapping[str, Any]) -> object:
    """Find the error: in the response, in the event, or the event itself."""
    return child(child(event, "response"), "error") or event.get("error") or dict(event)
