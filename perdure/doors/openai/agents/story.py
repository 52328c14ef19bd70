"""A journal read as turns and items, with the events that tell of each as it comes about.

A pure function of the journal and of what the session's client calls things: whoever reads the
same events, in whatever process, sees the same ids in the same order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from perdure.core import events as e
from perdure.core.agent import AgentSpec
from perdure.core.content import Content, ToolCall
from perdure.core.errors import ErrorInfo
from perdure.core.events import Event
from perdure.doors.openai.agents.items import (
    is_subagent,
    item_json,
    output_json,
    said_json,
    task_of,
)
from perdure.doors.openai.agents.records import SessionRecord
from perdure.doors.openai.agents.views import error_json, turn_id, usage_json
from perdure.doors.openai.happenings import (
    Added,
    Answered,
    CallItem,
    Done,
    Happening,
    Items,
    Piece,
    Words,
)
from perdure.engine.kin import child_name

Json = dict[str, Any]
Status = Literal["queued", "in_progress", "waiting", "completed", "failed", "cancelled"]

_S: Final = 1_000_000
_ENDS: Final[dict[str, Status]] = {
    "completed": "completed",
    "cancelled": "cancelled",
    "failed": "failed",
    "budget": "failed",
}


@dataclass
class TurnView:
    """One turn. `listed` are its items as they are now, by id, in the order they came."""

    id: str
    number: int
    items: Items
    started_at: int
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    error: ErrorInfo | None = None
    listed: dict[str, Json] = field(default_factory=dict)


@dataclass
class SubagentView:
    """One subagent: the session `id`. Times in seconds."""

    id: str
    parent: str
    task: str
    name: str
    opened_at: int
    closed_at: int | None = None


class Story:
    """The turns of one session, or of a subagent's. `feed` each of its events once, in order."""

    def __init__(self, record: SessionRecord, subagent: str = "") -> None:
        self.turns: list[TurnView] = []
        self.subagents: dict[str, SubagentView] = {}
        self._record = record
        self._session = subagent or record.id
        self._subagent = subagent
        self._spec = AgentSpec("", "")
        self._said: dict[int, tuple[str, int, Content]] = {}
        self._turn: TurnView | None = None

    def feed(self, event: Event) -> list[Json]:
        """Return what an event tells a reader, without `event_id`."""
        return list(self._feed(event))

    @property
    def items(self) -> list[Json]:
        """All items, in the order they came."""
        return [item for turn in self.turns for item in self.items_of(turn)]

    def items_of(self, turn: TurnView) -> list[Json]:
        """Return a turn's items, in the order they came, with what is being written as it is."""
        for item in turn.items.items if turn is self._turn else ():
            if isinstance(item, Words) and item.status == "in_progress":
                turn.listed[item.id] = item_json(self._record, self._session, item, turn.id)
        return list(turn.listed.values())

    def turn_json(self, turn: TurnView, status: Status | None = None) -> Json:
        """Return a turn as it is now, or as it is where only the state knows: waiting."""
        agent = self._subagent or self._record.agent_id
        failed = turn.status == "failed"
        return {
            "id": turn.id,
            "object": "agent.session.turn",
            "session_id": self._record.id,
            "agent_id": agent,
            "subagent_id": self._subagent or None,
            "status": status or turn.status,
            "created_at": turn.created_at,
            "started_at": turn.started_at,
            "completed_at": turn.completed_at,
            "error": error_json(turn.error) if failed else None,
            "usage": usage_json(turn.items.usage),
        }

    def subagent_json(self, view: SubagentView) -> Json:
        """Return a subagent."""
        return {
            "id": view.id,
            "object": "agent.session.subagent",
            "session_id": self._record.id,
            "parent_agent_id": view.parent,
            "name": view.name,
            "instructions": [{"type": "output_text", "text": view.task}],
            "opened_at": view.opened_at,
            "closed_at": view.closed_at,
            "status": "active" if view.closed_at is None else "closed",
        }

    def _feed(self, event: Event) -> Iterator[Json]:
        match event.payload:
            case e.SessionCreated(agent=spec) | e.SessionUpdated(agent=AgentSpec() as spec):
                self._spec = spec
            case e.InputAccepted(kind="message" | "steer", content=content):
                self._said[event.seq] = (event.id, event.at_us // _S, content)
            case e.TurnStarted(input=seq):
                yield from self._begin(event, seq)
            case e.ModelRequested(steers=steers):
                for seq in steers:
                    yield from self._user(seq)
            case e.EnvironmentOpened():
                yield self._environment("connected", None)
            case (
                e.EnvironmentLost(error=error)
                | e.SessionParked(error=ErrorInfo(code="E-ENV-SETUP") as error)
            ):
                yield self._environment("failed", error)
            case _:
                pass
        if self._turn is None:
            return
        yield from self._happen(self._turn, event)
        if isinstance(event.payload, e.ToolStarted):
            yield from self._open_subagent(self._turn, event, event.payload.call_id)
        if isinstance(event.payload, e.TurnEnded):
            yield self._end(self._turn, event, event.payload)

    def _begin(self, event: Event, seq: int) -> Iterator[Json]:
        at = event.at_us // _S
        said = self._said.get(seq)
        name = turn_id(self._session, event.turn)
        turn = TurnView(name, event.turn, Items(self._spec), at, said[1] if said else at)
        self._turn = turn
        self.turns.append(turn)
        shown = self.turn_json(turn)
        yield self._told("turn.created", turn=shown)
        yield self._told("turn.in_progress", turn=shown)
        yield from self._user(seq)

    def _user(self, seq: int) -> Iterator[Json]:
        said = self._said.pop(seq, None)
        if said is not None and self._turn is not None:
            item = said_json(said[0], said[2], self._turn.id)
            self._turn.listed[item["id"]] = item
            yield self._told("turn.item.added", item=item, output_index=None)

    def _happen(self, turn: TurnView, event: Event) -> Iterator[Json]:
        p = event.payload
        calls = isinstance(p, e.ModelResponded) and any(isinstance(i, ToolCall) for i in p.items)
        phase = "commentary" if calls else "final_answer"
        for happening in turn.items.feed(event):
            yield from self._tell(turn, happening, event, phase)

    def _tell(self, turn: TurnView, h: Happening, event: Event, phase: str) -> Iterator[Json]:
        if isinstance(h, Piece):
            yield self._text("delta", h.item, delta=h.delta)
            return
        item = h.item
        phase = phase if isinstance(h, Done) and item.status == "completed" else ""
        shown = item_json(self._record, self._session, item, turn.id, phase)
        place = {"output_index": item.index}
        match h:
            case Added():
                turn.listed[shown["id"]] = shown
                yield self._told("turn.item.added", item=shown, **place)
                if isinstance(item, Words):
                    yield self._part("added", item, "")
            case Done():
                if isinstance(item, CallItem) and is_subagent(item):
                    return  # what became of it is told when it is known
                turn.listed[shown["id"]] = shown
                yield from self._written(item)
                yield self._told("turn.item.done", item=shown, **place)
            case Answered(item=call):
                if is_subagent(call):
                    turn.listed[shown["id"]] = shown
                    yield self._told("turn.item.done", item=shown, **place)
                    yield from self._close_subagent(call, event)
                    return
                output = output_json(call, turn.id)
                turn.listed[output["id"]] = output
                yield self._told("turn.item.added", item=output, output_index=None)

    def _written(self, item: Words | CallItem) -> Iterator[Json]:
        """Tell all that an item holds, right before its end."""
        if isinstance(item, Words):
            yield self._text("done", item, text=item.text)
            yield self._part("done", item, item.text)
        elif item.kind == "command" and item.output:
            place = {"item_id": item.id, "output_index": item.index, "delta": item.output}
            delta = self._told("", **place)
            yield {**delta, "type": "agent.output.command_execution_output.delta"}

    def _text(self, what: str, words: Words, **more: Any) -> Json:
        kind = "output_text" if words.channel == "text" else "reasoning_summary_text"
        return self._told(f"turn.{kind}.{what}", **_place(words), **more)

    def _part(self, what: str, words: Words, text: str) -> Json:
        spoken = words.channel == "text"
        kind = "content_part" if spoken else "reasoning_summary_part"
        part = {"type": "output_text" if spoken else "summary_text", "text": text}
        cut = {"status": "incomplete"} if not spoken and words.status == "incomplete" else {}
        return self._told(f"turn.{kind}.{what}", **_place(words), part=part, **cut)

    def _end(self, turn: TurnView, event: Event, p: e.TurnEnded) -> Json:
        turn.status, turn.error = _ENDS[p.status], p.error
        turn.completed_at = event.at_us // _S
        told = self._told(
            f"turn.{turn.status}", turn=self.turn_json(turn), usage=usage_json(turn.items.usage)
        )
        self._turn = None
        return told

    def _open_subagent(self, turn: TurnView, event: Event, call_id: str) -> Iterator[Json]:
        call = next(
            (i for i in turn.items.items if isinstance(i, CallItem) and i.call.id == call_id), None
        )
        if call is None or not is_subagent(call):
            return
        name = child_name(self._session, call_id)
        if name in self.subagents:
            return  # another attempt: the same subagent goes on
        parent = self._subagent or self._record.agent_id
        view = SubagentView(name, parent, task_of(call), call.call.tool, event.at_us // _S)
        self.subagents[name] = view
        yield self._about_subagent("created", view)

    def _close_subagent(self, call: CallItem, event: Event) -> Iterator[Json]:
        view = self.subagents.get(child_name(self._session, call.call.id))
        if view is not None:
            view.closed_at = event.at_us // _S
            yield self._about_subagent("closed", view)

    def _about_subagent(self, what: str, view: SubagentView) -> Json:
        return {"type": f"agent.session.subagent.{what}", "subagent": self.subagent_json(view)}

    def _environment(self, status: str, error: ErrorInfo | None) -> Json:
        where = self._record.environment
        about = error and {"type": error.kind, "code": error.code, "message": error.message}
        state = {"id": where.get("id", ""), "type": where["type"], "status": status, "error": about}
        return self._told(f"environment.{status}", environment=state)

    def _told(self, kind: str, **fields: Any) -> Json:
        turn = self._turn.id if self._turn else None
        about = {"session_id": self._record.id, "turn_id": turn}
        return {"type": f"agent.session.{kind}", **about, **fields}


def _place(words: Words) -> Json:
    place: Json = {"item_id": words.id, "output_index": words.index}
    return place | ({"content_index": 0} if words.channel == "text" else {"summary_index": 0})
