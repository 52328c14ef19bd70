"""The transcript: what the model reads, built event by event.

Unlike `State` it grows with the session, so it is a list that is appended to, owned by one
session's driver, and rebuilt from the journal when a model call is due in a new process.

Order: a steering message enters where the model call that took it was requested, never between
a reply and the results of its calls; vendors refuse such a transcript.
"""

from collections.abc import Iterable

from perdure.core import events as e
from perdure.core.codec import encode
from perdure.core.content import (
    Content,
    ContextItem,
    ModelItem,
    ResultItem,
    ToolCall,
    UserItem,
)
from perdure.core.events import Event


class Transcript:
    """Items in the order in which the model is to read them."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.items: list[ContextItem] = []
        self.seq = 0
        self.fresh_bytes = 0  # JSON bytes of items since the last reply; all of them before it
        self._waiting: dict[int, Content] = {}
        self._calls: dict[str, ToolCall] = {}
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take the next event. What concerns no reader of the transcript changes nothing."""
        self.seq = event.seq
        match event.payload:
            case e.InputAccepted(kind="message" | "steer", content=content):
                self._waiting[event.seq] = content
            case e.TurnStarted(input=seq):
                self._enter(seq)
            case e.ModelRequested(steers=steers):
                for seq in steers:
                    self._enter(seq)
            case e.ModelResponded(status="ok") as reply:
                self._reply(reply)
            case e.ToolFinished(status=status) as done if status != "unknown":
                self._result(done)
            case _:
                pass

    def waiting(self, seqs: Iterable[int]) -> list[Content]:
        """Return the inputs of these seqs that have not entered yet."""
        return [self._waiting[seq] for seq in seqs if seq in self._waiting]

    def _enter(self, seq: int) -> None:
        content = self._waiting.pop(seq, None)
        if content is not None:
            self._add(UserItem(content))

    def _reply(self, p: e.ModelResponded) -> None:
        self._calls = {i.id: i for i in p.items if isinstance(i, ToolCall)}
        self.items.append(ModelItem(p.items, p.raw, p.dialect, p.provider))
        self.fresh_bytes = 0

    def _result(self, p: e.ToolFinished) -> None:
        call = self._calls.get(p.call_id)
        if call is not None:
            failed = p.status != "ok"
            self._add(ResultItem(call.id, call.tool, p.text, failed, call.vendor_id))

    def _add(self, item: ContextItem) -> None:
        self.items.append(item)
        self.fresh_bytes += len(encode(item)) + _ITEM_OVERHEAD


_ITEM_OVERHEAD = 32  # tokens a provider may add around an item: roles, separators
