"""The Anthropic Messages dialect: our request to a body, its stream of events to our reply.

A reply is a list of content blocks. They are kept as they were finished, signatures and unknown
kinds included, and go back in the same order. No I/O and no SDK here.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from perdure.core.codec import arguments_of
from perdure.core.content import (
    Image,
    ModelItem,
    Opaque,
    Part,
    Reasoning,
    ReplyItem,
    ResultItem,
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
from perdure.wire.lenient import (
    arguments,
    child,
    clean,
    clean_all,
    joined,
    merge,
    number,
    raw,
    text,
)

DIALECT: Final = "anthropic-messages"

_CACHE: Final[Mapping[str, str]] = {"type": "ephemeral"}
_EMPTY: Final = "(empty)"
_FINISH: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


def request(req: ModelRequest, provider: str = "anthropic") -> Built:
    """Return the body of POST /v1/messages. System, tools and the last message are cached."""
    done, dropped = history.rounds(req.items)
    messages: list[dict[str, Any]] = []
    for turn in done:
        _round(turn, provider, messages, dropped)
    if not messages or messages[0]["role"] != "user":
        messages.insert(0, {"role": "user", "content": [_text_block(_EMPTY)]})
    _cache_last(messages)
    body: dict[str, Any] = {
        "model": req.model,
        "max_tokens": req.max_output_tokens,
        "messages": messages,
        "stream": True,
    }
    if req.instructions.strip():
        body["system"] = [_text_block(clean(req.instructions)) | {"cache_control": _CACHE}]
    if req.tools:
        tools = [_tool(tool.name, tool.description, tool.input_schema) for tool in req.tools]
        tools[-1]["cache_control"] = _CACHE
        body["tools"] = tools
    body |= steering.for_messages(req)
    return Built(body, tuple(dropped))


def _tool(name: str, description: str, schema: msgspec.Raw) -> dict[str, Any]:
    described = {"description": clean(description)} if description else {}
    return {"name": history.wire_name(name), **described, "input_schema": schema}


def _round(turn: Round, provider: str, messages: list[dict[str, Any]], dropped: list[str]) -> None:
    ids: Mapping[str, str] = {}
    if turn.reply is not None:
        own = history.is_own(turn.reply, provider, DIALECT)
        ids = history.call_ids(turn.reply, own)
        if not own:
            dropped += history.foreign(turn.reply)
        content = list(turn.reply.raw) if own else _converted(turn.reply, ids)
        messages.append({"role": "assistant", "content": content})
    # All results of one reply in one message, before anything else: the vendor insists.
    blocks = [_result(ids[result.call_id], result) for result in turn.results]
    blocks += [_part(part) for part in turn.said if not isinstance(part, Text) or part.text.strip()]
    if blocks or turn.said:
        messages.append({"role": "user", "content": blocks or [_text_block(_EMPTY)]})


def _converted(reply: ModelItem, ids: Mapping[str, str]) -> list[Any]:
    blocks: list[Any] = []
    for item in reply.items:
        if isinstance(item, Text) and item.text.strip():
            blocks.append(_text_block(clean(item.text)))
        elif isinstance(item, ToolCall):
            plain = clean_all(arguments_of(history.as_object(item.arguments)))
            name = history.wire_name(item.tool)
            blocks.append({"type": "tool_use", "id": ids[item.id], "name": name, "input": plain})
    return blocks or [_text_block(history.NO_TEXT)]


def _result(tool_use_id: str, item: ResultItem) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": tool_use_id}
    if item.text:
        block["content"] = clean(item.text)
    if item.is_error:
        block["is_error"] = True
    return block


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return _text_block(clean(part.text))
        case Image(url=url) if url:
            return {"type": "image", "source": {"type": "url", "url": clean(url)}}
        case Image():
            source = {"type": "base64", "media_type": clean(part.media_type)}
            return {"type": "image", "source": source | {"data": clean(part.data)}}


def _text_block(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def _cache_last(messages: list[dict[str, Any]]) -> None:
    """Ask for the history to be cached up to here. The vendor's own blocks are never touched."""
    last = messages[-1]
    if last["role"] == "user":
        last["content"][-1] = last["content"][-1] | {"cache_control": _CACHE}


