"""The connection to a server: requests, streams, and errors that are the same errors again."""

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from perdure.core.codec import decode, encode
from perdure.core.errors import (
    BudgetReached,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PerdureError,
    Unavailable,
)
from perdure.core.secrets import Secret
from perdure.doors.native.bodies import Failure, Problem

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
_CONNECT_S: Final = 15.0
_SILENCE_S: Final = 75.0  # a server says something at least every few seconds
_ATTEMPTS: Final = 6
_PAUSE_S: Final = 0.2
_KINDS: Final[Mapping[int, type[PerdureError]]] = {
    400: InvalidRequest,
    401: Forbidden,
    402: BudgetReached,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    422: InvalidRequest,
}


@dataclass(frozen=True)
class Address:
    """Where a server is, and what opens it. `ca_file` names certificates to trust instead of the
    system's.
    """

    url: str
    key: Secret | None = None
    ca_file: str = ""


class Frame(NamedTuple):
    """A server-sent event. `seq` is None for what is not in the journal."""

    seq: int | None
    event: str
    data: bytes


class Link:
    """A connection to the native API of one server. Opens when it is first used."""

    def __init__(self, address: Address) -> None:
        self.url = _checked(address.url)
        if address.key is None:
            raise Forbidden(
                "E-REMOTE-KEY",
                f"There is no API key for {self.url}. Nothing was sent.",
                "export PERDURE_API_KEY=…    the operator makes one: perdure admin keys new",
            )
        self._address = address
        self._client: httpx2.AsyncClient | None = None

    async def ask(
        self,
        method: str,
        path: str,
        type_: type[T],
        body: object = None,
        **query: str | int,
    ) -> T:
        """Send a request and return its answer. Raises what the server says, and `Unavailable`."""
        content = None if body is None else encode(body)
        answer = await self._send(method, path, content, query)
        return self.read(answer.content, type_)

    async def octets(
        self, method: str, path: str, body: bytes | None = None, **query: str | int
    ) -> bytes:
        """Send octets, and return octets."""
        found: bytes = (await self._send(method, path, body, query)).content
        return found

    async def frames(
        self, path: str, after: int, opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Frame, None]:
        """Yield server-sent events behind the seq `after`, for ever. What breaks is taken up again
        after the last one that came. `opened` is called when the server has begun to answer.
        Raises what the server says, and `Unavailable`.
        """
        import httpx2

        failed = 0
        while True:
            try:
                async for frame in self._frames(path, after, opened):
                    failed = 0
                    if frame.event == "error":
                        raise self._told(frame.data)
                    after = frame.seq or after
                    yield frame
            except (httpx2.HTTPError, OSError, Unavailable) as error:
                failed += 1
                if failed == _ATTEMPTS:
                    raise self._unreachable(error) from error
            await asyncio.sleep(_PAUSE_S * 2**failed)

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _send(
        self, method: str, path: str, content: bytes | None, query: Mapping[str, str | int]
    ) -> "httpx2.Response":
        import httpx2

        headers = {} if content is None else {"content-type": "application/json"}
        asked = {name: str(value) for name, value in query.items() if value != ""}
        # What only reads is asked for once more: the connection may have been an old one.
        left = 2 if method == "GET" else 1
        while True:
            left -= 1
            try:
                answer = await self._opened().request(
                    method, f"/api{path}", content=content, params=asked, headers=headers
                )
            except (httpx2.HTTPError, OSError) as error:
                if not left:
                    raise self._unreachable(error) from error
                continue
            self._check(answer.status_code, answer.content)
            return answer

    async def _frames(
        self, path: str, after: int, opened: Callable[[], None]
    ) -> AsyncIterator[Frame]:
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        async with self._opened().stream("GET", f"/api{path}", headers=headers) as answer:
            if answer.status_code != 200:
                self._check(answer.status_code, await answer.aread())
            opened()
            rest = b""
            async for piece in answer.aiter_bytes():
                *whole, rest = (rest + piece).split(b"\n\n")
                for each in whole:
                    frame = _frame(each)
                    if frame is not None:
                        yield frame

    def _opened(self) -> "httpx2.AsyncClient":
        import httpx2

        if self._client is None:
            assert self._address.key is not None
            ca = self._address.ca_file
            trust = ssl.create_default_context(cafile=ca) if ca else True
            self._client = httpx2.AsyncClient(
                base_url=self.url,
                headers={"authorization": f"Bearer {self._address.key.reveal()}"},
                timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S),
                verify=trust,
            )
        return self._client

    def _check(self, status: int, body: bytes) -> None:
        if status < 300:
            return
        try:
            problem = decode(body, Failure).error
        except msgspec.MsgspecError:
            raise self._strange(f"it answered {status}") from None
        raise error_of(problem, status)

    def read(self, body: bytes, type_: type[T]) -> T:
        """Return an answer as `type_`. Raises `InvalidRequest` (E-REMOTE-ANSWER)."""
        try:
            return decode(body or b"null", type_)
        except msgspec.MsgspecError as error:
            raise self._strange(str(error)) from error

    def _told(self, data: bytes) -> PerdureError:
        try:
            plain: dict[str, Any] = json.loads(data)
            return error_of(msgspec.convert(plain["error"], Problem), int(plain["status"]))
        except (ValueError, KeyError, TypeError) as error:
            return self._strange(str(error))

    def _strange(self, why: str) -> InvalidRequest:
        return InvalidRequest(
            "E-REMOTE-ANSWER",
            f"{self.url} does not answer like a Perdure server of this version: {why}.",
            "Look at PERDURE_URL, and at the versions here and there.",
        )

    def _unreachable(self, error: Exception) -> Unavailable:
        if isinstance(error, Unavailable):
            return error
        why = str(error) or type(error).__name__
        return Unavailable(
            "E-REMOTE-UNREACHABLE",
            f"{self.url} cannot be reached: {why}. What it holds goes on without us.",
            "The same command again, once it can be reached.",
        )


