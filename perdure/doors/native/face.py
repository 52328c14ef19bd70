"""All endpoints of the native protocol, and the pages that describe them."""

from typing import Final

from starlette.routing import BaseRoute, Route

from perdure.doors.http import Face
from perdure.doors.native import acting, looking, mending, nodes, planning, raw, sessions
from perdure.doors.native.manual import Manual
from perdure.doors.native.table import Operation, problem

PREFIX: Final = "/api"

OPERATIONS: Final[tuple[Operation, ...]] = (
    *sessions.OPERATIONS,
    *acting.OPERATIONS,
    *planning.OPERATIONS,
    *mending.OPERATIONS,
    *looking.OPERATIONS,
    *nodes.OPERATIONS,
    *raw.OPERATIONS,
)


def native_face() -> Face:
    """Return the face."""
    return Face("native", PREFIX, OPERATIONS, problem)


def manual_routes(version: str) -> list[BaseRoute]:
    """Return the routes of the description, which need no key: there is nothing secret in them."""
    manual = Manual(OPERATIONS, PREFIX, version)
    return [
        Route(f"{PREFIX}/openapi.json", manual.openapi),
        Route(f"{PREFIX}/docs", manual.page),
    ]
