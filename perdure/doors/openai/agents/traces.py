"""Traces: a session's turns as OTLP JSON, with the GenAI attribute names of OpenTelemetry.

A pure function of the journal: a trace for each turn, below it a span for each model call and each
attempt of a tool. Texts, arguments and results are not in them; those are the session's items.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Final

from starlette.responses import Response

from perdure.core import events as e
from perdure.core.agent import AgentSpec
from perdure.core.events import Event
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import lists
from perdure.doors.openai.agents.sessions import session_of
from perdure.doors.openai.agents.views import turn_id
from perdure.engine.session import Session

Json = dict[str, Any]

_INTERNAL, _CLIENT = 1, 3
_OK, _ERROR = 1, 2
_SECOND: Final = 1_000_000


async def listed(call: Call) -> Response:
    """GET …/traces."""
    record = await session_of(call)
    events = [event async for event in Session(call.engine, record.id).events()]
    return lists.paged(traces(record.id, events), call)


def traces(session: str, events: Iterable[Event]) -> list[Json]:
    """Return a trace for each turn that has begun, in their order. Pure."""
    spec = AgentSpec("", "")
    found: list[Json] = []
    turn: _Turn | None = None
    for event in events:
        match event.payload:
            case e.SessionCreated(agent=agent) | e.SessionUpdated(agent=AgentSpec() as agent):
                spec = agent
            case e.SessionForked(agent=AgentSpec() as agent):
                spec = agent
            case e.TurnStarted():
                if turn is not None:
                    found.append(turn.trace())
                turn = _Turn(session, spec, event)
            case _ if turn is not None:
                turn.feed(event)
            case _:
                pass
    return found if turn is None else [*found, turn.trace()]


class _Turn:
    """The spans of one turn."""

    def __init__(self, session: str, spec: AgentSpec, started: Event) -> None:
        self._session = session
        self._spec = spec
        self._id = turn_id(session, started.turn)
        self._started = started
        self._tools: dict[str, str] = {}
        self._open: dict[str, tuple[Event, str, list[Json]]] = {}
        self._spans: list[Json] = []
        self._root: Json | None = None
        self._tokens = [0, 0]

    def feed(self, event: Event) -> None:
        """Take an event of the turn in."""
        match event.payload:
            case e.ModelRequested(model=model, purpose=purpose):
                about = [_text("gen_ai.operation.name", "chat"), *_named(model)]
                if purpose:
                    about.append(_text("perdure.purpose", purpose))
                self._open["model"] = (event, f"chat {model.partition(':')[2] or model}", about)
            case e.ModelResponded() as p:
                self._responded(event, p)
            case e.ToolRequested(call_id=call_id, tool=tool):
                self._tools[call_id] = tool
            case e.ToolStarted(call_id=call_id, attempt=attempt):
                tool = self._tools.get(call_id, "")
                about = [
                    _text("gen_ai.operation.name", "execute_tool"),
                    _text("gen_ai.tool.name", tool),
                    _text("gen_ai.tool.call.id", call_id),
                    _number("perdure.attempt", attempt),
                ]
                self._open[call_id] = (event, f"execute_tool {tool}", about)
            case e.ToolFinished() as p:
                error = p.error.code if p.error else p.status
                self._close(p.call_id, event, _INTERNAL, "" if p.status == "ok" else error, [])
            case e.TurnEnded() as p:
                error = p.error.code if p.error else p.status
                self._end(event, "" if p.status == "completed" else error)
            case _:
                pass

    def trace(self) -> Json:
        """Return the trace as it is now: what is still open has no span yet."""
        spans = [self._root, *self._spans] if self._root else self._spans
        scope = {"scope": {"name": "perdure"}, "spans": spans}
        about = [_text("service.name", "perdure"), _text("gen_ai.conversation.id", self._session)]
        return {
            "id": self._id,
            "object": "agent.session.trace",
            "created_at": self._started.at_us // _SECOND,
            "session_id": self._session,
            "otlp": {"resourceSpans": [{"resource": {"attributes": about}, "scopeSpans": [scope]}]},
        }

    def _responded(self, event: Event, p: e.ModelResponded) -> None:
        used = p.usage
        self._tokens[0] += used.input_tokens
        self._tokens[1] += used.output_tokens
        about = [
            _number("gen_ai.usage.input_tokens", used.input_tokens),
            _number("gen_ai.usage.output_tokens", used.output_tokens),
        ]
        if p.model:
            about.append(_text("gen_ai.response.model", p.model))
        if p.finish:
            finish = {"arrayValue": {"values": [{"stringValue": p.finish}]}}
            about.append({"key": "gen_ai.response.finish_reasons", "value": finish})
        error = p.error.code if p.error else p.status
        self._close("model", event, _CLIENT, "" if p.status == "ok" else error, about)

    def _close(self, key: str, event: Event, kind: int, error: str, more: list[Json]) -> None:
        opened = self._open.pop(key, None)
        if opened is None:
            return  # it never left: denied, or decided by a person
        started, name, about = opened
        span = self._span(started, event, name, kind, [*about, *more], error)
        span["parentSpanId"] = _hex(self._started.id, 16)
        self._spans.append(span)

    def _end(self, event: Event, error: str) -> None:
        about = [
            _text("gen_ai.operation.name", "invoke_agent"),
            _text("gen_ai.agent.name", self._spec.name),
            _text("gen_ai.conversation.id", self._session),
            *_named(self._spec.model),
            _number("gen_ai.usage.input_tokens", self._tokens[0]),
            _number("gen_ai.usage.output_tokens", self._tokens[1]),
        ]
        name = f"invoke_agent {self._spec.name}"
        self._root = self._span(self._started, event, name, _INTERNAL, about, error)

    def _span(
        self, started: Event, ended: Event, name: str, kind: int, about: list[Json], error: str
    ) -> Json:
        if error:
            about = [*about, _text("error.type", error)]
        return {
            "traceId": _hex(self._id, 32),
            "spanId": _hex(started.id, 16),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(started.at_us * 1000),
            "endTimeUnixNano": str(max(started.at_us, ended.at_us) * 1000),
            "attributes": about,
            "status": {"code": _ERROR, "message": error} if error else {"code": _OK},
        }


def _named(model: str) -> list[Json]:
    provider, _, name = model.partition(":")
    found = [_text("gen_ai.request.model", name or model)]
    return [_text("gen_ai.provider.name", provider), *found] if name else found


def _text(key: str, value: str) -> Json:
    return {"key": key, "value": {"stringValue": value}}


def _number(key: str, value: int) -> Json:
    return {"key": key, "value": {"intValue": str(value)}}  # 64 bits are a string in OTLP's JSON


def _hex(name: str, digits: int) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:digits]


ENDPOINTS: Final = (
    Endpoint("GET", "/agents/sessions/{session_id}/traces", listed, "viewer", "sessions.traces"),
)
