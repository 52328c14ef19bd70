"""The command line against a server (PERDURE_URL): what is found there instead of here."""

from collections.abc import Sequence
from pathlib import Path

from perdure.app import Runtime
from perdure.cli.agents import limited
from perdure.cli.places import Ref
from perdure.cli.wire import Order
from perdure.config import Project, load_project
from perdure.core.errors import NotFound
from perdure.doors.native.bodies import Create
from perdure.engine.session import Session
from perdure.ports.store import SessionRow
from perdure.remote.engine import RemoteEngine, here_only
from perdure.remote.session import RemoteSession


def only_here(what: str) -> None:
    """Refuse, where a server is used, what has a meaning on this machine only.

    Raises `InvalidRequest` (E-REMOTE-HERE).
    """
    if load_project(Path.cwd()).remote:
        raise here_only(what)


async def engine_of(runtime: Runtime) -> RemoteEngine:
    """Return the engine of a runtime that uses a server."""
    engine = await runtime.engine()
    assert isinstance(engine, RemoteEngine), "this runtime uses no server"
    return engine


def ref_there(session: str, agent: str) -> Ref:
    """Return how a session's agent is found: by its name, on the server."""
    return Ref(session, agent, str(Path.cwd()))


def known_there(rows: Sequence[SessionRow], name: str) -> SessionRow | None:
    """Return the row of the session with exactly that name."""
    return next((row for row in rows if name and row.id == name), None)


async def session_there(runtime: Runtime, order: Order) -> Session:
    """Return the session that an order is about, made if it may be. Raises `NotFound`."""
    engine = await engine_of(runtime)
    there = await engine.kit.store.session(order.session)
    if there is None and not order.create:
        raise NotFound("E-SESSION-UNKNOWN", f"There is no session {order.session}.", "perdure ls")
    pinned = there is not None and not order.adopt
    if pinned and order.agent not in (await engine.info()).agents:
        # What another API made has no name that could be asked for: it stays what it is.
        return await engine.session(order.session)
    limits = None
    if order.limits and there is None:
        limits = limited((await engine.definition(order.agent)).limits, order.limits)
    return await engine.open(
        Create(order.agent, order.session, order.model, limits, adopt=order.adopt)
    )


async def listen(session: Session, after: int) -> None:
    """Begin to listen to a server's session before it is told anything."""
    if isinstance(session, RemoteSession):
        await session.tune(after)


def check_project(project: Project, *, workspace: str, in_place: bool, unsandboxed: bool) -> None:
    """Refuse what a server would do to this machine. Raises `InvalidRequest` (E-REMOTE-HERE)."""
    if not project.remote:
        return
    for given, what in (
        (workspace, "--workspace"), (in_place, "--in-place"), (unsandboxed, "--unsandboxed")
    ):  # fmt: skip
        if given:
            raise here_only(what)
