"""The Chat Completions dialect, as OpenAI speaks it and as local servers imitate it.

A reply is one assistant message, put together from its pieces; fields nobody knows (a local
server's reasoning, a proxy's signature on a call) survive. No I/O and no SDK here.
"""

from collections.abc import Mapping
from typing import Any, Final

from perdure.core.agent import ToolSpec
from perdure.core.content import (
    Image,
    ModelItem,
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
from perdure.wire.lenient import arguments, child, children, clean, joined, merge, number, raw, text

DIALECT: Final = "openai-chat"

_KNOWN: Final = frozenset({"role", "content", "tool_calls", "refusal", "function_call"})
_KNOWN_OF_CALL: Final = frozenset({"id", "type", "function", "index"})
_THOUGHTS: Final = ("reasoning_content", "reasoning")
_FINISH: Final[Mapping[str, str]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "refusal",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


def request(req: ModelRequest, provider: str = "openai") -> Built:
    """Return the body of POST /chat/completions."""
    done, dropped = history.rounds(req.items)
    messages: list[Any] = []
    if req.instructions.strip():
        messages.append({"role": "system", "content": clean(req.instructions)})
    for turn in done:
        messages += _round(turn, provider, dropped)
    # OpenAI's newer models refuse the old name of the limit; older servers do not know the new.
    limit = "max_completion_tokens" if provider == "openai" else "max_tokens"
    body: dict[str, Any] = {
        "model": req.model,
        "messages": messages,
        limit: req.max_output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if req.tools:
        body["tools"] = [_tool(tool) for tool in req.tools]
    body |= steering.for_chat(req)
    return Built(body, tuple(dropped))


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": history.wire_name(tool.name),
            "description": clean(tool.description),
            "parameters": tool.input_schema,
        },
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
            found.append(_converted(turn.reply, ids))
        for result in turn.results:
            call_id, said = ids[result.call_id], history.result_text(result)
            found.append({"role": "tool", "tool_call_id": call_id, "content": said})
    if turn.said:
        found.append({"role": "user", "content": _content(turn.said)})
    return found


def _converted(reply: ModelItem, ids: Mapping[str, str]) -> dict[str, Any]:
    calls = [
        _call(ids[item.id], history.wire_name(item.tool), item.arguments)
        for item in reply.items
        if isinstance(item, ToolCall)
    ]
    said = history.plain_text(reply)
    message: dict[str, Any] = {"role": "assistant", "content": said or None}
    if calls:
        message["tool_calls"] = calls
    elif not said:
        message["content"] = history.NO_TEXT
    return message


def _call(call_id: str, name: str, written: str) -> dict[str, Any]:
    function = {"name": name, "arguments": history.as_object(written)}
    return {"id": call_id, "type": "function", "function": function}


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    only = history.text_only(parts)
    return only if only is not None else [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": clean(part.text)}
        case Image():
            return {"type": "image_url", "image_url": {"url": history.data_url(part)}}


class _Call:
    """A tool call that is being written."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.extra: dict[str, Any] = {}

    @property
    def arguments(self) -> str:
        return joined(self.pieces)


class ChatReader:
    """Takes the chunks of one stream; see `perdure.wire.stream.Reader`."""

    def __init__(
        self, req: ModelRequest, provider: str = "openai", dropped: tuple[str, ...] = ()
    ) -> None:
        self._request = req
        self._provider = provider
        self._dropped = dropped
        self._tools = history.our_names(req)
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._refusal: list[str] = []
        self._extra: dict[str, Any] = {}
        self._calls: list[_Call] = []
        self._at: dict[int, int] = {}
        self._usage: dict[str, Any] = {}
        self._finish = ""
        self._model = ""
        self._id = ""
        self._ended = False
        self._begun = False

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def partial(self) -> str:
        return "".join(self._text or self._refusal)

    def feed(self, event: Mapping[str, Any]) -> list[Delta]:
        """Take the next chunk. Raises `ModelFailed` for an error inside the stream."""
        if event.get("type") == "[DONE]":
            self._ended = True
            return []
        self._begun = True
        if event.get("error") or event.get("type") == "error":
            error = event.get("error") or dict(event)
            raise failures.from_event(self._provider, error, model=self._request.model)
        self._usage = child(event, "usage") or self._usage
        self._model = text(event, "model") or self._model
        self._id = text(event, "id") or self._id
        found: list[Delta] = []
        for choice in children(event, "choices")[:1]:
            found += self._piece(child(choice, "delta") or child(choice, "message"))
            self._finish = text(choice, "finish_reason") or self._finish
        return found

    def reply(self, request_id: str = "") -> ModelReply | None:
        if not (self._finish or self._ended) or not self._begun:
            return None
        items, message = self._finished()
        finish = _FINISH.get(self._finish, "other" if self._finish else "stop")
        if self._refusal:
            finish = "refusal"
        elif finish in ("stop", "tool_calls", "other"):
            # Local servers say `stop` after calls, and `tool_calls` where there is none.
            finish = "tool_calls" if self._calls else ("other" if finish == "other" else "stop")
        return ModelReply(
            items=items,
            usage=self._spent(),
            finish=finish,
            raw=(raw(message),),
            dialect=DIALECT,
            provider=self._provider,
            model=self._model or self._request.model,
            request_id=request_id or self._id,
            dropped=self._dropped,
        )

    def spent(self) -> Usage | None:
        return self._spent() if self._begun else None

    def _piece(self, delta: dict[str, Any]) -> list[Delta]:
        found: list[Delta] = []
        thought = next((text(delta, key) for key in _THOUGHTS if text(delta, key)), "")
        if thought:
            self._thoughts.append(thought)
            found.append(ReasoningDelta(thought))
        for said, kept in ((_said(delta), self._text), (text(delta, "refusal"), self._refusal)):
            if said:
                kept.append(said)
                found.append(TextDelta(said))
        for piece in children(delta, "tool_calls"):
            found += self._call_piece(piece)
        merge(self._extra, delta, _KNOWN)
        return found

    def _call_piece(self, piece: Mapping[str, Any]) -> list[Delta]:
        function = child(piece, "function")
        call = self._slot(piece, text(function, "name"))
        call.id = call.id or text(piece, "id")
        call.name = call.name or text(function, "name")
        written = arguments(function.get("arguments"))
        call.pieces.append(written)
        merge(call.extra, piece, _KNOWN_OF_CALL)
        return [CallDelta(self._tools.get(call.name, call.name), written)]

    def _slot(self, piece: Mapping[str, Any], name: str) -> _Call:
        """Find the call a piece belongs to. Servers omit the index, or give 0 to every call."""
        index, call_id = piece.get("index"), text(piece, "id")
        if isinstance(index, int):
            at = self._at.get(index, -1)
            same = at >= 0 and (not call_id or self._calls[at].id in ("", call_id))
        else:
            at = len(self._calls) - 1
            same = at >= 0 and (self._calls[at].id == call_id if call_id else not name)
        if same:
            return self._calls[at]
        self._calls.append(_Call())
        if isinstance(index, int):
            self._at[index] = len(self._calls) - 1
        return self._calls[-1]

    def _finished(self) -> tuple[tuple[ReplyItem, ...], dict[str, Any]]:
        """Return our items, and the assistant message as it will be sent back."""
        said, refusal = joined(self._text), joined(self._refusal)
        message: dict[str, Any] = {"role": "assistant", "content": said or None}
        message |= self._extra
        items: list[ReplyItem] = []
        if self._thoughts:
            items.append(Reasoning(joined(self._thoughts)))
        items += [Text(words) for words in (said, refusal) if words]
        if refusal:
            message["refusal"] = refusal
        for number_, call in enumerate(self._calls, start=self._request.first_call):
            call_id = f"{self._request.call_prefix}{number_}"
            call.id = call.id or history.made_id(call_id)
            tool = self._tools.get(call.name, call.name)
            items.append(ToolCall(call_id, tool, call.arguments or "{}", call.id))
        if self._calls:
            message["tool_calls"] = [
                _call(call.id, call.name, call.arguments) | call.extra for call in self._calls
            ]
        elif not said and not refusal:
            message["content"] = history.NO_TEXT
        return tuple(items), message

    def _spent(self) -> Usage:
        usage = self._usage
        if not number(usage, "prompt_tokens") and not number(usage, "completion_tokens"):
            written = sum(map(len, (*self._text, *self._thoughts, *self._refusal)))
            written += sum(len(call.arguments) for call in self._calls)
            return history.estimate(self._request, written)
        cached = number(child(usage, "prompt_tokens_details"), "cached_tokens")
        details = child(usage, "completion_tokens_details")
        return Usage(
            input_tokens=number(usage, "prompt_tokens"),
            output_tokens=number(usage, "completion_tokens"),
            cached_tokens=cached or number(usage, "prompt_cache_hit_tokens"),
            reasoning_tokens=number(details, "reasoning_tokens"),
        )


def _said(delta: Mapping[str, Any]) -> str:
    """Return the content of a piece: a string, or parts whose texts are joined."""
    parts = children(delta, "content")
    return text(delta, "content") or "".join(text(part, "text") for part in parts)
