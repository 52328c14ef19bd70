"""Errors in OpenAI's form: `{"error": {message, type, param, code}}`."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from perdure.core.errors import PerdureError, Unavailable
from perdure.doors import replies
from perdure.doors.http import status_of

_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


class Wording(PerdureError):
    """An error whose words a client program looks at: they are sent exactly as they are."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        param: str = "",
        retry: bool = False,
        kind: str = "",
    ) -> None:
        super().__init__(code or _TYPES.get(status, "server_error"), message, retryable=retry)
        self.status = status
        self.param = param
        self.kind = kind  # "" for what the status stands for


def body_of(error: PerdureError) -> dict[str, Any]:
    """Return the error's JSON."""
    status = error.status if isinstance(error, Wording) else status_of(error)
    message = error.message if not error.hint else f"{error.message} ({error.hint})"
    param = error.param if isinstance(error, Wording) else ""
    kind = error.kind if isinstance(error, Wording) else ""
    kind = kind or _TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param or None, "code": error.code}}


def problem(error: PerdureError, request_id: str) -> Response:
    """Return the response that tells a client what went wrong."""
    status = error.status if isinstance(error, Wording) else status_of(error)
    headers = {"x-request-id": request_id}
    if status == 409:
        # The SDKs take a conflict for something that passes; most of ours do not.
        headers["x-should-retry"] = "true" if error.retryable else "false"
    if isinstance(error, Unavailable) and error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return replies.Json(body_of(error), status, headers)
