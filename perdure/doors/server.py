"""All faces as one ASGI application."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from perdure.core.errors import NotFound, PerdureError
from perdure.doors.http import Doorway, Face, Problem, WrongMethod
from perdure.doors.native.table import problem
from perdure.doors.principals import Identify
from perdure.doors.services import Services
from perdure.doors.watching import ERROR

_SHOWN: Final = 100  # characters of a path, in an answer

Ready = Callable[[], Awaitable[tuple[bool, str]]]


def application(
    services: Services,
    faces: Sequence[Face],
    identify: Identify,
    ready: Ready,
    *,
    extra: Sequence[BaseRoute] = (),
    middleware: Sequence[Middleware] = (),
) -> Starlette:
    """Return the application. `ready` says whether work can be taken on, and if not why."""
    doorway = Doorway(services, identify)
    routes: list[BaseRoute] = [route for face in faces for route in doorway.routes(face)]

    async def healthz(request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """The process can take work."""
        able, why = await ready()
        return JSONResponse({"ready": able, "why": why}, 200 if able else 503)

    probes: list[BaseRoute] = [Route("/healthz", healthz), Route("/readyz", readyz)]
    lost = _lost(services, faces)
    made = Starlette(
        routes=[*routes, *extra, *probes],
        middleware=list(middleware),
        exception_handlers={404: lost, 405: lost},
    )
    made.router.redirect_slashes = False  # a redirect would go where the Host header says
    return made


def _lost(
    services: Services, faces: Sequence[Face]
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return the handler of what no route answers: in a face's own form below its prefix."""

    async def handle(request: Request, raised: Exception) -> Response:
        assert isinstance(raised, HTTPException)
        path = request.scope["path"]
        below = [face for face in faces if f"{path}/".startswith(f"{face.prefix}/")]
        worded: Problem = below[0].problem if below else problem
        allowed = (raised.headers or {}).get("Allow", "")
        error = _no_route(request.method, path, allowed)
        request.scope[ERROR] = error.code
        response = worded(error, services.request_id())
        if allowed:
            response.headers["allow"] = allowed
        return response

    return handle


def _no_route(method: str, path: str, allowed: str) -> PerdureError:
    shown = "".join(each if each.isprintable() else "?" for each in path[:_SHOWN])
    if allowed:
        said = f"{shown} does not take {method[:_SHOWN]}; nothing was done."
        return WrongMethod("E-ROUTE", said, f"It takes {allowed}.")
    said = f"There is no {method[:_SHOWN]} {shown} here; nothing was done."
    return NotFound("E-ROUTE", said, "GET /api/docs lists the paths of the native API.")
