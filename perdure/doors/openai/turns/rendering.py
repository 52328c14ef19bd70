"""A response as JSON and as its stream of numbered events: a pure function of the journal.

The numbers must be the same whenever the stream is read, in whichever process, so nothing here
looks at a clock or at what a reader has seen before.
"""

from collections.abc import Iterator
from typing import Any, Final

from perdure.core import events as e, step as due
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
from perdure.doors.openai.outputs import sealed
from perdure.doors.openai.turns.items import (
    error_json,
    item_json,
    shell_output_json,
    text_of_input,
    text_part,
    usage_json,
)
from perdure.doors.openai.turns.records import ResponseRecord

Json = dict[str, Any]

_ECHOED: Final[Json] = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
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


class Rendering:
    """One response being read. `state` is the one at `record.after`. `begin()` once, then `feed`
    every event of its session behind that, each with the state after it, until `ended`.
    """

    def __init__(self, record: ResponseRecord, state: State) -> None:
        self.record = record
        self.ended = False
        self.until = 0
        calls = {c.call.id: c.call for c in state.open_calls}
        self._items = Items(state.spec, calls)
        self._granted = _granted(record, state)
        self._at: dict[int, int] = {}  # where in the output each of the items is
        self._approvals: list[Json] = []  # requests that wait for a person, as output items
        self._output: list[Json] = []
        self._number = 0
        self._status = "queued" if record.background else "in_progress"
        self._error: Json | None = None
        self._incomplete: Json | None = None
        self._completed_at: int | None = None
        self._input = 0  # the seq of our input, once it was taken
        self._active = False
        self._owed: set[str] = set()  # what the client is just about to answer

    def begin(self) -> list[Json]:
        """Return the events that every stream starts with."""
        made = [self._event("response.created", response=self.snapshot())]
        if self._status == "queued":
            made.append(self._event("response.queued", response=self.snapshot()))
            self._status = "in_progress"
        made.append(self._event("response.in_progress", response=self.snapshot()))
        for item in self.record.listings:
            made += self._listed(item)
        return made

    def feed(self, event: Event, state: State) -> list[Json]:
        """Return what an event adds to the stream."""
        if self.ended or not self._is_ours(event, state):
            return []
        made = [each for h in self._items.feed(event) for each in self._tell(h)]
        match event.payload:
            case e.ActionRequested(kind="approve") as asked:
                self._ask(asked, state)
            case e.ContextCompacted(summary=summary) if summary:
                made += self._compacted(event, summary)
            case _:
                pass
        return made + self._end(event, state)

    @property
    def error(self) -> Json | None:
        """Why the response failed, if it did."""
        return self._error

    def _is_ours(self, event: Event, state: State) -> bool:
        """Whether our turn has begun: in a conversation another one may still be going on."""
        match event.payload:
            case e.InputAccepted(key=key) if key == key_of(self.record.id):
                self._input = event.seq
                self._active = self._active or state.turn is not None
                self._owed = set(state.actions)
            case e.SessionUpdated():
                self._items.feed(event)  # under which definition our turn will run
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
                "store": record.stored,
                "usage": usage_json(usage) if self.ended else None,
            }
        )

    def _tell(self, happening: Happening) -> Iterator[Json]:
        match happening:
            case Added(item=item):
                yield from self._begins(item)
            case Piece(item=words, delta=delta):
                kind = "output_text" if words.channel == "text" else "reasoning_summary_text"
                place = self._place(words)
                more: Json = {"logprobs": []} if words.channel == "text" else {}
                yield self._event(f"response.{kind}.delta", **place, delta=delta, **more)
            case Done(item=item):
                yield from self._ends(item)
            case Answered():
                return  # what the client said is input of the next response

    def _begins(self, item: Item) -> Iterator[Json]:
        self._at[item.index] = len(self._output)
        return self._words_begin(item) if isinstance(item, Words) else self._call_begins(item)

    def _ends(self, item: Item) -> Iterator[Json]:
        return self._words_end(item) if isinstance(item, Words) else self._call_ends(item)

    def _words_begin(self, words: Words) -> Iterator[Json]:
        yield self._added(self._json(words))
        place = self._place(words)
        if words.channel == "text":
            yield self._event("response.content_part.added", **place, part=text_part(""))
        else:
            part = {"type": "summary_text", "text": ""}
            yield self._event("response.reasoning_summary_part.added", **place, part=part)

    def _words_end(self, words: Words) -> Iterator[Json]:
        place = self._place(words)
        if words.channel == "text":
            yield self._event("response.output_text.done", **place, text=words.text, logprobs=[])
            yield self._event("response.content_part.done", **place, part=text_part(words.text))
        else:
            part = {"type": "summary_text", "text": words.text}
            yield self._event("response.reasoning_summary_text.done", **place, text=words.text)
            yield self._event("response.reasoning_summary_part.done", **place, part=part)
        yield self._done(self._at[words.index], self._json(words))

    def _call_begins(self, call: CallItem) -> Iterator[Json]:
        item = self._json(call)
        written = next((n for n in ("arguments", "input") if n in item), "")
        yield self._added(item | {written: ""} if written else item)
        place = {"item_id": call.id, "output_index": self._at[call.index]}
        text = call.call.arguments
        match item["type"]:
            case "function_call":
                kind = "response.function_call_arguments"
                yield self._event(f"{kind}.delta", **place, delta=text)
                yield self._event(f"{kind}.done", **place, arguments=text, name=call.call.tool)
            case "mcp_call":
                yield self._event("response.mcp_call.in_progress", **place)
                yield self._event("response.mcp_call_arguments.delta", **place, delta=text)
                yield self._event("response.mcp_call_arguments.done", **place, arguments=text)
            case "custom_tool_call":
                said = text_of_input(text)
                yield self._event("response.custom_tool_call_input.delta", **place, delta=said)
                yield self._event("response.custom_tool_call_input.done", **place, input=said)
            case "shell_call":
                yield from self._commands(item, self._at[call.index])
            case _:
                pass
        self._output[self._at[call.index]] = item

    def _commands(self, item: Json, place: int) -> Iterator[Json]:
        kind = "response.shell_call_command"
        for number, command in enumerate(item["action"]["commands"]):
            where = {"output_index": place, "command_index": number}
            yield self._event(f"{kind}.added", **where, command="")
            yield self._event(f"{kind}.delta", **where, delta=command)
            yield self._event(f"{kind}.done", **where, command=command)

    def _call_ends(self, call: CallItem) -> Iterator[Json]:
        item, place = self._json(call), self._at[call.index]
        if item["type"] == "mcp_call":
            end = "failed" if call.failed else "completed"
            yield self._event(f"response.mcp_call.{end}", item_id=call.id, output_index=place)
        yield self._done(place, item)
        if item["type"] == "shell_call" and call.kind == "command":
            yield from self._printed(shell_output_json(call))

    def _printed(self, item: Json) -> Iterator[Json]:
        place = len(self._output)
        yield self._added(item | {"output": [], "status": "in_progress"})
        for number, each in enumerate(item["output"]):
            where = {"item_id": item["id"], "output_index": place, "command_index": number}
            delta = {"stdout": each["stdout"], "stderr": each["stderr"]}
            kind = "response.shell_call_output_content"
            yield self._event(f"{kind}.delta", **where, delta=delta)
            yield self._event(f"{kind}.done", **where, output=[each])
        yield self._done(place, item)

    def _listed(self, item: Json) -> Iterator[Json]:
        place = len(self._output)
        where = {"item_id": item["id"], "output_index": place}
        yield self._added(item | {"tools": []})
        yield self._event("response.mcp_list_tools.in_progress", **where)
        yield self._event("response.mcp_list_tools.completed", **where)
        yield self._done(place, item)

    def _compacted(self, event: Event, summary: str) -> Iterator[Json]:
        place = len(self._output)
        item = compaction_json(f"cmp_{event.id.lower()}", summary)
        yield self._added(item)
        where = {"item_id": item["id"], "output_index": place}
        yield self._event("response.compaction.compacting", **where)
        yield self._done(place, item)

    def _ask(self, p: e.ActionRequested, state: State) -> None:
        """Keep an approval to be shown as an item: the answer comes with the next response."""
        call = state.turn.calls.get(p.call_id) if state.turn else None
        if call is None:
            return
        shown = self.record.shown.get(call.call.tool)
        self._approvals.append(
            {
                "id": f"mcpr_{p.action_id}_{self.record.id}",
                "type": "mcp_approval_request",
                "arguments": call.call.arguments,
                "name": shown.name if shown and shown.name else call.call.tool,
                "server_label": shown.label if shown else "",
            }
        )

    def _end(self, event: Event, state: State) -> list[Json]:
        match event.payload:
            case e.TurnEnded(status=status, error=error):
                return self._finish(event, status, error)
            case e.SessionParked(error=error):
                return self._finish(event, "failed", error)
            case _ if waits_for_client(state) and not self._owed & set(state.actions):
                return self._finish(event, "completed", None)
            case _:
                return []

    def _finish(self, event: Event, status: str, error: ErrorInfo | None) -> list[Json]:
        self.ended, self.until = True, event.seq
        made: list[Json] = []
        for item in self._approvals:
            place = len(self._output)
            made += [self._added(item), self._done(place, item)]
        kind = "response.incomplete"
        match status:
            case "completed" if self._cut_short():
                self._status = "incomplete"
                self._incomplete = {"reason": "max_output_tokens"}
            case "completed":
                self._status, kind = "completed", "response.completed"
                self._completed_at = event.at_us // 1_000_000
            case "cancelled":
                self._status = "cancelled"
            case "budget":
                self._status = "incomplete"
                self._incomplete = {"reason": None}  # a limit that the protocol has no word for
            case _:
                self._status, kind = "failed", "response.failed"
                self._error = error_json(error)
        return [*made, self._event(kind, response=self.snapshot())]

    def _cut_short(self) -> bool:
        return self._items.finish == "length"

    def _json(self, item: Item) -> Json:
        if isinstance(item, Words):
            return item_json(item, None)
        shown = self.record.shown.get(item.call.tool)
        return item_json(item, shown, self._granted.get(item.call.id))

    def _place(self, words: Words) -> Json:
        place: Json = {"item_id": words.id, "output_index": self._at[words.index]}
        return place | ({"content_index": 0} if words.channel == "text" else {"summary_index": 0})

    def _added(self, item: Json) -> Json:
        index = len(self._output)
        self._output.append(item)
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


def action_of(approval: str) -> str:
    """Return the action behind the id of an approval request; "" for no such id."""
    action, found, _ = approval.removeprefix("mcpr_").partition("_resp_")
    return action if found else ""


def waits_for_client(state: State) -> bool:
    """Whether the turn goes on only when somebody outside answers or decides."""
    step = next_step(state)
    return isinstance(step, due.Ask) and all(
        action.kind in ("answer", "approve") for action in step.actions
    )


def compaction_json(name: str, summary: str) -> Json:
    """Return the item that stands for what was said before, which only we read."""
    return {"id": name, "type": "compaction", "encrypted_content": sealed(summary)}


def _granted(record: ResponseRecord, state: State) -> dict[str, str]:
    """Return the approvals that came with the request, by the calls they let run."""
    given: dict[str, str] = {}
    for item in record.inputs:
        if item.get("type") == "mcp_approval_response":
            request = str(item.get("approval_request_id"))
            action = state.actions.get(action_of(request))
            if action is not None:
                given[action.call_id] = request
    return given
