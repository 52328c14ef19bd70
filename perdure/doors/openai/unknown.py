"""What this server does not have: said in the protocol's own words, whatever the path."""

from starlette.responses import Response

from perdure.doors.http import Call, Endpoint
from perdure.doors.openai.problems import Wording


async def unknown(call: Call) -> Response:
    """Refuse a path that nothing else answers."""
    asked = f"{call.request.method} {call.request.scope['path']}"
    said = f"Unknown request URL: {asked}. This server does not have it; docs/openai.md lists all."
    raise Wording(404, said, code="unknown_url", kind="invalid_request_error")


ENDPOINTS = tuple(
    Endpoint(method, "/{rest:path}", unknown, "viewer", f"unknown.{method.lower()}")
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
)
