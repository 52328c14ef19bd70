"""How much one key may ask for, and all together. Each refusal names the setting that it is.

In memory, in this process: a server that begins anew begins with full measures. What is remembered
is bounded, so that nobody fills the memory with keys.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from perdure.core.errors import InvalidRequest, Unavailable
from perdure.doors.settings import ServerSettings
from perdure.ports.clock import Clock

_KEYS: Final = 10_000  # whose measure is remembered; the one that was not used for longest goes
_MINUTE_US: Final = 60 * 1_000_000


class TooLarge(InvalidRequest):
    """More was sent than the server takes."""


class HeadersTooLarge(InvalidRequest):
    """More came before the body than the server takes."""


class TooMany(Unavailable):
    """More is asked for at once, or in a minute, than this key may."""


class Limits:
    """Counts for one server. A limit of 0 is none."""

    def __init__(self, settings: ServerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._measures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._streams: dict[str, int] = {}
        self._open = 0

    def check_head(self, request: HTTPConnection) -> None:
        """Raise `HeadersTooLarge` (E-HEADER-SIZE) when address and headers are too long."""
        most = self._settings.max_header_bytes
        size = sum(len(name) + len(value) for name, value in request.headers.raw)
        size += len(request.scope.get("raw_path") or b"") + len(request.scope["query_string"])
        if most and size > most:
            raise HeadersTooLarge(
                "E-HEADER-SIZE",
                f"Address and headers are {size} bytes long, more than {most}.",
                "[server] max_header_bytes",
            )

    def enter(self) -> None:
        """A request begins. Raises `Unavailable` (E-CONNECTIONS) when too many are open."""
        most = self._settings.max_connections
        if most and self._open >= most:
            raise Unavailable(
                "E-CONNECTIONS",
                f"{most} requests are open, which is all this server takes.",
                "[server] max_connections",
                retry_after_s=1.0,
            )
        self._open += 1

    def leave(self) -> None:
        """It has been answered to its end."""
        self._open -= 1

    def admit(self, key: str) -> None:
        """Count a request of this key. Raises `TooMany` (E-RATE) when its minute is used up."""
        most = self._settings.requests_per_minute
        if not most:
            return
        now_us = self._clock.now_us()
        left, at_us = self._measures.pop(key, (float(most), now_us))
        left = min(float(most), left + max(0, now_us - at_us) * most / _MINUTE_US)
        spent = left >= 1.0
        self._measures[key] = (left - spent, now_us)
        if len(self._measures) > _KEYS:
            self._measures.popitem(last=False)
        if not spent:
            raise TooMany(
                "E-RATE",
                f"This key may ask {most} times a minute.",
                "[server] requests_per_minute",
                retry_after_s=(1.0 - left) * 60 / most,
            )

    def check_streams(self, key: str) -> None:
        """Raise `TooMany` (E-STREAMS) when this key reads as many streams as it may."""
        if self.is_full(key):
            raise TooMany(
                "E-STREAMS",
                f"This key reads {self._settings.max_streams_per_key} streams at once already.",
                "[server] max_streams_per_key",
                retry_after_s=1.0,
            )

    def is_full(self, key: str) -> bool:
        """Whether this key may not read one stream more."""
        most = self._settings.max_streams_per_key
        return bool(most) and self._streams.get(key, 0) >= most

    def begin_stream(self, key: str) -> None:
        """This key reads one more."""
        self._streams[key] = self._streams.get(key, 0) + 1

    def end_stream(self, key: str) -> None:
        """It has ended."""
        left = self._streams.pop(key, 1) - 1
        if left > 0:
            self._streams[key] = left

    @property
    def remembered(self) -> tuple[int, int, int]:
        """How many keys' measures, keys with streams, and open requests are remembered."""
        return len(self._measures), len(self._streams), self._open


class Counted(Response):
    """A response that is counted until its end. `begin` and `end` are called around its body."""

    def __init__(
        self, inner: Response, begin: Callable[[], None] | None, end: Callable[[], None]
    ) -> None:
        self._inner = inner
        self._begin = begin
        self._end = end
        self.status_code = inner.status_code
        self.background = None
        self.body = inner.body if hasattr(inner, "body") else b""

    @property
    def headers(self) -> MutableHeaders:
        """Those of the response within."""
        return self._inner.headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if self._begin is not None:
            self._begin()
        try:
            await self._inner(scope, receive, send)
        finally:
            self._end()
