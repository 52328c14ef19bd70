"""A response as JSON and as its stream of numbered events: a pure function of the journal.

The numbers must be the same whenever the stream is read, in whichever process, so nothing here
looks at a clock or at what a reader has seen before.
"""

from collections.abc import Iterator
from typing import Any, Final

from perdure.core import events as e, step as due
from perdure.core.agent import AgentSpec
from perdure.core.content import Usage
from perdure.core.errors import ErrorInfo
from perdure.core.events import Event
from perdure.core.state import State
from perdure.core.step import next_step
from perdure.doors.openai.happenings import (
    Added,
    Answered,
    CallItem,
    Done,
    Happening,
    Item,
    Items,
    Piece,
    Words,
)
from perdure.doors.openai.responses.records import ResponseRecord

Json = dict[str, Any]

_ECHOED: Final[Json] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_CODES: Final = {
    "E-MODEL-RATE": "rate_limit_exceeded",
    "E-MODEL-REJECT": "invalid_prompt",
    "E-MODEL-REFUSED": "invalid_prompt",
}


class Rendering:
    """One response being read. `begin()` once, then `feed` every event of its session after
    `record.after`, each with the state behind it, until `ended`.
    """

    def __init__(self, record: ResponseRecord, spec: AgentSpec) -> None:
        self.record = record
        self.ended = False
        self.until = 0
        self._items = Items(spec)
        self._approvals: list[Json] = []  # requests that wait for a person, as output items
        self._output: list[Json] = []
        self._number = 0
        self._status = "queued" if record.background else "in_progress"
        self._error: Json | None = None
        self._incomplete: Json | None = None
        self._completed_at: int | None = None
        self._input = 0  # the seq of our input, once it was taken
        self._active = False

    def begin(self) -> list[Json]:
        """Return the events that every stream starts with."""
        first = [self._event("response.created", response=self.snapshot())]
        if self._status == "queued":
            first.append(self._event("response.queued", response=self.snapshot()))
            self._status = "in_progress"
        return [*first, self._event("response.in_progress", response=self.snapshot())]

    def feed(self, event: Event, state: State) -> list[Json]:
        """Return what an event adds to the stream."""
        if self.ended or not self._is_ours(event, state):
            return []
        made = [each for h in self._items.feed(event) for each in self._tell(h)]
        if isinstance(event.payload, e.ActionRequested) and event.payload.kind == "approve":
            made += self._ask(event.payload, state)
        return made + self._end(event, state)

    def _is_ours(self, event: Event, state: State) -> bool:
        """Whether our turn has begun: in a conversation another one may still be going on."""
        match event.payload:
            case e.InputAccepted(key=key) if key == key_of(self.record.id):
                self._input = event.seq
                self._active = self._active or state.turn is not None
            case e.TurnStarted(input=seq) if seq == self._input:
                self._active = True
            case _:
                pass
        return self._active

    def snapshot(self) -> Json:
        """Return the response as it is now."""
        record = self.record
        usage = self._items.usage
        return (
            _ECHOED
            | record.request
            | {
                "id": record.id,
                "object": "response",
                "created_at": record.created_at,
                "completed_at": self._completed_at,
                "status": self._status,
                "background": record.background,
                "model": record.model,
                "output": list(self._output),
                "error": self._error,
                "incomplete_details": self._incomplete,
                "previous_response_id": record.previous or None,
                "conversation": {"id": record.conversation} if record.conversation else None,
                "usage": usage_json(usage) if self.ended else None,
            }
        )

    def _tell(self, happening: Happening) -> Iterator[Json]:
        match happening:
            case Added(item=item):
                yield from self._begins(item)
            case Piece(item=words, delta=delta):
                kind = "output_text" if words.channel == "text" else "reasoning_summary_text"
                place = _place(words)
                more: Json = {"logprobs": []} if words.channel == "text" else {}
                yield self._event(f"response.{kind}.delta", **place, delta=delta, **more)
            case Done(item=item):
                yield from self._ends(item)
            case Answered():
                return  # what the client said is input of the next response

    def _begins(self, item: Item) -> Iterator[Json]:
        return self._words_begin(item) if isinstance(item, Words) else self._call_begins(item)

    def _ends(self, item: Item) -> Iterator[Json]:
        return self._words_end(item) if isinstance(item, Words) else self._call_ends(item)

    def _words_begin(self, words: Words) -> Iterator[Json]:
        yield self._added(words.index, item_json(words))
        place = _place(words)
        if words.channel == "text":
            yield self._event("response.content_part.added", **place, part=_text_part(""))
        else:
            part = {"type": "summary_text", "text": ""}
            yield self._event("response.reasoning_summary_part.added", **place, part=part)

    def _words_end(self, words: Words) -> Iterator[Json]:
        place = _place(words)
        if words.channel == "text":
            yield self._event("response.output_text.done", **place, text=words.text, logprobs=[])
            yield self._event("response.content_part.done", **place, part=_text_part(words.text))
        else:
            part = {"type": "summary_text", "text": words.text}
            yield self._event("response.reasoning_summary_text.done", **place, text=words.text)
            yield self._event("response.reasoning_summary_part.done", **place, part=part)
        yield self._done(words.index, item_json(words))

    def _call_begins(self, call: CallItem) -> Iterator[Json]:
        item = item_json(call)
        written = item | {"arguments": ""} if "arguments" in item else item
        yield self._added(call.index, written)
        place = {"item_id": call.id, "output_index": call.index}
        if item["type"] in ("function_call", "mcp_call"):
            kind = "function_call" if item["type"] == "function_call" else "mcp_call"
            if kind == "mcp_call":
                yield self._event("response.mcp_call.in_progress", **place)
            text = call.call.arguments
            yield self._event(f"response.{kind}_arguments.delta", **place, delta=text)
            more = {"name": call.call.tool} if kind == "function_call" else {}
            done = f"response.{kind}_arguments.done"
            yield self._event(done, **place, arguments=text, **more)
            self._output[call.index] = item

    def _call_ends(self, call: CallItem) -> Iterator[Json]:
        item = item_json(call)
        if item["type"] == "mcp_call":
            end = "failed" if call.failed else "completed"
            yield self._event(f"response.mcp_call.{end}", item_id=call.id, output_index=call.index)
        yield self._done(call.index, item)

    def _ask(self, p: e.ActionRequested, state: State) -> list[Json]:
        """Show an approval as an item: the answer to it comes with the next response."""
        call = state.turn.calls.get(p.call_id) if state.turn else None
        if call is None:
            return []
        spec = state.spec.tool(call.call.tool)
        self._approvals.append(
            {
                "id": f"mcpr_{p.action_id}_{self.record.id}",
                "type": "mcp_approval_request",
                "arguments": call.call.arguments,
                "name": call.call.tool,
                "server_label": spec.source.removeprefix("mcp:") if spec else "",
            }
        )
        return []

    def _end(self, event: Event, state: State) -> list[Json]:
        match event.payload:
            case e.TurnEnded(status=status, error=error):
                return self._finish(event, status, error)
            case e.SessionParked(error=error):
                return self._finish(event, "failed", error)
            case _ if waits_for_client(state):
                return self._finish(event, "completed", None)
            case _:
                return []

    def _finish(self, event: Event, status: str, error: ErrorInfo | None) -> list[Json]:
        self.ended, self.until = True, event.seq
        made: list[Json] = []
        for item in self._approvals:
            index = len(self._output)
            made += [self._added(index, item), self._done(index, item)]
        match status:
            case "completed":
                self._status, self._completed_at = "completed", event.at_us // 1_000_000
                kind = "response.completed"
            case "budget":
                self._status, kind = "incomplete", "response.incomplete"
                self._incomplete = {"reason": "max_output_tokens"}
            case "cancelled":
                self._status, kind = "cancelled", "response.incomplete"
            case _:
                self._status, kind = "failed", "response.failed"
                self._error = error_json(error)
        return [*made, self._event(kind, response=self.snapshot())]

    def _added(self, index: int, item: Json) -> Json:
        while len(self._output) <= index:
            self._output.append(item)
        self._output[index] = item
        return self._event("response.output_item.added", output_index=index, item=item)

    def _done(self, index: int, item: Json) -> Json:
        self._output[index] = item
        return self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, type: str, **fields: Any) -> Json:
        event = {"type": type, "sequence_number": self._number, **fields}
        self._number += 1
        return event