class _Block:
    """A content block that is being written."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self.value = dict(start)
        self.said: list[str] = []
        self.json: list[str] = []

    @property
    def kind(self) -> str:
        return text(self.value, "type")

    def grow(self, delta: Mapping[str, Any]) -> None:
        """Add a piece. Text is collected and joined at the end: it may come in many pieces."""
        words = text(delta, self.kind)
        self.said.append(words)
        merge(self.value, delta, frozenset({"type", self.kind} if words else {"type"}))

    def closed(self) -> dict[str, Any]:
        """Return the block as the vendor would have sent it in one go."""
        if any(self.said):
            self.value[self.kind] = joined((text(self.value, self.kind), *self.said))
            self.said.clear()
        return self.value

    @property
    def written(self) -> str:
        """The arguments as written; where they came whole, from the block itself."""
        return joined(self.json) or arguments(self.value.get("input")) or "{}"

    def finished(self) -> msgspec.Raw:
        """Freeze the block. A half-written input is wrapped: the vendor takes objects only."""
        if not self.json:
            return raw(self.closed())
        whole = history.as_object(self.written)
        return raw(clean_all(self.closed()) | {"input": msgspec.Raw(whole.encode())})

    @property
    def sendable(self) -> bool:
        """False for what is streamed but not taken back: blank text, thoughts without signature."""
        if self.kind == "text":
            return bool(text(self.closed(), "text").strip())
        return self.kind != "thinking" or bool(text(self.value, "signature"))


class MessagesReader:
    """Takes the events of one stream; see `perdure.wire.stream.Reader`."""

    def __init__(
        self, req: ModelRequest, provider: str = "anthropic", dropped: tuple[str, ...] = ()
    ) -> None:
        self._request = req
        self._provider = provider
        self._dropped = dropped
        self._tools = history.our_names(req)
        self._blocks: dict[int, _Block] = {}
        self._start: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._stop = ""
        self._written_chars = 0
        self._ended = False
        self._begun = False

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def partial(self) -> str:
        return "".join(text(b.closed(), "text") for b in self._ordered() if b.kind == "text")

    def feed(self, event: Mapping[str, Any]) -> list[Delta]:
        """Take the next event. Raises `ModelFailed` for `error`."""
        kind = text(event, "type")
        self._begun = True
        if kind == "error":
            request_id = text(event, "request_id")
            error = event.get("error") or dict(event)
            raise failures.from_event(
                self._provider, error, model=self._request.model, request_id=request_id
            )
        if kind == "message_start":
            self._start = child(event, "message")
            self._usage |= child(self._start, "usage")
        elif kind == "content_block_start":
            return self._started(number(event, "index"), child(event, "content_block"))
        elif kind == "content_block_delta":
            return self._grown(number(event, "index"), child(event, "delta"))
        elif kind == "message_delta":
            self._stop = text(child(event, "delta"), "stop_reason") or self._stop
            told = child(event, "usage")
            self._usage |= {key: value for key, value in told.items() if value is not None}
        elif kind == "message_stop":
            self._ended = True
        return []

    def reply(self, request_id: str = "") -> ModelReply | None:
        if not self._ended:
            return None
        items = self._items()
        calls = any(isinstance(item, ToolCall) for item in items)
        finish = _FINISH.get(self._stop, "other" if self._stop else "stop")
        return ModelReply(
            items=items,
            usage=self._spent(),
            finish="tool_calls" if calls and finish == "stop" else finish,
            raw=tuple(block.finished() for block in self._ordered() if block.sendable),
            dialect=DIALECT,
            provider=self._provider,
            model=text(self._start, "model") or self._request.model,
            request_id=request_id or text(self._start, "id"),
            dropped=self._dropped,
        )

    def spent(self) -> Usage | None:
        return self._spent() if self._begun else None

    def _started(self, index: int, start: Mapping[str, Any]) -> list[Delta]:
        block = self._blocks[index] = _Block(start)
        found = [_said(block.kind, text(start, block.kind))]
        if block.kind == "tool_use":
            found = [CallDelta(self._tool(block), "")]
        return [delta for delta in found if delta is not None]

    def _grown(self, index: int, delta: Mapping[str, Any]) -> list[Delta]:
        kind = text(delta, "type")
        if index not in self._blocks:
            self._blocks[index] = _Block({"type": kind.removesuffix("_delta")})
        block = self._blocks[index]
        if kind == "input_json_delta":
            piece = text(delta, "partial_json")
            block.json.append(piece)
            self._written_chars += len(piece)
            own = block.kind == "tool_use" and piece
            return [CallDelta(self._tool(block), piece)] if own else []
        if kind == "citations_delta":
            delta = {"citations": [delta.get("citation")]}
            block.value["citations"] = block.value.get("citations") or []
        block.grow(delta)
        said = _said(block.kind, text(delta, block.kind))
        self._written_chars += len(text(delta, block.kind))
        return [said] if said is not None else []

    def _items(self) -> tuple[ReplyItem, ...]:
        found: list[ReplyItem] = []
        next_call = self._request.first_call
        for block in self._ordered():
            value = block.closed()
            if block.kind == "text":
                found += [Text(text(value, "text"))] if text(value, "text") else []
            elif block.kind == "thinking":
                found.append(Reasoning(text(value, "thinking")))
            elif block.kind == "redacted_thinking":
                found.append(Reasoning(""))
            elif block.kind == "tool_use":
                call_id = f"{self._request.call_prefix}{next_call}"
                next_call += 1
                # A copy of this API may forget the id: ours goes into the raw block as well.
                value["id"] = text(value, "id") or history.made_id(call_id)
                found.append(ToolCall(call_id, self._tool(block), block.written, value["id"]))
            else:
                found.append(Opaque(block.kind))
        return tuple(found)

    def _ordered(self) -> list[_Block]:
        return [self._blocks[index] for index in sorted(self._blocks)]

    def _tool(self, block: _Block) -> str:
        name = text(block.value, "name")
        return self._tools.get(name, name)

    def _spent(self) -> Usage:
        """Add up what was read: this vendor counts cached tokens beside the others."""
        usage, guess = self._usage, history.estimate(self._request, self._written_chars)
        cached = number(usage, "cache_read_input_tokens")
        fresh = number(usage, "input_tokens") + number(usage, "cache_creation_input_tokens")
        written = number(usage, "output_tokens")
        known = bool(fresh or cached)
        return Usage(
            input_tokens=fresh + cached if known else guess.input_tokens,
            output_tokens=written if self._stop else max(written, guess.output_tokens),
            cached_tokens=cached,
            estimated=not (known and self._stop),
        )


def _said(kind: str, words: str) -> Delta | None:
    if not words:
        return None
    if kind == "text":
        return TextDelta(words)
    return ReasoningDelta(words) if kind == "thinking" else None
