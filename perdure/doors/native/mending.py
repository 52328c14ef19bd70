"""Errors over all sessions, moving on what waits, and journals that come and go."""

from collections.abc import AsyncIterator
from typing import Final

from starlette.responses import Response, StreamingResponse

from perdure.core.codec import encode
from perdure.core.errors import NotFound, PerdureError
from perdure.doors.http import Call
from perdure.doors.native.bodies import (
    Cause,
    Causes,
    Failure,
    Opened,
    Problem,
    Redrive,
    RedriveLine,
    RedrivePlan,
    Replayed,
)
from perdure.doors.native.making import admitted, row_of, session_of
from perdure.doors.native.sessions import AT, at
from perdure.doors.native.table import LINES, Operation, Query, answer, by_of
from perdure.engine.export import export_session
from perdure.engine.redrive import (
    grouped,
    occurrences,
    plan_redrive,
    redrive,
    whole_error,
)
from perdure.engine.replay import replay as play


async def errors(call: Call) -> Response:
    """List what went wrong, by cause: first where sessions wait."""
    return answer(Causes(await grouped(call.engine.kit.store)))


async def error(call: Call) -> Response:
    """Show one cause: where it occurred, and its last occurrence in full."""
    store, name = call.engine.kit.store, call.path["fingerprint"]
    group = next((each for each in await grouped(store) if each.fingerprint == name), None)
    if group is None:
        raise NotFound("E-ERROR-UNKNOWN", f"No session has met an error {name}.", "GET /errors")
    found = await occurrences(store, name)
    whole = await whole_error(store, found[0].row) if found else None
    return answer(Cause(group, found, whole))


async def redrive_plan(call: Call) -> Response:
    """Say what moving on each session that waits for a cause would run again."""
    found = await plan_redrive(call.engine.kit.store, call.path["fingerprint"])
    return answer(RedrivePlan(found))


async def redrive_all(call: Call) -> Response:
    """Move on what waits for a cause, a line for each session as it is done."""
    body = await call.read(Redrive)
    await occurrences(call.engine.kit.store, call.path["fingerprint"])
    lines = _redriven(call, body, call.path["fingerprint"])
    first = await anext(lines, b"")  # what is refused is refused before the first line
    return StreamingResponse(_after(first, lines), media_type=LINES)


async def _redriven(call: Call, body: Redrive, name: str) -> AsyncIterator[bytes]:
    if body.dry_run:
        for plan in await plan_redrive(call.engine.kit.store, name):
            if body.only is None or plan.session in body.only:
                yield encode(RedriveLine(plan, "planned")) + b"\n"
        return
    by = by_of(call, body.by)
    done = redrive(call.engine, name, rate_per_s=body.rate_per_s, only=body.only, by=by)
    async for each in done:
        yield encode(RedriveLine(each.plan, each.outcome, each.why)) + b"\n"


async def _after(first: bytes, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield lines; what goes wrong on the way is the last of them."""
    yield first
    try:
        async for line in lines:
            yield line
    except PerdureError as error:
        said = Problem(error.code, error.message, error.hint, error.retryable)
        yield encode(Failure(said)) + b"\n"


async def export(call: Call) -> Response:
    """Send a session's journal, a line an event, as it is stored."""
    row = await row_of(call, call.path["id"])
    lines = export_session(call.engine.kit.store, row.id)
    return StreamingResponse(_after(await anext(lines), lines), media_type=LINES)


async def bring(call: Call) -> Response:
    """Store the journal of an exported session, its chain of hashes checked. One that brings a
    definition that is not the server's, or a directory, is for admins.
    """
    lines = (await call.body()).splitlines()
    await admitted(call, lines)
    name = await call.engine.bring(lines, call.query.get("name", ""), by=by_of(call))
    return answer(Opened(await row_of(call, name), created=True), 201)


async def replay(call: Call) -> Response:
    """Go through a session again: free, nothing is called and nothing is written."""
    session = session_of(call)
    state = await session.state(at(call))
    report = await play([event async for event in session.events(until=state.seq)])
    found = Replayed(report.session, report.events, report.identical)
    if report.divergence is not None:
        where = report.divergence
        found = Replayed(report.session, report.events, False, where.seq, where.text)
    return answer(found)


OPERATIONS: Final = (
    Operation("GET", "/errors", errors, "viewer", "list_errors", "errors", result=Causes),
    Operation("GET", "/errors/{fingerprint}", error, "viewer", "get_error", "errors",
              result=Cause),
    Operation("GET", "/errors/{fingerprint}/plan", redrive_plan, "viewer", "plan_redrive",
              "errors", result=RedrivePlan),
    Operation("POST", "/errors/{fingerprint}/redrive", redrive_all, "operator", "redrive",
              "errors", body=Redrive, result=RedriveLine, media=LINES),
    Operation("GET", "/sessions/{id}/export", export, "viewer", "export_session", "journals",
              media=LINES),
    Operation("POST", "/import", bring, "operator", "import_session", "journals",
              result=Opened, status=201, accepts=LINES,
              query=(Query("name", "the session's id here; default: its own"),)),
    Operation("GET", "/sessions/{id}/replay", replay, "viewer", "replay_session", "journals",
              result=Replayed, query=(AT,)),
)  # fmt: skip
