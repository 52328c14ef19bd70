"""What a server sees of itself, put together: log, metrics, traces."""

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from perdure.core.errors import PerdureError
from perdure.doors.http import token_of
from perdure.doors.metrics import CONTENT_TYPE, Metrics
from perdure.doors.native.table import problem
from perdure.doors.principals import Principal
from perdure.doors.projects import Projects
from perdure.doors.settings import ServerSettings
from perdure.doors.watching import ERROR, Watch
from perdure.engine.kit import Kit
from perdure.engine.runtime import Engine
from perdure.ports.clock import Clock
from perdure.serving.loopback import is_loopback
from perdure.serving.observing import Observer
from perdure.serving.tracing import RequestSpans, Tracing, exporting

_LOCAL: Final = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_PASSED_ON: Final = ("forwarded", "x-forwarded", "x-real-ip", "via")  # how such headers begin

Identify = Callable[[str], Awaitable[Principal]]


class Eyes:
    """Counts, traces and logs for one server. `tracing` is for tests; else the settings say."""

    def __init__(
        self, clock: Clock, settings: ServerSettings, tracing: Tracing | None = None
    ) -> None:
        self.metrics = Metrics()
        if tracing is None and settings.traces:
            tracing = exporting()
        self._tracing = tracing
        self._settings = settings
        spans = RequestSpans(tracing) if tracing is not None else None
        self._watch = Watch(clock, self.metrics, settings.stall_s, spans)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return `app`, watched."""
        return self._watch.around(app)

    def engine(self, kit: Kit, project: str) -> Engine:
        """Return an engine whose work is watched."""
        observer = Observer(self.metrics, self._tracing, project)
        engine = Watched(kit, observer)
        engine.hub.watch = observer.watch
        return engine

    def count(self, projects: Projects) -> None:
        """Have the sessions that are worked on counted."""
        gauge = self.metrics.gauge
        gauge(
            "perdure_sessions_driven", "Sessions that this process works on.",
            lambda: sum(len(each.driven) for each in projects.open_ones.values()),
        )  # fmt: skip
        gauge("perdure_projects_open", "Projects open.", lambda: len(projects.open_ones))

    def routes(self, identify: Identify, request_id: Callable[[], str]) -> list[BaseRoute]:
        """Return the page of the metrics, to whom `metrics` of the settings says."""
        if self._settings.metrics == "off":
            return []
        # Where others can connect, so can a proxy of theirs that looks like this machine.
        alone = self._settings.metrics == "loopback" and is_loopback(self._settings.host)

        async def metrics(request: Request) -> Response:
            if not (alone and _is_local(request)):
                try:
                    await identify(token_of(request.headers))
                except PerdureError as error:
                    request.scope[ERROR] = error.code
                    return problem(error, request_id())
            return PlainTextResponse(self.metrics.text(), media_type=CONTENT_TYPE)

        return [Route("/metrics", metrics)]

    def stop(self) -> None:
        """End streams and waiting requests."""
        self._watch.stop()

    def close(self) -> None:
        """Send the last spans."""
        if self._tracing is not None:
            self._tracing.close()


class Watched(Engine):
    """An engine that says which request made a session work."""

    def __init__(self, kit: Kit, observer: Observer) -> None:
        super().__init__(kit)
        self._observer = observer

    def wake(self, session_id: str) -> None:
        """See `Engine.wake`."""
        self._observer.woken(session_id)
        super().wake(session_id)


def _is_local(request: Request) -> bool:
    """Whether a process on this machine asks for itself, and no proxy for somebody else. A proxy
    that says nothing of itself, and calls us by our address, cannot be told from one that does.
    """
    host = request.client.host if request.client is not None else ""
    try:
        called = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    passed_on = any(name.lower().startswith(_PASSED_ON) for name in request.headers)
    return host in _LOCAL and is_loopback(called) and not passed_on
