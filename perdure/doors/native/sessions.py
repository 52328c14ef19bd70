"""Sessions: the list, one of them, what happens in it, and its relatives."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from starlette.responses import Response

from perdure.core.codec import encode
from perdure.core.errors import InvalidRequest, PerdureError
from perdure.core.events import EnvironmentRestored, EnvironmentSnapshotted, Event
from perdure.doors.http import Call, status_of
from perdure.doors.native.bodies import (
    Create,
    EventPage,
    FileChange,
    FileChanges,
    Opened,
    SessionPage,
    SessionView,
    Transcript,
    row,
)
from perdure.doors.native.making import opened, row_of, session_of
from perdure.doors.native.table import Operation, Query, answer, fields_of
from perdure.doors.sse import frame, stream
from perdure.engine.branching import Preflight
from perdure.engine.compare import Comparison, compare
from perdure.engine.hub import Live
from perdure.engine.kin import Tree
from perdure.engine.session import Session
from perdure.ports.store import SessionRow

_PAGE: Final = 100
AT: Final = Query("at", "the event to look at; 0 or nothing: the last one", number=True)


async def sessions(call: Call) -> Response:
    """List sessions, last updated first."""
    rows = await call.engine.sessions()
    for name in ("status", "agent", "parent"):
        if wanted := call.query.get(name, ""):
            rows = [each for each in rows if getattr(each, name) == wanted]
    rows.sort(key=_place)
    if cursor := call.query.get("cursor", ""):
        behind = _read_cursor(cursor)
        rows = [each for each in rows if _place(each) > behind]
    limit = call.number("limit", 20, least=1, most=_PAGE)
    page = rows[:limit]
    more = f"{page[-1].updated_at_us}.{page[-1].id}" if len(rows) > limit else ""
    return answer(SessionPage([row(each) for each in page], more))


def _place(each: SessionRow) -> tuple[int, str]:
    return -each.updated_at_us, each.id


def _read_cursor(cursor: str) -> tuple[int, str]:
    at_us, dot, name = cursor.partition(".")
    if not (dot and at_us.isascii() and at_us.isdigit() and len(at_us) < 20):
        raise InvalidRequest("E-QUERY", f"cursor={cursor!r} is none of ours.")
    return -int(at_us), name


async def create(call: Call) -> Response:
    """Open a session: make it, unless there is one of that id."""
    session, created = await opened(call, await call.read(Create))
    found = await row_of(call, session.id)
    return answer(Opened(found, created), 201 if created else 200)


async def get(call: Call) -> Response:
    """Show a session: its row and its state, now or at an event."""
    state = await session_of(call).state(at(call))
    return answer(SessionView(await row_of(call, state.id), state))


async def events(call: Call) -> Response:
    """List a session's events, or follow them as server-sent events."""
    session = session_of(call)
    after = call.number("after", 0, most=2**53)
    await row_of(call, session.id)
    if "text/event-stream" in call.header("accept"):
        last = call.header("last-event-id")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else after
        return stream(_happening(session, after), call.services.settings.keepalive_s)
    limit = call.number("limit", _PAGE, least=1, most=1000)
    found = await _first(session, after, limit)
    return answer(EventPage(found, found[-1].seq if found else after))


async def _first(session: Session, after: int, limit: int) -> list[Event]:
    return [event async for event in session.events(after, after + limit)]


async def _happening(session: Session, after: int) -> AsyncIterator[bytes]:
    """Durable events have their seq as id; pieces that are not in the journal have none."""
    try:
        async for item in session.follow(after):
            if isinstance(item, Event):
                yield frame(encode(item).decode(), event=item.type, id=str(item.seq))
            else:
                assert isinstance(item, Live)
                yield frame(encode(item.piece).decode(), event="live")
    except PerdureError as error:
        told = {"error": fields_of(error), "status": status_of(error)}
        yield frame(told, event="error")


async def transcript(call: Call) -> Response:
    """Show what the model reads, now or at an event."""
    session = session_of(call)
    await session.state(at(call))
    return answer(Transcript(await session.context(at(call))))


async def preflight(call: Call) -> Response:
    """Say what going on from an event would take from the journal, and what run again."""
    session = session_of(call)
    moment = at(call) or (await session.state()).seq
    return answer(await session.preflight(moment))


