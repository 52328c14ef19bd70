"""What an endpoint says about itself: enough for a router, a manual and a generated client."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from perdure.core.codec import encode
from perdure.core.errors import PerdureError, Unavailable
from perdure.doors.http import Call, Endpoint, status_of

JSON: Final = "application/json"
LINES: Final = "application/x-ndjson"
BYTES: Final = "application/octet-stream"
STREAM: Final = "text/event-stream"


@dataclass(frozen=True)
class Query:
    """A parameter of the query."""

    name: str
    about: str
    number: bool = False
    least: int = 0
    most: int = 1_000_000
    required: bool = False


@dataclass(frozen=True)
class Operation(Endpoint):
    """An endpoint with what its manual says. `result` is the type of the answer, None for one
    that is not JSON: then `media` says what it is. `streams`: it can be followed as events.
    """

    tag: str = ""
    body: Any = None
    result: Any = None
    query: Sequence[Query] = ()
    media: str = JSON
    status: int = 200
    accepts: str = JSON
    streams: bool = False


def answer(value: object, status: int = 200) -> Response:
    """Return `value` as JSON. Text that is not Unicode stays what it was."""
    return Response(encode(value), status, media_type=JSON)


def problem(error: PerdureError, request_id: str) -> Response:
    """Return the response that says what went wrong."""
    headers = {"x-request-id": request_id}
    if isinstance(error, Unavailable) and error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return JSONResponse({"error": fields_of(error)}, status_of(error), headers)


def fields_of(error: PerdureError) -> dict[str, object]:
    """Return an error's fields, as `Problem` has them."""
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "retryable": error.retryable,
    }


def by_of(call: Call, said: str = "") -> str:
    """Return who a journal says it was: the key's id, with what the client says beside it.

    A client cannot sign with another key's name: what it says stands in front of the id.
    """
    return f"{said} via {call.principal.id}" if said else call.principal.id
