"""What all faces share: an endpoint is a route with the role it asks for; a call is one request."""

import contextlib
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from perdure.core.errors import (
    BudgetReached,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PerdureError,
    Unavailable,
)
from perdure.doors.limits import Counted, HeadersTooLarge, TooLarge, TooMany
from perdure.doors.principals import Identify, Principal, Role, Unauthenticated
from perdure.doors.services import Services
from perdure.engine.runtime import Engine

T = TypeVar("T")


class WrongMethod(InvalidRequest):
    """The path does not take this method."""


STATUS: Final[Sequence[tuple[type[PerdureError], int]]] = (
    (Unauthenticated, 401),
    (TooLarge, 413),
    (HeadersTooLarge, 431),
    (TooMany, 429),
    (WrongMethod, 405),
    (InvalidRequest, 400),
    (NotFound, 404),
    (Forbidden, 403),
    (BudgetReached, 402),
    (Conflict, 409),
    (Unavailable, 503),
)


def status_of(error: PerdureError) -> int:
    """Return the HTTP status of an error; 500 for what is our own fault."""
    return next((status for type_, status in STATUS if isinstance(error, type_)), 500)


@dataclass
class Call:
    """One request, with who sent it and the engine of its project."""

    request: Request
    principal: Principal
    engine: Engine
    services: Services
    request_id: str
    _body: bytes | None = field(default=None, repr=False)

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that the route names."""
        return self.request.path_params

    @property
    def query(self) -> Mapping[str, str]:
        """The query, the last of several values."""
        return self.request.query_params

    def queries(self, name: str) -> list[str]:
        """Return all values of `name` and of `name[]`, as clients write lists."""
        params = self.request.query_params
        return params.getlist(name) + params.getlist(f"{name}[]")

    def metadata(self, name: str = "metadata") -> dict[str, str]:
        """Return `name[key]=value` pairs of the query as a mapping."""
        start = f"{name}["
        pairs = self.request.query_params.multi_items()
        return {k[len(start) : -1]: v for k, v in pairs if k.startswith(start) and k.endswith("]")}

    def number(self, name: str, default: int, *, least: int = 0, most: int = 1_000_000) -> int:
        """Return a whole number of the query. Raises `InvalidRequest` (E-QUERY)."""
        text = self.query.get(name)
        if text is None or text == "":
            return default
        try:
            number = int(text)
        except ValueError as error:
            raise _bad_query(name, text, "a whole number") from error
        if not least <= number <= most:
            raise _bad_query(name, text, f"a number from {least} to {most}")
        return number

    def header(self, name: str) -> str:
        """Return a header, or ""."""
        return self.request.headers.get(name, "")

    async def body(self) -> bytes:
        """Return the body. Raises `TooLarge` (E-BODY-SIZE) as soon as it is longer than allowed."""
        if self._body is None:
            most = self.services.settings.max_body_bytes
            chunks: list[bytes] = []
            size = 0
            async for chunk in self.request.stream():
                size += len(chunk)
                if size > most:
                    raise TooLarge(
                        "E-BODY-SIZE",
                        f"The body is longer than {most} bytes.",
                        "[server] max_body_bytes",
                    )
                chunks.append(chunk)
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> dict[str, Any]:
        """Return the body as a JSON object; an empty body is an empty one. Raises
        `InvalidRequest` (E-BODY-JSON).
        """
        body = await self.body()
        if not body.strip():
            return {}
        try:
            value = read_json(body)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest("E-BODY-JSON", "The body is not JSON.") from error
        if not isinstance(value, dict):
            raise InvalidRequest("E-BODY-JSON", "The body is not a JSON object.")
        return value

    async def read(self, type_: type[T]) -> T:
        """Return the body as `type_`. Raises `InvalidRequest` (E-BODY) naming the field."""
        try:
            return msgspec.convert(await self.json(), type_)
        except msgspec.ValidationError as error:
            raise InvalidRequest("E-BODY", f"The body does not fit: {error}.") from error


Handler = Callable[[Call], Awaitable[Response]]
Problem = Callable[[PerdureError, str], Response]


@dataclass(frozen=True)
class Endpoint:
    """A route: what it answers, to whom. `name` is unique within its face."""

    method: str
    path: str
    handler: Handler
    role: Role = "viewer"
    name: str = ""


@dataclass(frozen=True)
class Face:
    """One protocol: its endpoints below `prefix`, and how it words an error."""

    name: str
    prefix: str
    endpoints: Sequence[Endpoint]
    problem: Problem


class Doorway:
    """Turns endpoints into routes: who calls, may they, what went wrong."""

    def __init__(self, services: Services, identify: Identify) -> None:
        self._services = services
        self._identify = identify

    def routes(self, face: Face) -> list[BaseRoute]:
        """Return the face's routes, one for each path, in the order the paths came first."""
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in face.endpoints:
            by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        return [
            Route(face.prefix + path, self._handle(face, methods), methods=list(methods))
            for path, methods in by_path.items()
        ]

    def _handle(
        self, face: Face, methods: Mapping[str, Endpoint]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            # Starlette sends HEAD where GET is.
            endpoint = methods.get(request.method) or methods["GET"]
            request_id = self._services.request_id()
            request.scope["perdure.request_id"] = request_id
            limits = self._services.limits
            try:
                limits.enter()
            except PerdureError as error:
                return _told(face, error, request)
            try:
                response = await self._answer(endpoint, request, request_id)
            except PerdureError as error:
                response = _told(face, error, request)
            except msgspec.ValidationError as error:
                unreadable = InvalidRequest("E-BODY", f"The request does not fit: {error}.")
                response = _told(face, unreadable, request)
            except ClientDisconnect:
                cut = InvalidRequest("E-BODY-CUT", "The client went before its body had come.")
                response = _told(face, cut, request)
            except Exception as error:  # noqa: BLE001  # what it was goes to the log, not out
                self._services.log_failure(request_id, endpoint.path, error)
                ours = PerdureError("E-INTERNAL", f"The server failed; see its log: {request_id}.")
                response = _told(face, ours, request)
            except BaseException:
                limits.leave()
                raise
            response.headers.setdefault("x-request-id", request_id)
            return self._counted(response, request)

        return handle

    def _counted(self, response: Response, request: Request) -> Response:
        """Return the response with its connection, and its stream, counted until it ends."""
        limits = self._services.limits
        principal: Principal | None = request.scope.get("perdure.principal")
        if principal is None or not _is_stream(response):
            return Counted(response, None, limits.leave)
        key = principal.id

        def end() -> None:
            limits.end_stream(key)
            limits.leave()

        return Counted(response, lambda: limits.begin_stream(key), end)

    async def _answer(self, endpoint: Endpoint, request: Request, request_id: str) -> Response:
        limits = self._services.limits
        limits.check_head(request)
        principal = await self._identify(token_of(request.headers))
        request.scope["perdure.principal"] = principal
        limits.admit(principal.id)
        if not principal.may(endpoint.role):
            raise Forbidden(
                "E-ROLE",
                f"This needs the role {endpoint.role}; the key has the role {principal.role}.",
                f"perdure admin keys new --role {endpoint.role}",
            )
        services = self._services
        engine = await services.projects.engine(principal.project)
        call = Call(request, principal, engine, services, request_id)
        if limits.is_full(principal.id) and await _wants_stream(call):
            limits.check_streams(principal.id)  # before anything is begun
        return await endpoint.handler(call)


def token_of(headers: Mapping[str, str]) -> str:
    """Return the credential of a request: a bearer token, or what older clients send."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key", "").strip()


def _is_stream(response: Response) -> bool:
    return response.headers.get("content-type", "").startswith("text/event-stream")


async def _wants_stream(call: Call) -> bool:
    """Whether a request asks for a stream, in any of the ways that faces know."""
    if "text/event-stream" in call.header("accept"):
        return True
    if call.query.get("stream", "").lower() == "true":
        return True
    if call.request.method != "POST":
        return False
    with contextlib.suppress(InvalidRequest):
        return bool((await call.json()).get("stream"))
    return False


def read_json(body: bytes) -> Any:
    """Read JSON as others write it: no NaN, no number that no other program reads back, and what
    is half a character becomes a question mark. Raises `ValueError`.
    """
    value = json.loads(body, parse_constant=_number, parse_float=_number, parse_int=_whole)
    if b"\\ud" in body or b"\\uD" in body:
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        value = json.loads(text)
    return value


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text[:20])
    return number


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**64:
        raise ValueError(text[:20])
    return number


def _told(face: Face, error: PerdureError, request: Request) -> Response:
    request.scope["perdure.error"] = error.code
    return face.problem(error, request.scope["perdure.request_id"])


def _bad_query(name: str, text: str, wanted: str) -> InvalidRequest:
    return InvalidRequest("E-QUERY", f"{name}={text!r} is not {wanted}.")
