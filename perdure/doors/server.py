"""All faces as one ASGI application."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from perdure.doors.http import Doorway, Face
from perdure.doors.principals import Identify
from perdure.doors.services import Services

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
    made = Starlette(routes=[*routes, *extra, *probes], middleware=list(middleware))
    made.router.redirect_slashes = False  # a redirect would go where the Host header says
    return made
