"""A conversation's items, read off its journal: what clients sent, what models replied.

A pure function of the events and of what is kept of the responses, so every reader sees the same
items with the same ids, and those of a response are the ones that its own output has. Items leave
by an event too, which says where in the transcript they stood.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from perdure.core import events as e
from perdure.core.content import ContextItem, ModelItem, ReplyItem, ResultItem, Text, ToolCall
from perdure.core.events import Event
from perdure.core.state import State
from perdure.doors.openai.conversations import shapes
from perdure.doors.openai.happenings import Done, Items
from perdure.doors.openai.turns.items import item_json
from perdure.doors.openai.turns.records import ResponseRecord
from perdure.doors.openai.turns.rendering import Rendering

Json = dict[str, Any]
Place = tuple[int, int]  # the event an item entered the transcript with, and which one of those
NOWHERE: Final = 1_000_000  # places from here on are no model's: such items are only listed
_FINAL: Final = ("ok", "error", "denied", "cancelled")


@dataclass
class Entry:
    """An item as it is listed. `places` are those of its parts; `call` is what it asks to run."""

    item: Json
    places: list[Place] = field(default_factory=list)
    call: ToolCall | None = None

    @property
    def id(self) -> str:
        return str(self.item["id"])


@dataclass
class _Reply:
    """A reply of a model, and which of its parts no item has been found for yet."""

    seq: int
    parts: Sequence[ReplyItem]
    free: list[int]


class Story:
    """The items of one conversation. `feed` each event that counts, in order, with the state
    before and after it.
    """

    def __init__(self, records: Mapping[str, ResponseRecord]) -> None:
        self.entries: list[Entry] = []
        self.added: dict[str, list[Entry]] = {}  # what came in with one letter, by its key
        self.calls: dict[str, ToolCall] = {}  # by the client's ids for them, the last of each
        self._records = records
        self._left: dict[int, list[int]] = {}  # what is left of the items of an event
        self._states: dict[int, State] = {}  # since the last response
        self._response: Rendering | None = None
        self._other: Items | None = None  # a turn that no response asked for
        self._began = 0
        self._replies: list[_Reply] = []
        self._coming: dict[int, Entry] = {}  # inputs that have not entered the transcript

    def feed(self, event: Event, before: State, after: State) -> None:
        """Take one event."""
        self._states.setdefault(before.seq, before)
        match event.payload:
            case e.ContextAdded() as p:
                self._added(event, p)
            case e.ContextDropped(entered=entered, index=index):
                self._dropped(entered, index)
            case e.InputAccepted() as p:
                self._input(event, p, before)
            case e.TurnStarted(input=seq):
                self._enter(event.seq, [seq])
            case e.ModelRequested(steers=steers):
                self._enter(event.seq, steers)
                if self._response is None and self._other is None:
                    self._other, self._began = Items(after.spec), event.seq
            case e.ModelResponded(status="ok", items=items):
                self._replied(event, items)
            case e.ToolFinished(status=status) as p if status in _FINAL:
                self._answered(event, p)
            case _:
                pass
        self._tell(event, after)

    def _added(self, event: Event, p: e.ContextAdded) -> None:
        for raw in p.raw:
            entry = Entry(json.loads(bytes(raw)), [(event.seq, 0)])
            for call in _calls(p.items):
                entry.call = self.calls[call.vendor_id] = call
            self.entries.append(entry)
            self.added.setdefault(p.key, []).append(entry)
        if not p.raw:  # by another door: it has no form of the client's
            self._left[event.seq] = list(range(len(p.items)))
            for number, item in enumerate(p.items):
                name = f"{event.id.lower()}{number:02d}"
                for shown in shapes.of_context(item, name):
                    self.entries.append(Entry(shown, [(event.seq, number)]))
            self.calls |= {call.vendor_id or call.id: call for call in _calls(p.items)}

    def _dropped(self, entered: int, index: int) -> None:
        left = self._left.get(entered)
        if left is not None and index < NOWHERE:
            index = left.pop(index) if index < len(left) else -1
        place = (entered, index)
        kept: list[Entry] = []
        for entry in self.entries:
            if place in entry.places:
                entry.places.remove(place)
                if not any(each == entered for each, _ in entry.places):
                    continue
            kept.append(entry)
        self.entries = kept

    def _input(self, event: Event, p: e.InputAccepted, before: State) -> None:
        response = p.key.removeprefix("response:")
        if p.key.startswith("response:"):
            record = self._records.get(response) or _stub(response, before)
            state = self._states.get(record.after, before)
            self._response, self._began, self._other = Rendering(record, state), event.seq, None
            self._response.begin()
        elif p.kind in ("message", "steer") and not p.key.startswith("steer:resp_"):
            entry = Entry(shapes.user_message(p.content, f"msg_{event.id.lower()}00"))
            self.entries.append(entry)
            self._coming[event.seq] = entry

    def _enter(self, seq: int, inputs: Sequence[int]) -> None:
        """Inputs enter the transcript, those of them that say anything."""
        known = [each for each in inputs if each in self._coming]
        self._left.setdefault(seq, list(range(len(inputs))))
        for number, each in enumerate(known):
            self._coming.pop(each).places = [(seq, number)]

    def _replied(self, event: Event, items: Sequence[ReplyItem]) -> None:
        self._left[event.seq] = list(range(len(items)))
        self._replies.append(_Reply(event.seq, items, list(range(len(items)))))
        self.calls |= {i.vendor_id or i.id: i for i in items if isinstance(i, ToolCall)}

    def _answered(self, event: Event, p: e.ToolFinished) -> None:
        """A client's call has its result: it is what the client sent, or came another way."""
        theirs = next((k for k, call in self.calls.items() if call.id == p.call_id), "")
        for entry in reversed(self.entries):
            if entry.item.get("call_id") != theirs:
                continue
            if str(entry.item["type"]).endswith("_output"):
                entry.places.append((event.seq, 0))
            elif entry.item["type"] in shapes.CLIENTS:
                name = f"fco_{event.id.lower()}00"
                shown = shapes.output_of(entry.item["type"], name, theirs, p.text)
                self.entries.append(Entry(shown, [(event.seq, 0)]))
            return

    def _tell(self, event: Event, after: State) -> None:
        """Read on in the turn that is open; what it made is listed when it has ended."""
        if self._response is not None:
            self._response.feed(event, after)
            if self._response.ended:
                self._list(self._response.snapshot()["output"])
                self._response = None
        elif self._other is not None:
            done = [h.item for h in self._other.feed(event) if isinstance(h, Done)]
            self._list([item_json(item, None) for item in done])
            if isinstance(event.payload, e.TurnEnded):
                self._other = None
        else:
            return
        if self._response is None and self._other is None:
            self._replies.clear()
            self._states.clear()

    def _list(self, output: Sequence[Json]) -> None:
        for item in output:
            place = (self._began, NOWHERE + len(self.entries))
            entry = Entry(dict(item), self._places(item) or [place])
            entry.call = self.calls.get(str(item.get("call_id")))
            self.entries.append(entry)

    def _places(self, item: Json) -> list[Place]:
        """Return where in the transcript the parts of an output item are."""
        for reply in self._replies:
            for found in _parts(reply, item):
                reply.free = [n for n in reply.free if n not in found]
                return [(reply.seq, n) for n in found]
        return []

    def addresses(self, entry: Entry) -> list[Place]:
        """Return what has to be dropped, in this order, for an item to be gone."""
        found: list[Place] = []
        for seq, number in entry.places:
            left = self._left.get(seq)
            if left is None or number >= NOWHERE:
                found.append((seq, number))
            elif number in left:
                found.append((seq, left.index(number)))
        return sorted(found, reverse=True)


