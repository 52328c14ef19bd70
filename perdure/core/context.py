"""The transcript: what the model reads, built event by event.

Unlike `State` it grows with the session, so it is a list that is appended to, owned by one
session's driver, and rebuilt from the journal when a model call is due in a new process.

Order: a steering message enters where the model call that took it was requested, never between
a reply and the results of its calls; vendors refuse such a transcript.
"""

from collections.abc import Callable, Iterable
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.content import (
    Content,
    ContextItem,
    ModelItem,
    ReplyItem,
    ResultItem,
    Text,
    ToolCall,
    UserItem,
    as_content,
)
from perdure.core.errors import ErrorInfo
from perdure.core.events import Event


class Transcript:
    """Items in the order in which the model is to read them."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.items: list[ContextItem] = []
        self.seqs: list[int] = []  # of the event with which each item entered
        self.seq = 0
        self.fresh_bytes = 0  # JSON bytes of items since the last reply; all of them before it
        self.said: list[tuple[int, Content]] = []  # what the user said last: a turn's inputs
        self.refused: ErrorInfo | None = None  # why a provider would not read this
        self._waiting: dict[int, Content] = {}
        self._calls: dict[str, ToolCall] = {}
        self._summed_up = 0  # what entered up to this seq is in a summary
        self._aside = False  # the model call that is open writes no part of this
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take the next event. What concerns no reader of the transcript changes nothing."""
        self.seq = event.seq
        match event.payload:
            case e.InputAccepted(kind="message" | "steer", content=content):
                self._waiting[event.seq] = content
            case e.TurnStarted(input=seq):
                self.said = [] if seq in self._waiting else self.said
                self._enter(seq)
            case e.ModelRequested(steers=steers, purpose=purpose):
                self._aside = bool(purpose)
                for seq in steers:
                    self._enter(seq)
            case e.ModelResponded(status="ok") as reply if not self._aside:
                self._reply(reply)
            case e.ModelResponded(remedy="repair", error=error):
                self.refused = error
            case e.ToolFinished(status=status) as done if status not in _NOT_THE_END:
                self._result(done)
            case payload:
                self._edit(payload)

    def _edit(self, payload: e.Payload) -> None:
        match payload:
            case e.ContextAdded(items=items):
                for item in items:
                    self._add(item)
            case e.ContextDropped(entered=entered, index=index):
                self._drop(entered, index)
            case e.ContextCompacted() as p:
                self._compact(p)
            case e.ContextRepaired(upto=upto):
                self._each(upto, plain)
            case _:
                pass

    def waiting(self, seqs: Iterable[int]) -> list[Content]:
        """Return the inputs of these seqs that have not entered yet."""
        return [self._waiting[seq] for seq in seqs if seq in self._waiting]

    def _enter(self, seq: int) -> None:
        content = self._waiting.pop(seq, None)
        if content is not None:
            self.said = [*self.said, (self.seq, content)]
            self._add(UserItem(content))

    def _reply(self, p: e.ModelResponded) -> None:
        self._calls = {i.id: i for i in p.items if isinstance(i, ToolCall)}
        self.items.append(ModelItem(p.items, p.raw, p.dialect, p.provider))
        self.seqs.append(self.seq)
        self.fresh_bytes = 0

    def _result(self, p: e.ToolFinished) -> None:
        call = self._calls.get(p.call_id)
        if call is not None:
            failed = p.status != "ok"
            self._add(ResultItem(call.id, call.tool, p.text, failed, call.vendor_id))

    def _add(self, item: ContextItem) -> None:
        self.items.append(item)
        self.seqs.append(self.seq)
        self.fresh_bytes += len(encode(item)) + _ITEM_OVERHEAD

    def _drop(self, entered: int, index: int) -> None:
        if entered <= self._summed_up:
            return  # a summary tells of it: there is no item left to leave out
        places = [n for n, seq in enumerate(self.seqs) if seq == entered]
        gone: set[str] = set()
        if len(places) == 1 and isinstance(self.items[places[0]], ModelItem):
            self._drop_part(places[0], index, gone)
        elif index < len(places):
            item = self.items[places[index]]
            gone |= _calls_of(item)
            self._leave_out({places[index]})
        orphans = {
            n
            for n, item in enumerate(self.items)
            if isinstance(item, ResultItem) and item.call_id in gone
        }
        self._leave_out(orphans)

    def _drop_part(self, place: int, index: int, gone: set[str]) -> None:
        """Drop one item of a reply; the vendor's own form of the rest would still hold it."""
        item = self.items[place]
        assert isinstance(item, ModelItem)
        left = tuple([i for n, i in enumerate(item.items) if n != index])
        gone |= _calls_of(item) - _calls_of(ModelItem(left))
        self.items = [*self.items]
        self.items[place] = ModelItem(left)
        if not left:
            self._leave_out({place})

    def _leave_out(self, places: set[int]) -> None:
        gone = {self.seqs[n] for n in places if isinstance(self.items[n], UserItem)}
        self.said = [(seq, content) for seq, content in self.said if seq not in gone]
        self.items = [item for n, item in enumerate(self.items) if n not in places]
        self.seqs = [seq for n, seq in enumerate(self.seqs) if n not in places]

    def _compact(self, p: e.ContextCompacted) -> None:
        if p.elided:
            self._each(p.upto, lambda item: elided(item, p.elided))
            return
        old = sum(1 for seq in self.seqs if seq <= p.upto)
        self._summed_up = p.upto
        # New lists: whoever reads the old ones reads on undisturbed.
        self.items = [UserItem(as_content(p.summary)), *self.items[old:]]
        self.seqs = [p.upto, *self.seqs[old:]]

    def _each(self, upto: int, change: Callable[[ContextItem], ContextItem]) -> None:
        pairs = zip(self.items, self.seqs, strict=True)
        self.items = [change(item) if seq <= upto else item for item, seq in pairs]


def elided(item: ContextItem, most: int) -> ContextItem:
    """Return `item`; of a tool result longer than `most` characters only its two ends, where that
    makes it shorter.
    """
    if not isinstance(item, ResultItem) or len(item.text) <= most + _MARK:
        return item
    end = most // 2
    left = len(item.text) - 2 * end
    text = f"{item.text[:end]}\n[… {left} characters left out …]\n{item.text[-end:]}"
    return replace(item, text=text)


def _calls_of(item: ContextItem) -> set[str]:
    """Return the ids of the calls that an item makes, or answers."""
    match item:
        case ModelItem(items=items):
            return {i.id for i in items if isinstance(i, ToolCall)}
        case ResultItem(call_id=call_id):
            return {call_id}
        case _:
            return set()


def plain(item: ContextItem) -> ContextItem:
    """Return a reply without what its vendor added; one that would be empty says so."""
    if not isinstance(item, ModelItem):
        return item
    said = tuple([i for i in item.items if isinstance(i, ToolCall) or _says(i)])
    return ModelItem(said or (Text("(no words)"),))


def _says(item: ReplyItem) -> bool:
    return isinstance(item, Text) and bool(item.text.strip())


_MARK = 64  # characters that say how many are left out, and some
_NOT_THE_END: Final = ("unknown", "retry", "held")
_ITEM_OVERHEAD = 32  # tokens a provider may add around an item: roles, separators
