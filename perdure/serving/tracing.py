"""OpenTelemetry: spans of requests, turns, model calls and tool calls. Needs the extra `otel`.

Names and attributes follow the semantic conventions for generative AI (gen_ai.*), without any
content. A turn's span hangs under the request that made the session work, and that under whatever
`traceparent` it came with; what another process began has no span here.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from perdure.core.errors import InvalidRequest
from perdure.serving.observing import Key, Step

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from starlette.types import Scope

_OPERATIONS: Final[Mapping[str, str]] = {
    "turn": "invoke_agent",
    "model": "chat",
    "tool": "execute_tool",
}
_WOKEN_MOST: Final = 10_000
_LAST_S: Final = 2.0  # for what is left when the server ends
_LOG: Final = logging.getLogger("perdure.server")


class Tracing:
    """Makes spans. Implements `doors.watching.Spans` and `Tracer`. `give_up` ends the attempts to
    send what nobody takes.
    """

    def __init__(
        self, provider: "TracerProvider", give_up: Callable[[], object] | None = None
    ) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._give_up = give_up
        self._tracer = provider.get_tracer("perdure")
        self._propagator = TraceContextTextMapPropagator()
        self._woken: OrderedDict[str, Context] = OrderedDict()
        self._open: dict[Key, Span] = {}

    def begin_request(self, scope: "Scope") -> tuple["Span", Any]:
        """See `Spans.begin`."""
        from opentelemetry import context, trace

        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        carried = {k: headers[k] for k in ("traceparent", "tracestate") if k in headers}
        parent = self._propagator.extract(carried)
        span = self._tracer.start_span("request", parent, trace.SpanKind.SERVER)
        return span, context.attach(trace.set_span_in_context(span, parent))

    def end_request(self, span: tuple["Span", Any], fields: Mapping[str, Any]) -> None:
        """See `Spans.end`."""
        from opentelemetry import context

        made, token = span
        context.detach(token)
        made.update_name(f"{fields['method']} {fields['route']}")
        made.set_attribute("http.request.method", fields["method"])
        made.set_attribute("http.route", fields["route"])
        made.set_attribute("http.response.status_code", fields["status"])
        made.set_attribute("perdure.request.id", fields["id"])
        if "error" in fields:
            made.set_attribute("error.type", fields["error"])
        made.end()

    def woken(self, session: str) -> None:
        """See `Tracer.woken`. `session` is named with its project."""
        from opentelemetry import context, trace

        here = context.get_current()
        if trace.get_current_span(here).get_span_context().is_valid:
            self._woken[session] = here
            self._woken.move_to_end(session)
            if len(self._woken) > _WOKEN_MOST:
                self._woken.popitem(last=False)

    def begin(self, key: Key, step: Step, within: Key | None) -> None:
        """See `Tracer.begin`."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        outer = self._open.get(within) if within is not None else None
        if outer is not None:
            parent = trace.set_span_in_context(outer, Context())
        elif within is None:
            parent = self._woken.pop(key[0], Context())
        else:
            return  # its turn began in another process
        operation = _OPERATIONS[step.what]
        kind = trace.SpanKind.CLIENT if step.what == "model" else trace.SpanKind.INTERNAL
        span = self._tracer.start_span(
            f"{operation} {step.name}", parent, kind, start_time=step.begun_us * 1000
        )
        span.set_attribute("gen_ai.operation.name", operation)
        span.set_attribute("gen_ai.conversation.id", step.session)
        span.set_attribute("gen_ai.agent.name", step.agent)
        self._open[key] = span

    def end(self, key: Key, step: Step) -> None:
        """See `Tracer.end`."""
        from opentelemetry.trace import Status, StatusCode

        span = self._open.pop(key, None)
        if span is None:
            return
        if step.what != "turn":
            named = "gen_ai.request.model" if step.what == "model" else "gen_ai.tool.name"
            span.set_attribute(named, step.name)
        for name, value in step.fields.items():
            if value:
                span.set_attribute(f"gen_ai.{name}", value)
        if step.error:
            span.set_attribute("error.type", step.error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(step.ended_us * 1000)

    def close(self) -> None:
        """Send what is left. Blocks, but a collector that does not answer does not keep the server
        from ending: after two seconds the rest is let go, with a line in the log.
        """
        for span in self._open.values():
            span.end()
        self._open.clear()
        sending = Thread(target=self._provider.shutdown, name="perdure last traces", daemon=True)
        sending.start()
        sending.join(_LAST_S)
        if sending.is_alive():
            _LOG.warning("traces.unsent the collector does not take the last traces")
            if self._give_up is not None:
                self._give_up()


class RequestSpans:
    """The part of `Tracing` that requests see. Implements `doors.watching.Spans`."""

    def __init__(self, tracing: Tracing) -> None:
        self.begin = tracing.begin_request
        self.end = tracing.end_request


def exporting() -> Tracing:
    """Return traces that go to where the variables OTEL_… say. Raises `InvalidRequest` (E-OTEL)."""
    try:
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidRequest(
            "E-OTEL", "Traces need OpenTelemetry, which is not installed.",
            "pip install 'perdure[otel]'",
        ) from error  # fmt: skip
    sender = exporter.OTLPSpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(sender))
    return Tracing(provider, sender.shutdown)
