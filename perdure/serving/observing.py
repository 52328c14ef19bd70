"""Metrics and traces of the work itself, read off the events that are published once durable.

Nothing in the engine knows of it. Of a session only names, counts and times are told: never what
was said, nor a call's arguments or result.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from perdure.core import events as e
from perdure.core.events import Event
from perdure.core.state import State
from perdure.doors.metrics import Metrics

Key = tuple[str, str]  # a session, and what in it: "turn", "model", or a call's id
_OPEN_MOST: Final = 50_000
_LOG: Final = logging.getLogger("perdure.server")


class Step(msgspec.Struct, frozen=True):
    """Something that took time: `what` is turn, model or tool. Times in microseconds."""

    what: str
    name: str
    session: str
    agent: str
    begun_us: int
    ended_us: int = 0
    error: str = ""
    fields: Mapping[str, Any] = {}


class Tracer(Protocol):
    """Makes spans of steps."""

    def woken(self, session: str) -> None:
        """The request that is being handled made the session work."""
        ...

    def begin(self, key: Key, step: Step, within: Key | None) -> None:
        """A step begins, within another one."""
        ...

    def end(self, key: Key, step: Step) -> None:
        """It is over. One that began in another process is not known here."""
        ...


class Observer:
    """Watches the sessions of one project that this process works on."""

    def __init__(self, metrics: Metrics, tracer: Tracer | None, project: str) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._project = project
        self._open: dict[Key, Step] = {}
        self._tools: dict[Key, str] = {}  # which tool an unfinished call is of

    def watch(self, session: str, events: list[Event], state: State) -> None:
        """Look at events that are on disk. See `Hub.watch`."""
        for event in events:
            self._look(session, event, state)

    def woken(self, session: str) -> None:
        """See `Tracer.woken`."""
        if self._tracer is not None:
            self._tracer.woken(self._named(session))

    def _look(self, session: str, event: Event, state: State) -> None:
        match event.payload:
            case e.TurnStarted():
                self._begin(session, "turn", "turn", state.spec.name, event, state)
            case e.ModelRequested(model=model, max_output_tokens=most):
                told = {"request.max_tokens": most}
                self._begin(session, "model", "model", model, event, state, told)
            case e.TurnEnded(status=status, error=error):
                self._metrics.turns.add(status)
                self._end(session, "turn", event, error.code if error else "")
            case e.ModelResponded() as reply:
                self._replied(session, event, reply)
            case e.ToolRequested() | e.ToolStarted() | e.ToolFinished() as of_call:
                self._tool(session, event, of_call, state)
            case e.SessionRecovered():
                self._metrics.recovered.add()
                names = _quoted(session), _quoted(self._project)
                _LOG.info("takeover.done session=%s project=%s", *names)
            case e.SessionParked(error=error):
                self._metrics.refused.add(error.code)
            case _:
                pass

    def _tool(
        self,
        session: str,
        event: Event,
        payload: e.ToolRequested | e.ToolStarted | e.ToolFinished,
        state: State,
    ) -> None:
        call = payload.call_id
        match payload:
            case e.ToolRequested(tool=tool):
                if len(self._tools) < _OPEN_MOST:
                    self._tools[session, call] = tool
            case e.ToolStarted():
                name = self._tools.get((session, call), "tool")
                told = {"tool.call.id": call}
                self._begin(session, call, "tool", name, event, state, told)
            case e.ToolFinished(status=status, error=error):
                self._metrics.tool_calls.add(status)
                took_s = self._end(session, call, event, error.code if error else "")
                if took_s is not None:
                    self._metrics.tool_seconds.observe(took_s)
                if status not in ("retry", "held", "unknown"):
                    self._tools.pop((session, call), None)

    def _replied(self, session: str, event: Event, reply: e.ModelResponded) -> None:
        begun = self._open.get((session, "model"))
        name = begun.name if begun is not None else reply.model or "unknown"
        usage, metrics = reply.usage, self._metrics
        metrics.model_calls.add(name, reply.status)
        metrics.tokens.add(name, "input", by=usage.input_tokens)
        metrics.tokens.add(name, "output", by=usage.output_tokens)
        if usage.cost_micro_usd:
            metrics.usd.add(name, by=usage.cost_micro_usd / 1_000_000)
        told = {
            "response.model": reply.model,
            "usage.input_tokens": usage.input_tokens,
            "usage.output_tokens": usage.output_tokens,
            "provider.name": reply.provider,
        }
        error = reply.error.code if reply.error else "" if reply.status == "ok" else reply.status
        took_s = self._end(session, "model", event, error, told)
        if took_s is not None:
            metrics.model_seconds.observe(took_s, name)

    def _begin(
        self,
        session: str,
        key: str,
        what: str,
        name: str,
        event: Event,
        state: State,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        step = Step(what, name, session, state.spec.name, event.at_us, fields=told or {})
        if len(self._open) < _OPEN_MOST:
            self._open[session, key] = step
        if self._tracer is not None:
            within = None if what == "turn" else (self._named(session), "turn")
            self._tracer.begin((self._named(session), key), step, within)

    def _end(
        self,
        session: str,
        key: str,
        event: Event,
        error: str,
        told: Mapping[str, Any] | None = None,
    ) -> float | None:
        """Note the end; return how many seconds it took, if it began here."""
        if error:
            self._metrics.refused.add(error)
        step = self._open.pop((session, key), None)
        if step is None:
            return None
        fields = {**step.fields, **(told or {})}
        done = msgspec.structs.replace(step, ended_us=event.at_us, error=error, fields=fields)
        if self._tracer is not None:
            self._tracer.end((self._named(session), key), done)
        return max(0.0, (event.at_us - step.begun_us) / 1_000_000)

    def _named(self, session: str) -> str:
        return f"{self._project}/{session}"


def _quoted(name: str) -> str:
    """Return a name as one word of a log: clients may give a session almost any name."""
    plain = name.isascii() and name.isprintable() and not set(name) & set(' "=')
    return name if plain else json.dumps(name)
