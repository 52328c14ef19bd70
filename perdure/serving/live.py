"""What happens now in a session that this node works on, for another node whose clients follow it.

Durable events are read from the store by everybody; only pieces that are in no journal are sent
from node to node. Each says behind which event it happened, so that the reader keeps the order.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from perdure.core.codec import encode
from perdure.core.errors import NotFound, PerdureError
from perdure.core.events import Event
from perdure.doors.http import token_of
from perdure.doors.native.table import problem
from perdure.doors.principals import Unauthenticated
from perdure.doors.services import Services
from perdure.doors.sse import frame, stream
from perdure.doors.watching import ERROR
from perdure.engine.hub import Live, Progress
from perdure.engine.runtime import Engine
from perdure.ports.model import CallDelta, ReasoningDelta, TextDelta
from perdure.serving.secret import ClusterSecret

PREFIX: Final = "/api/nodes/live"
KEEPALIVE_S: Final = 5.0  # whoever listens takes us for dead after some of these
_LOOK_S: Final = 1.0
OVER: Final = "over"  # the event that says that this node works on the session no more

Piece = TextDelta | ReasoningDelta | CallDelta | Progress


class Told(msgspec.Struct, frozen=True):
    """A piece on its way, and the event behind which it happened."""

    after: int
    piece: Piece


def path_of(project: str, session: str) -> str:
    """Return the path of a session's pieces."""
    return f"{PREFIX}/{project}/{quote(session, safe='', errors='replace')}"


class LiveDoor:
    """The door for the other nodes of the store. Clients have no key for it."""

    def __init__(self, services: Services, secret: ClusterSecret) -> None:
        self._services = services
        self._secret = secret

    def routes(self) -> list[BaseRoute]:
        """Return its route."""
        return [Route(PREFIX + "/{project}/{session:path}", self._answer)]

    async def _answer(self, request: Request) -> Response:
        project, session = request.path_params["project"], request.path_params["session"]
        try:
            if not await self._secret.opens(token_of(request.headers), path_of(project, session)):
                raise Unauthenticated("E-NODE-SECRET", "This is for the nodes of this store alone.")
            engine = self._services.projects.open_ones.get(project)
            if engine is None or not engine.drives(session):
                raise NotFound("E-NODE-ELSEWHERE", "This node does not work on that session.")
        except PerdureError as error:
            request.scope[ERROR] = error.code
            return problem(error, self._services.request_id())
        return stream(_pieces(engine, session), KEEPALIVE_S)


async def _pieces(engine: Engine, session: str) -> AsyncGenerator[bytes, None]:
    """Yield what happens for as long as this node works on the session."""
    with engine.hub.follow(session) as follower:
        row = await engine.kit.store.session(session)
        after = row.seq if row is not None else 0
        try:
            while engine.drives(session):
                try:
                    async with asyncio.timeout(_LOOK_S):
                        item = await follower.next()
                except TimeoutError:
                    continue  # whether it is still ours
                if isinstance(item, Event):
                    after = item.seq
                elif isinstance(item, Live) and item.after is None:
                    yield frame(encode(Told(after, item.piece)).decode(), event="live")
                elif item is None and follower.state is not None:
                    after = max(after, follower.state.seq)  # it lost count: we were too slow
        except PerdureError:
            pass  # the session's driver died of it; who goes on is asked of the store
    yield frame("{}", event=OVER)
