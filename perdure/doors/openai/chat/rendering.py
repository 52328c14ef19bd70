"""A response as a chat completion, whole or in chunks."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from perdure.doors.openai.problems import Wording

Json = dict[str, Any]

_STATUS: Final = {"rate_limit_exceeded": 429, "invalid_prompt": 400}
_CALLS: Final = ("function_call", "custom_tool_call")


def name_of(response: Json) -> str:
    """Return the completion's id."""
    return f"chatcmpl-{str(response['id']).partition('_')[2]}"


def completion(response: Json, body: Json) -> Json:
    """Return the completion. Raises `Wording` for a response that failed."""
    if response["status"] in ("failed", "cancelled"):
        raise failed(response)
    texts = [i for i in response["output"] if i["type"] == "message"]
    whole = [i for i in texts if i["status"] == "completed"] or texts
    said = "".join(part["text"] for i in whole for part in i["content"])
    calls = [call_json(i) for i in response["output"] if i["type"] in _CALLS]
    message: Json = {
        "role": "assistant",
        "content": said if said or not calls else None,
        "refusal": None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish(response)}
    return _head(response, "chat.completion") | {
        "choices": [choice],
        "usage": usage(response),
        "metadata": body.get("metadata"),
    }


def failed(response: Json) -> Wording:
    """Return the error that a failed response stands for."""
    error = response.get("error") or {"code": "server_error", "message": "It was cancelled."}
    return Wording(_STATUS.get(error["code"], 500), error["message"], code=error["code"])


def finish(response: Json) -> str:
    """Say why the reply ended."""
    if response["status"] == "incomplete":
        return "length"
    calls = any(item["type"] in _CALLS for item in response["output"])
    return "tool_calls" if calls else "stop"


def call_json(item: Json) -> Json:
    """Return a call as a message holds it."""
    if item["type"] == "custom_tool_call":
        custom = {"name": item["name"], "input": item["input"]}
        return {"id": item["call_id"], "type": "custom", "custom": custom}
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def usage(response: Json) -> Json:
    """Return the tokens used."""
    used: Mapping[str, Any] = response.get("usage") or {}
    read, wrote = used.get("input_tokens", 0), used.get("output_tokens", 0)
    cached = used.get("input_tokens_details", {}).get("cached_tokens", 0)
    thought = used.get("output_tokens_details", {}).get("reasoning_tokens", 0)
    return {
        "prompt_tokens": read,
        "completion_tokens": wrote,
        "total_tokens": read + wrote,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": thought,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class Chunks:
    """A completion as it is written. `feed` the events of its response, in order."""

    def __init__(self, *, with_usage: bool) -> None:
        self._with_usage = with_usage
        self._head: Json = {}
        self._calls: dict[str, int] = {}  # by item

    def feed(self, event: Json) -> Iterator[Json]:
        """Yield what an event adds. Raises `Wording` when the response has failed."""
        match event["type"]:
            case "response.created":
                self._head = _head(event["response"], "chat.completion.chunk")
                yield self._chunk({"role": "assistant", "content": "", "refusal": None})
            case "response.output_text.delta":
                yield self._chunk({"content": event["delta"]})
            case "response.output_item.added" if event["item"]["type"] in _CALLS:
                yield self._call(event["item"])
            case "response.function_call_arguments.delta":
                number = self._calls[event["item_id"]]
                function = {"arguments": event["delta"]}
                yield self._chunk({"tool_calls": [{"index": number, "function": function}]})
            case "response.custom_tool_call_input.delta":
                number = self._calls[event["item_id"]]
                custom = {"input": event["delta"]}
                yield self._chunk({"tool_calls": [{"index": number, "custom": custom}]})
            case "response.completed" | "response.incomplete" | "response.failed":
                yield from self._end(event["response"])
            case _:
                pass

    def _call(self, item: Json) -> Json:
        number = self._calls[item["id"]] = len(self._calls)
        return self._chunk({"tool_calls": [{"index": number, **call_json(item)}]})

    def _end(self, response: Json) -> Iterator[Json]:
        if response["status"] in ("failed", "cancelled"):
            raise failed(response)
        yield self._chunk({}, finish(response))
        if self._with_usage:
            yield self._head | {"choices": [], "usage": usage(response)}

    def _chunk(self, delta: Json, reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        more = {"usage": None} if self._with_usage else {}
        return self._head | {"choices": [choice]} | more


def _head(response: Json, kind: str) -> Json:
    return {
        "id": name_of(response),
        "object": kind,
        "created": response["created_at"],
        "model": response["model"],
        "service_tier": "default",
        "system_fingerprint": None,
    }
