"""Hand-written provider traffic, one class per dialect: what a vendor's server would send.

It is the other half of a contract test, so it must not use `perdure.wire`: whoever writes and
reads with one converter proves nothing.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from perdure.core.content import Opaque, Reasoning, ReplyItem, Text, ToolCall
from perdure.testing.fake_vendors import Answer, answer

Json = dict[str, Any]
Stream = tuple[bytes, ...]

PIECE_CHARS: Final = 7
SIGNATURE: Final = "c2lnbmVk+/=="


class Traffic(Protocol):
    """One dialect, as a server speaks it."""

    name: str
    path: str

    def reply(self, items: Sequence[ReplyItem], finish: str = "") -> Stream:
        """Return the frames of a good reply. An `Opaque` becomes an item nobody knows."""
        ...

    def error(self, status: int, word: str, message: str) -> Json:
        """Return the body of an error; `word` is the type or code."""
        ...

    def broken(self, word: str, message: str) -> bytes:
        """Return the frame of an error inside a stream."""
        ...

    def results(self, body: Json) -> list[tuple[str, str]]:
        """Return id and text of the tool results in a request."""
        ...

    def texts(self, body: Json) -> list[str]:
        """Return what people said in a request."""
        ...


def frame(value: Mapping[str, Any], event: str = "") -> bytes:
    """Return one server-sent event, in UTF-8; lone surrogates go out as escapes."""
    head = f"event: {event}\n".encode() if event else b""
    try:
        data = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        data = json.dumps(value).encode()
    return head + b"data: " + data + b"\n\n"


def stream(frames: Sequence[bytes], **headers: str) -> Answer:
    """Return an answer that streams the frames."""
    more = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(tuple(frames), headers=(("content-type", "text/event-stream"), *more))


def refusal(traffic: Traffic, status: int, word: str, message: str, **headers: str) -> Answer:
    """Return an answer that is an error."""
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return answer(status, traffic.error(status, word, message), more)


def pieces(text: str) -> list[str]:
    """Cut a text as a stream would; a very long one into few, long pieces."""
    size = max(PIECE_CHARS, len(text) // 4)
    return [text[i : i + size] for i in range(0, len(text), size)]


class Responses:
    """OpenAI's Responses API."""

    name = "openai-responses"
    path = "/responses"

    def reply(self, items: Sequence[ReplyItem], finish: str = "") -> Stream:
        events: list[Json] = [{"type": "response.created", "response": {"id": "resp_1"}}]
        output = [self._item(number, item) for number, item in enumerate(items)]
        for index, item in enumerate(output):
            added = {key: item[key] for key in item.keys() & {"id", "type", "name", "call_id"}}
            events.append(
                {"type": "response.output_item.added", "output_index": index, "item": added}
            )
            events += [e | {"output_index": index} for e in self._deltas(item)]
            events.append(
                {"type": "response.output_item.done", "output_index": index, "item": item}
            )
        usage = {
            "input_tokens": 120,
            "output_tokens": 34,
            "input_tokens_details": {"cached_tokens": 100},
            "output_tokens_details": {"reasoning_tokens": 12},
        }
        last = {"id": "resp_1", "model": "m-2026", "output": output, "usage": usage}
        kind = "response.completed"
        if finish in ("length", "refusal"):
            kind = "response.incomplete"
            reason = "max_output_tokens" if finish == "length" else "content_filter"
            last["incomplete_details"] = {"reason": reason}
        events.append({"type": kind, "response": last})
        return tuple(frame({**e, "sequence_number": n}, e["type"]) for n, e in enumerate(events))

    def _item(self, number: int, item: ReplyItem) -> Json:
        match item:
            case Text(text=text):
                part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
                return {
                    "id": f"msg_{number}",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [part],
                }
            case Reasoning(text=text):
                return {
                    "id": f"rs_{number}",
                    "type": "reasoning",
                    "summary": [{"type": "summary_text", "text": text}],
                    "encrypted_content": SIGNATURE,
                }
            case ToolCall():
                return {
                    "id": f"fc_{number}",
                    "type": "function_call",
                    "status": "completed",
                    "call_id": item.vendor_id,
                    "name": item.tool,
                    "arguments": item.arguments,
                }
            case Opaque(kind=kind):
                return {"type": kind, "blob": [1, 2.5, None, {"deep": "ü\u2028"}]}

    def _deltas(self, item: Json) -> list[Json]:
        if item["type"] == "message":
            text, kind = item["content"][0]["text"], "response.output_text.delta"
        elif item["type"] == "reasoning":
            text, kind = item["summary"][0]["text"], "response.reasoning_summary_text.delta"
        elif item["type"] == "function_call":
            text, kind = item["arguments"], "response.function_call_arguments.delta"
        else:
            return []
        return [{"type": kind, "delta": piece} for piece in pieces(text)]

    def error(self, status: int, word: str, message: str) -> Json:
        kind = "invalid_request_error" if status < 500 else "server_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": word}}

    def broken(self, word: str, message: str) -> bytes:
        error = {"code": word, "message": message}
        failed = {"type": "response.failed", "response": {"status": "failed", "error": error}}
        return frame(failed, "response.failed")

    def results(self, body: Json) -> list[tuple[str, str]]:
        found = [i for i in body["input"] if i.get("type") == "function_call_output"]
        return [(i["call_id"], i["output"]) for i in found]

    def texts(self, body: Json) -> list[str]:
        return [i["content"] for i in body["input"] if i.get("role") == "user"]