def error_of(problem: Problem, status: int) -> PerdureError:
    """Return a server's error as the exception that it was there."""
    if status in (429, 503):
        return Unavailable(problem.code, problem.message, problem.hint)
    if problem.code == "E-AUTH":  # the server's hint is for who writes requests
        hint = (
            "export PERDURE_API_KEY=…    a key of this server (its operator: perdure admin keys"
            " new), or a fresh token of your provider"
        )
        return Forbidden(problem.code, problem.message, hint)
    kind = _KINDS.get(status, PerdureError)
    return kind(problem.code, problem.message, problem.hint, retryable=problem.retryable)


def part(name: str) -> str:
    """Return a name as a part of a path. Raises `InvalidRequest` (E-SESSION-NAME)."""
    if "/" in name or name in ("", ".", ".."):
        raise InvalidRequest("E-SESSION-NAME", f"{name!r} cannot be asked for over HTTP.")
    return quote(name, safe="", errors="replace")


def is_remote(url: str) -> bool:
    """Whether a store's address is that of a server."""
    return url.startswith(("https://", "http://"))


def _checked(url: str) -> str:
    """Return the address. A key is never sent in the clear to another machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        secure = parts.scheme == "https" or _is_here(host)
        good = parts.scheme in ("https", "http") and host and not parts.username
        _ = parts.port
    except ValueError:
        good = secure = False
    if not good:
        raise InvalidRequest(
            "E-REMOTE-URL",
            f"PERDURE_URL={url} is no server's address.",
            "https://perdure.example.org, or http://127.0.0.1:8700 on this machine",
        )
    if not secure:
        raise InvalidRequest(
            "E-REMOTE-URL",
            f"{url} is not encrypted: the key could be read on the way. Nothing was sent.",
            "https://…, or a tunnel to this machine",
        )
    return url.rstrip("/").removesuffix("/api")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _frame(text: bytes) -> Frame | None:
    """Read one server-sent event; None for a comment."""
    seq, event, data = None, "", None
    for line in text.split(b"\n"):
        name, _, value = line.partition(b": ")
        if name == b"id":
            seq = int(value)
        elif name == b"event":
            event = value.decode()
        elif name == b"data":
            data = value
    return None if data is None else Frame(seq, event, data)
