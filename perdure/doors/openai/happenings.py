"""A journal read as items that come into being: what every stream of OpenAI's is made of.

A pure function of the events, so a stream that is read again after a restart has the same items,
ids and pieces. When a process died in the middle of a reply, the model is asked again: as far as
it writes the same words the open item simply goes on; where it does not, what was shown is closed
as incomplete and the new reply begins with items of its own. Nothing shown is ever taken back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from perdure.core import events as e
from perdure.core.agent import AgentSpec, ToolSpec
from perdure.core.content import Reasoning, ReplyItem, Text, ToolCall, Usage
from perdure.core.events import Event

Channel = Literal["text", "reasoning"]
ItemStatus = Literal["in_progress", "completed", "incomplete", "failed"]
CallKind = Literal["client", "mcp", "command", "other"]
MCP = "mcp:"


@dataclass(frozen=True)
class Words:
    """A message of the model, or its reasoning."""

    id: str
    index: int
    channel: Channel
    text: str = ""
    status: ItemStatus = "in_progress"


@dataclass(frozen=True)
class CallItem:
    """A tool call. `output` is what the model reads of its result, None while there is none."""

    id: str
    index: int
    call: ToolCall
    kind: CallKind
    spec: ToolSpec | None
    status: ItemStatus = "in_progress"
    output: str | None = None
    failed: bool = False
    meta: dict[str, object] = field(default_factory=dict)


Item = Words | CallItem


@dataclass(frozen=True)
class Added:
    """An item begins."""

    item: Item


@dataclass(frozen=True)
class Piece:
    """Words are written on."""

    item: Words
    delta: str


@dataclass(frozen=True)
class Done:
    """An item is complete, or will never be. For a client's call: the model has made it."""

    item: Item


@dataclass(frozen=True)
class Answered:
    """A client's call has got its result."""

    item: CallItem


Happening = Added | Piece | Done | Answered