async def tree(call: Call) -> Response:
    """Show a session with its subagents, and what all used together."""
    return answer(await call.engine.tree(call.path["id"]))


async def comparison(call: Call) -> Response:
    """Compare with another session: what both share, and where they differ."""
    other = call.query.get("other", "")
    other_at = call.number("other_at", 0, most=2**53) or None
    await row_of(call, call.path["id"])
    await row_of(call, other)

    files = partial(call.services.changes, call.principal.project)
    store = call.engine.kit.store
    return answer(await compare(store, call.path["id"], other, at(call), other_at, files))


async def changes(call: Call) -> Response:
    """Show what differs between two snapshots of a session; without them, all that it changed."""
    session = session_of(call)
    state = await session.state()
    known = await _snapshots(session)
    if other := call.query.get("other", ""):
        await row_of(call, other)
        known |= await _snapshots(Session(call.engine, other))
    first = call.query.get("first", "") or state.first_snapshot
    last = call.query.get("last", "") or state.snapshot or first
    if not first:
        raise InvalidRequest(
            "E-WORKSPACE-NONE",
            f"{state.id} has touched no workspace, so there is nothing to compare.",
        )
    for snapshot in (first, last):
        if snapshot not in known:
            raise InvalidRequest("E-QUERY", f"{state.id} has no snapshot {snapshot!r}.")
    found = await call.services.changes(call.principal.project, first, last)
    ordered = sorted(found, key=lambda change: change.path)
    return answer(FileChanges([FileChange(c.path, c.kind, c.before, c.after) for c in ordered]))


async def _snapshots(session: Session) -> set[str]:
    known: set[str] = set()
    async for event in session.events():
        match event.payload:
            case EnvironmentSnapshotted(snapshot=name) | EnvironmentRestored(snapshot=name):
                known.add(name)
            case _:
                pass
    return known


def at(call: Call) -> int | None:
    """Return the event that the query names, if it does."""
    return call.number("at", 0, most=2**53) or None


_FILTERS: Final = (
    Query("status", "only sessions of this status"),
    Query("agent", "only those of this agent"),
    Query("parent", "only subagents of this session"),
    Query("limit", "how many, at most", number=True, least=1, most=_PAGE),
    Query("cursor", "what the page before named as next"),
)
_EVENTS: Final = (
    Query("after", "the last event that is known", number=True, most=2**53),
    Query("limit", "how many, at most", number=True, least=1, most=1000),
)
_SNAPSHOTS: Final = (
    Query("first", "a snapshot; default: the first one"),
    Query("last", "a snapshot; default: the last one"),
    Query("other", "another session whose snapshots may be named, too"),
)
_OTHER: Final = (
    Query("other", "the other session", required=True),
    AT,
    Query("other_at", "the event of the other one; 0 or nothing: the last", number=True),
)

OPERATIONS: Final = (
    Operation("GET", "/sessions", sessions, "viewer", "list_sessions", "sessions",
              result=SessionPage, query=_FILTERS),
    Operation("POST", "/sessions", create, "operator", "open_session", "sessions",
              body=Create, result=Opened),
    Operation("GET", "/sessions/{id}", get, "viewer", "get_session", "sessions",
              result=SessionView, query=(AT,)),
    Operation("GET", "/sessions/{id}/events", events, "viewer", "list_events", "sessions",
              result=EventPage, query=_EVENTS, streams=True),
    Operation("GET", "/sessions/{id}/transcript", transcript, "viewer", "get_transcript",
              "sessions", result=Transcript, query=(AT,)),
    Operation("GET", "/sessions/{id}/preflight", preflight, "viewer", "get_preflight", "sessions",
              result=Preflight, query=(AT,)),
    Operation("GET", "/sessions/{id}/tree", tree, "viewer", "get_tree", "sessions", result=Tree),
    Operation("GET", "/sessions/{id}/compare", comparison, "viewer", "compare_sessions",
              "sessions", result=Comparison, query=_OTHER),
    Operation("GET", "/sessions/{id}/changes", changes, "viewer", "get_changes", "sessions",
              result=FileChanges, query=_SNAPSHOTS),
)  # fmt: skip