def key_of(response: str) -> str:
    """Return the key of the letter that starts a response."""
    return f"response:{response}"


def waits_for_client(state: State) -> bool:
    """Whether the turn goes on only when somebody outside answers or decides."""
    step = next_step(state)
    return isinstance(step, due.Ask) and all(
        action.kind in ("answer", "approve") for action in step.actions
    )


def item_json(item: Item) -> Json:
    """Return an output item."""
    if isinstance(item, CallItem):
        return _call_json(item)
    if item.channel == "reasoning":
        summary = [{"type": "summary_text", "text": item.text}] if item.text else []
        return {"id": item.id, "type": "reasoning", "summary": summary, "status": item.status}
    content = [] if item.status == "in_progress" else [_text_part(item.text)]
    return {
        "id": item.id,
        "type": "message",
        "role": "assistant",
        "status": item.status,
        "content": content,
    }


def call_id_of(item: CallItem) -> str:
    """Return the call's id as the client sees it."""
    return item.call.vendor_id or item.call.id


def _call_json(item: CallItem) -> Json:
    call = item.call
    if item.kind == "mcp":
        label = item.spec.source.removeprefix("mcp:") if item.spec else ""
        said = {"type": "mcp_tool_execution_error", "content": item.output}
        return {
            "id": item.id,
            "type": "mcp_call",
            "server_label": label,
            "name": call.tool,
            "arguments": call.arguments,
            "status": item.status,
            "output": None if item.failed else item.output,
            "error": said if item.failed else None,
            "approval_request_id": None,
        }
    return {
        "id": item.id,
        "type": "function_call",
        "call_id": call_id_of(item),
        "name": call.tool,
        "arguments": call.arguments,
        "status": "completed" if item.status == "failed" else item.status,
    }


def usage_json(usage: Usage) -> Json:
    """Return tokens in the form of a response."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def error_json(error: ErrorInfo | None) -> Json:
    """Return a turn's error in the form of a response."""
    if error is None:
        return {"code": "server_error", "message": "The turn failed."}
    return {
        "code": _CODES.get(error.code, "server_error"),
        "message": f"{error.message} [{error.code}]",
    }


def _place(words: Words) -> Json:
    place: Json = {"item_id": words.id, "output_index": words.index}
    return place | ({"content_index": 0} if words.channel == "text" else {"summary_index": 0})


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