def _parts(reply: _Reply, item: Json) -> Iterator[list[int]]:
    """Yield the free parts of a reply that an item was made of, if it was."""
    kind = item["type"]
    if kind in ("message", "reasoning"):
        wanted = Text if kind == "message" else None
        text = shapes.words_of(item)
        run: list[int] = []
        for number, part in enumerate(reply.parts):
            if isinstance(part, ToolCall) or not hasattr(part, "text"):
                continue
            fits = isinstance(part, Text) is (wanted is Text)
            if fits and number in reply.free:
                run.append(number)
            else:
                run = []
            if run and "".join(getattr(reply.parts[n], "text", "") for n in run) == text:
                yield run
                return
        return
    for number in reply.free:
        part = reply.parts[number]
        if not isinstance(part, ToolCall):
            continue
        if "call_id" in item and kind.endswith("_output"):
            return
        mine = item.get("call_id") == (part.vendor_id or part.id)
        if mine or (kind == "mcp_call" and item.get("arguments") == part.arguments):
            yield [number]
            return


def _calls(items: Sequence[ContextItem]) -> list[ToolCall]:
    replies = [item for item in items if isinstance(item, ModelItem)]
    return [part for reply in replies for part in reply.items if isinstance(part, ToolCall)]


def unanswered(items: Sequence[ContextItem]) -> list[ToolCall]:
    """Return the calls in a transcript that have no result there."""
    known = {item.call_id for item in items if isinstance(item, ResultItem)}
    return [call for call in _calls(items) if call.id not in known]


def _stub(response: str, state: State) -> ResponseRecord:
    """Stand in for a response that was deleted: its items stay in the conversation."""
    return ResponseRecord(response, state.id, state.seq, 0, "", {}, conversation=state.id)
