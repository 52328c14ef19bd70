"""What is written down of every request: one line of the log, the metrics, a span of a trace.

Of a request only its id, method, route, status, time, project and key id are told, and the code of
an error: never a body, a header, a query or the path itself.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.doors.metrics import Metrics
from perdure.doors.sse import SCOPE, Streams
from perdure.ports.clock import Clock

ERROR: Final = "perdure.error"  # where a request's scope holds the code of what went wrong
_LOG: Final = logging.getLogger("perdure.access")
_FAILED: Final = logging.getLogger("perdure.server")
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Spans(Protocol):
    """Traces requests."""

    def begin(self, scope: Scope) -> Any:
        """A request begins; return what `end` is given."""
        ...

    def end(self, span: Any, fields: Mapping[str, Any]) -> None:
        """It was answered."""
        ...


class NoSpans:
    """Traces nothing. Implements `Spans`."""

    def begin(self, scope: Scope) -> Any:
        """See `Spans.begin`."""
        return None

    def end(self, span: Any, fields: Mapping[str, Any]) -> None:
        """See `Spans.end`."""


class Watch:
    """Middleware around all doors. `stop` ends what is still open, for a server that ends."""

    def __init__(
        self, clock: Clock, metrics: Metrics, stall_s: float, spans: Spans | None = None
    ) -> None:
        self.metrics = metrics
        self.streams = Streams(stall_s, metrics.cut_off.add)
        self.spans: Spans = spans or NoSpans()
        self._clock = clock
        self._open: dict[asyncio.Task[Any], _Request] = {}
        self._stopping = False
        metrics.gauge("perdure_streams_open", "Streams open.", lambda: len(self.streams))
        metrics.gauge("perdure_requests_open", "Requests open.", lambda: len(self._open))

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return `app`, watched."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            scope[SCOPE] = self.streams
            if scope["type"] == "http":
                query: bytes = scope["query_string"]
                scope["query_string"] = query.decode("utf-8", "replace").encode()
                await self._answer(app, scope, receive, send)
            else:
                await app(scope, receive, send)

        return watched

    def stop(self) -> None:
        """End streams with a comment, and tell those that wait for an answer to ask again."""
        self._stopping = True
        self.streams.stop()
        for task, request in self._open.items():
            if not request.status:
                task.cancel()

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        request = self._open[task] = _Request(scope, send, self._clock)
        span = self.spans.begin(scope)
        try:
            await app(scope, receive, request.send)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            task.uncancel()
            if request.status:
                return  # it was told to end, and did not in time
            scope[ERROR] = "E-SERVER-STOPPING"
            await request.refuse(503, "The server is stopping. Ask again: what was begun goes on.")
        except Exception as error:  # noqa: BLE001  # what it was goes to the log, not out
            scope[ERROR] = "E-INTERNAL"
            _FAILED.error("request.broken id=%s", request.id, exc_info=error)
            if not request.status:
                await request.refuse(500, "The server failed.")
        finally:
            del self._open[task]
            fields = request.fields(self._clock.monotonic())
            self.spans.end(span, fields)
            self._count(request, fields)
            _LOG.info("request", extra={"fields": fields})

    def _count(self, request: "_Request", fields: Mapping[str, Any]) -> None:
        method, route = fields["method"], fields["route"]
        self.metrics.requests.add(method, route, str(fields["status"]))
        if request.began is not None:
            self.metrics.request_seconds.observe(request.began, method, route)
        if "error" in fields:
            self.metrics.refused.add(fields["error"])


class _Request:
    """One request on its way. `began` is after how many seconds the answer began."""

    def __init__(self, scope: Scope, send: Send, clock: Clock) -> None:
        self.status = 0
        self.began: float | None = None
        self._scope = scope
        self._send = send
        self._clock = clock
        self._start = clock.monotonic()

    @property
    def id(self) -> str:
        """The request's id, once it has one."""
        return str(self._scope.get("perdure.request_id", "-"))

    async def send(self, message: Message) -> None:
        """Send, and note how it was answered."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.began = self._clock.monotonic() - self._start
        await self._send(message)

    async def refuse(self, status: int, why: str) -> None:
        """Answer in place of the application."""
        code = self._scope[ERROR]
        said = {"error": {"code": code, "message": why, "type": "server_error", "param": None}}
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
        headers.append((b"x-request-id", self.id.encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": json.dumps(said).encode()})

    def fields(self, now_s: float) -> dict[str, Any]:
        """Return what may be told of the request."""
        method = self._scope["method"]
        fields = {
            "id": self.id,
            "method": method if method in _METHODS else "other",
            "route": getattr(self._scope.get("route"), "path", "unmatched"),
            "status": self.status or 499,  # 499: the client went before it was answered
            "ms": round((now_s - self._start) * 1000, 1),
        }
        principal = self._scope.get("perdure.principal")
        if principal is not None:
            fields |= {"project": principal.project, "key": principal.id}
        if ERROR in self._scope:
            fields["error"] = self._scope[ERROR]
        return fields
