"""What a recorded session's tools and people answered, to be given again to the same questions.

A call is recognized by its tool and its arguments in canonical form, whatever it was called.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Effect, ToolSpec
from perdure.core.codec import arguments_of, canonical
from perdure.core.content import ToolCall
from perdure.core.errors import InvalidRequest
from perdure.core.events import Event
from perdure.core.grants import Grant
from perdure.engine.kin import SOURCE
from perdure.ports.tool import ToolContext, ToolOutput

T = TypeVar("T")

_NEVER_S: Final = 1e9
Key = tuple[str, bytes]


class Answers(Generic[T]):
    """Answers by question. Each is given once in its order; when all are spent, from the first."""

    def __init__(self) -> None:
        self._known: dict[Key, list[T]] = {}
        self._given: dict[Key, int] = {}

    def add(self, key: Key, answer: T) -> None:
        """Remember an answer."""
        self._known.setdefault(key, []).append(answer)

    def next(self, key: Key) -> T | None:
        """Return the next answer to that question, or None where there never was one."""
        known = self._known.get(key)
        if not known:
            return None
        place = self._given.get(key, 0)
        self._given[key] = place + 1
        return known[place % len(known)]


class Recall(msgspec.Struct, frozen=True):
    """Everything that can be answered from a journal."""

    results: Answers[e.ToolFinished]
    decisions: Answers[e.ActionResolved]

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Recall":
        """Collect the answers of a journal, results as the calls really ran: edits included."""
        results, decisions = Answers[e.ToolFinished](), Answers[e.ActionResolved]()
        calls: dict[str, ToolCall] = {}
        actions: dict[str, str] = {}
        for event in events:
            match event.payload:
                case e.ModelResponded(status="ok", items=items):
                    calls |= {i.id: i for i in items if isinstance(i, ToolCall)}
                case e.ActionRequested(action_id=action, call_id=call_id):
                    actions[action] = call_id
                case e.ToolRequested(call_id=call_id, grant=Grant() as grant):
                    call = calls[call_id]
                    granted = e.ActionResolved("", "allow", grant.by, grant=grant)
                    decisions.add(key_of(call.tool, call.arguments), granted)
                case e.ActionResolved(action_id=action, arguments=edited) as resolved:
                    call = calls[actions[action]]
                    if resolved.decision in ("allow", "deny", "expired"):
                        decisions.add(key_of(call.tool, call.arguments), resolved)
                    if edited is not None:
                        calls[call.id] = replace(call, arguments=edited)
                case e.ToolFinished(status="ok" | "error", call_id=call_id) as done:
                    call = calls[call_id]
                    results.add(key_of(call.tool, call.arguments), done)
                case _:
                    pass
        return cls(results, decisions)


def key_of(tool: str, arguments: str) -> Key:
    """Return what makes two calls the same call."""
    try:
        return tool, canonical(arguments_of(arguments))
    except InvalidRequest:
        return tool, arguments.encode("utf-8", "surrogatepass")


class Asked(msgspec.Struct, frozen=True):
    """A call or a question that the recording has no answer to."""

    call_id: str
    tool: str
    arguments: str
    what: str  # result or decision


class RecalledTool:
    """A tool that gives recorded results: one at a time, in the order of the calls, and only when
    all that led to the call is on disk.
    """

    def __init__(self, spec: ToolSpec, recall: Recall, unknown: "Unknown") -> None:
        self.spec = replace(
            spec,
            effect=Effect.IDEMPOTENT,
            environment=False,
            mutates=False,
            timeout_s=_NEVER_S,
            source="" if spec.source.startswith(SOURCE) else spec.source,
            parallel=False,
            retry=None,  # what failed then and was tried again is one result, the last one
            on_error="model",
            client=False,  # what was answered then is a result like others
        )
        self._recall = recall
        self._unknown = unknown

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Return the recorded result of such a call."""
        text = canonical(arguments).decode("utf-8", "surrogatepass")
        done = self._recall.results.next(key_of(self.spec.name, text))
        if done is not None:
            return ToolOutput(done.text, done.error, meta=done.meta)
        return await self._unknown.result(Asked(context.call_id, self.spec.name, text, "result"))

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """See `Tool.probe`: nothing ran."""
        return None


class Unknown:
    """What to do where the recording has no answer."""

    async def result(self, asked: Asked) -> ToolOutput:
        """Return what the model reads, or end the run."""
        raise NotImplementedError