class Items:
    """The items of one session from some event on. `feed` each event once, in order.

    With `waiting`, the calls that were open before the first event by our ids for them, a call
    that runs here begins when it starts, not when the model makes it: before that somebody may
    have to approve it.
    """

    def __init__(self, spec: AgentSpec, waiting: Mapping[str, ToolCall] | None = None) -> None:
        self.items: list[Item] = []
        self.usage = Usage()
        self.finish = ""  # of the last reply
        self._spec = spec
        self._base = ""  # the id of the request that the open items belong to
        self._open: list[int] = []  # places in `items` of the words being written
        self._said: list[tuple[Channel, str]] = []  # by the attempt that is being made
        self._place = 0
        self._offset = 0
        self._aside = False
        self._calls: dict[str, int] = {}
        self._late = waiting is not None
        self._waiting = dict(waiting or {})

    def feed(self, event: Event) -> list[Happening]:
        """Return what an event makes happen."""
        return list(self._feed(event))

    def _feed(self, event: Event) -> Iterator[Happening]:
        match event.payload:
            case e.SessionCreated(agent=agent):
                self._spec = agent
            case e.SessionUpdated(agent=AgentSpec() as agent):
                self._spec = agent
            case e.SessionForked(agent=AgentSpec() as agent):
                self._spec = agent
            case e.ModelRequested(purpose=purpose):
                self._aside = bool(purpose)
                self._begin_attempt(event.id)
            case e.ModelDelta(channel=channel, text=text) if not self._aside:
                yield from self._say(channel, text)
            case e.ModelResponded() as p if not self._aside:
                yield from self._responded(p)
            case e.ToolStarted(call_id=call_id) if call_id in self._waiting:
                self._base = self._base or event.id
                yield from self._begun(self._waiting.pop(call_id))
            case e.ToolFinished(status=status) as p if status in _FINAL:
                yield from self._finished(p)
            case e.TurnEnded():
                yield from self._close("incomplete")
            case _:
                pass

    def _begin_attempt(self, event_id: str) -> None:
        if not self._open:
            self._base = event_id
        self._said.clear()
        self._place = self._offset = 0

    def _responded(self, p: e.ModelResponded) -> Iterator[Happening]:
        self.usage = _plus(self.usage, p.usage)
        if p.status != "ok":
            return  # the next attempt may go on where this one broke off
        self.finish = p.finish
        self._said.clear()
        self._place = self._offset = 0
        for channel, text in _words_of(p.items):
            yield from self._say(channel, text)
        yield from self._close("completed")
        for call in p.items:
            if isinstance(call, ToolCall):
                yield from self._called(call)

    def _say(self, channel: Channel, text: str) -> Iterator[Happening]:
        """Take words of the attempt: skip what was shown already, show what is new."""
        self._said.append((channel, text))
        while text:
            if self._place == len(self._open):
                yield from self._open_words(channel)
            words = self._words(self._place)
            rest = words.text[self._offset :]
            if words.channel == channel and not rest:
                if self._place == len(self._open) - 1:
                    yield self._write_on(words, text)
                    return
                self._place, self._offset = self._place + 1, 0
            elif words.channel != channel and not rest:
                self._place, self._offset = self._place + 1, 0
            elif words.channel == channel and _agree(rest, text):
                shared = min(len(rest), len(text))
                self._offset += shared
                text = text[shared:]
            else:
                yield from self._differently()
                return

    def _open_words(self, channel: Channel) -> Iterator[Happening]:
        index = len(self.items)
        prefix = "msg" if channel == "text" else "rs"
        words = Words(f"{prefix}_{self._base.lower()}{index:02d}", index, channel)
        self.items.append(words)
        self._open.append(index)
        self._offset = 0
        yield Added(words)

    def _write_on(self, words: Words, text: str) -> Happening:
        longer = replace(words, text=words.text + text)
        self.items[words.index] = longer
        self._offset = len(longer.text)
        return Piece(longer, text)

    def _differently(self) -> Iterator[Happening]:
        """The model says something else than before: close what was shown, begin anew."""
        said = list(self._said)
        yield from self._close("incomplete")
        self._said.clear()
        for channel, text in said:
            yield from self._say(channel, text)

    def _close(self, status: ItemStatus) -> Iterator[Happening]:
        """End all words that are open. Those behind what the reply has said are incomplete."""
        for number, index in enumerate(self._open):
            words = self._words(number)
            cut = number > self._place or (number == self._place and self._offset < len(words.text))
            done = replace(words, status="incomplete" if cut else status)
            self.items[index] = done
            yield Done(done)
        self._open.clear()
        self._place = self._offset = 0

    def _called(self, call: ToolCall) -> Iterator[Happening]:
        if self._late and kind_of(self._spec.tool(call.tool)) in ("mcp", "command"):
            self._waiting[call.id] = call
        else:
            yield from self._begun(call)

    def _begun(self, call: ToolCall) -> Iterator[Happening]:
        index, spec = len(self.items), self._spec.tool(call.tool)
        kind = kind_of(spec)
        prefix = {"client": "fc", "mcp": "mcp", "command": "cmd", "other": "fc"}[kind]
        item = CallItem(f"{prefix}_{self._base.lower()}{index:02d}", index, call, kind, spec)
        self.items.append(item)
        self._calls[call.id] = index
        yield Added(item)
        if kind in ("client", "other"):
            done = replace(item, status="completed")
            self.items[index] = done
            yield Done(done)

    def _finished(self, p: e.ToolFinished) -> Iterator[Happening]:
        index = self._calls.get(p.call_id)
        item = self.items[index] if index is not None else None
        if index is None or not isinstance(item, CallItem) or item.output is not None:
            return
        failed = p.status != "ok"
        status: ItemStatus = "failed" if failed else "completed"
        done = replace(item, status=status, output=p.text, failed=failed, meta=dict(p.meta))
        self.items[index] = done
        yield Answered(done) if item.kind in ("client", "other") else Done(done)

    def _words(self, place: int) -> Words:
        words = self.items[self._open[place]]
        assert isinstance(words, Words)
        return words


def kind_of(spec: ToolSpec | None) -> CallKind:
    """Return who runs a tool."""
    if spec is None:
        return "other"
    if spec.client:
        return "client"
    if spec.source.startswith(MCP):
        return "mcp"
    return "command" if spec.environment else "other"


def _words_of(items: Sequence[ReplyItem]) -> Iterator[tuple[Channel, str]]:
    """Yield the words of a reply in their order; neighbours of one kind are one."""
    channel: Channel = "text"
    texts: list[str] = []
    for item in items:
        if not isinstance(item, Text | Reasoning):
            continue
        kind: Channel = "text" if isinstance(item, Text) else "reasoning"
        if kind != channel and texts:
            yield channel, "".join(texts)
            texts = []
        channel = kind
        texts.append(item.text)
    if texts:
        yield channel, "".join(texts)


def _agree(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _plus(one: Usage, other: Usage) -> Usage:
    cost = (
        None
        if one.cost_micro_usd is None and other.cost_micro_usd is None
        else (one.cost_micro_usd or 0) + (other.cost_micro_usd or 0)
    )
    return Usage(
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cached_tokens + other.cached_tokens,
        one.reasoning_tokens + other.reasoning_tokens,
        cost,
        one.estimated or other.estimated,
    )


_FINAL = ("ok", "error", "denied", "cancelled")