class Chat:
    """Chat Completions."""

    name = "openai-chat"
    path = "/chat/completions"

    def reply(self, items: Sequence[ReplyItem], finish: str = "") -> Stream:
        deltas: list[Json] = [{"role": "assistant", "content": None}]
        index = 0
        for item in items:
            match item:
                case Text(text=text):
                    deltas += [{"content": piece} for piece in pieces(text)]
                case Reasoning(text=text):
                    deltas += [{"reasoning_content": piece} for piece in pieces(text)]
                case ToolCall():
                    deltas += self._call(index, item)
                    index += 1
                case Opaque(kind=kind):
                    deltas.append({kind: [1, 2.5, {"deep": "ü\u2028"}]})
        why = {"length": "length", "refusal": "content_filter"}.get(finish)
        chunks: list[Json] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        why = why or ("tool_calls" if index else "stop")
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": why}]})
        usage = {
            "prompt_tokens": 120,
            "completion_tokens": 34,
            "prompt_tokens_details": {"cached_tokens": 100},
            "completion_tokens_details": {"reasoning_tokens": 12},
        }
        chunks.append({"choices": [], "usage": usage})
        head = {"id": "chatcmpl_1", "object": "chat.completion.chunk", "model": "m-2026"}
        return (*(frame(head | chunk) for chunk in chunks), b"data: [DONE]\n\n")

    def _call(self, index: int, item: ToolCall) -> list[Json]:
        first: Json = {"id": item.vendor_id, "type": "function", "function": {"name": item.tool}}
        more: list[Json] = [{"function": {"arguments": p}} for p in pieces(item.arguments)]
        return [{"tool_calls": [{"index": index, **piece}]} for piece in (first, *more)]

    def error(self, status: int, word: str, message: str) -> Json:
        return Responses().error(status, word, message)

    def broken(self, word: str, message: str) -> bytes:
        return frame({"error": {"message": message, "type": word, "code": word}})

    def results(self, body: Json) -> list[tuple[str, str]]:
        found = [m for m in body["messages"] if m["role"] == "tool"]
        return [(m["tool_call_id"], m["content"]) for m in found]

    def texts(self, body: Json) -> list[str]:
        return [m["content"] for m in body["messages"] if m["role"] == "user"]


class Messages:
    """Anthropic's Messages API."""

    name = "anthropic-messages"
    path = "/v1/messages"

    def reply(self, items: Sequence[ReplyItem], finish: str = "") -> Stream:
        usage = {
            "input_tokens": 15,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 100,
            "output_tokens": 1,
        }
        message = {"id": "msg_1", "role": "assistant", "model": "m-2026", "usage": usage}
        events: list[Json] = [{"type": "message_start", "message": message}, {"type": "ping"}]
        for index, item in enumerate(items):
            start, deltas = self._block(item)
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            events += [
                {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
            ]
            events.append({"type": "content_block_stop", "index": index})
        calls = any(isinstance(item, ToolCall) for item in items)
        why = {"length": "max_tokens", "refusal": "refusal"}.get(finish)
        delta = {"stop_reason": why or ("tool_use" if calls else "end_turn")}
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 34}})
        events.append({"type": "message_stop"})
        return tuple(frame(event, event["type"]) for event in events)

    def _block(self, item: ReplyItem) -> tuple[Json, list[Json]]:
        match item:
            case Text(text=text):
                deltas = [{"type": "text_delta", "text": piece} for piece in pieces(text)]
                return {"type": "text", "text": ""}, deltas
            case Reasoning(text=text):
                deltas = [{"type": "thinking_delta", "thinking": p} for p in pieces(text)]
                deltas.append({"type": "signature_delta", "signature": SIGNATURE})
                return {"type": "thinking", "thinking": "", "signature": ""}, deltas
            case ToolCall():
                start = {"type": "tool_use", "id": item.vendor_id, "name": item.tool, "input": {}}
                written = pieces(item.arguments)
                return start, [{"type": "input_json_delta", "partial_json": p} for p in written]
            case Opaque(kind=kind):
                return {"type": kind, "blob": [1, 2.5, None, {"deep": "ü\u2028"}]}, []

    def error(self, status: int, word: str, message: str) -> Json:
        return {"type": "error", "error": {"type": word, "message": message}}

    def broken(self, word: str, message: str) -> bytes:
        return frame(self.error(0, word, message), "error")

    def results(self, body: Json) -> list[tuple[str, str]]:
        blocks = [b for m in body["messages"] if m["role"] == "user" for b in m["content"]]
        found = [b for b in blocks if b["type"] == "tool_result"]
        return [(b["tool_use_id"], b.get("content", "")) for b in found]

    def texts(self, body: Json) -> list[str]:
        blocks = [b for m in body["messages"] if m["role"] == "user" for b in m["content"]]
        return [b["text"] for b in blocks if b["type"] == "text"]
