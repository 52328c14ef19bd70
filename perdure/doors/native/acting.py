"""What is said to a session, and decided for it. Every journal names the key that said it."""

import asyncio
from collections.abc import Awaitable
from typing import Final, Literal, TypeVar

from msgspec.structs import replace
from starlette.responses import Response

from perdure.core.content import Content, as_content
from perdure.core.errors import InvalidRequest, Unavailable
from perdure.core.events import Event, SessionUpdated
from perdure.core.inbox import Decide, Say
from perdure.doors.http import Call
from perdure.doors.native.bodies import (
    Actions,
    AnswerCall,
    By,
    Change,
    DecideAction,
    Fork,
    Message,
    OpenAction,
    Opened,
    Posted,
    Rewound,
    Row,
    Tell,
)
from perdure.doors.native.making import forked, row_of, session_of
from perdure.doors.native.table import Operation, Query, answer, by_of
from perdure.engine.session import Session

T = TypeVar("T")
BY: Final = Query("by", "who asks, beside the key's own name")
WAIT_S: Final = 30.0


async def soon(work: Awaitable[T]) -> T:
    """Wait until a letter was taken. Raises `Unavailable` (E-NOT-TAKEN): it lies in the inbox."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await work
    except TimeoutError as error:
        raise Unavailable(
            "E-NOT-TAKEN",
            f"It is durably in the inbox, but nobody has taken it within {WAIT_S:g} s.",
            "Look at the session again; asking again in the same words is safe.",
        ) from error


async def update(call: Call) -> Response:
    """Put other limits in force."""
    change = await call.read(Change)
    session = session_of(call)
    wanted = SessionUpdated(by=by_of(call, change.by), limits=change.limits)
    await session.update(wanted)
    return answer(Posted(fresh=True), 202)


async def message(call: Call) -> Response:
    """Give a session something to do."""
    return await _said(call, "message")


async def steer(call: Call) -> Response:
    """Put a word in while a turn runs: the model reads it at its next call."""
    return await _said(call, "steer")


async def _said(call: Call, kind: Literal["message", "steer"]) -> Response:
    body = await call.read(Message)
    content = content_of(body.text, body.content)
    session = session_of(call)
    await row_of(call, session.id)
    fresh = await session.post(Say(kind, content, by_of(call, body.by)), body.key)
    return answer(Posted(fresh), 202)


def content_of(text: str, content: Content) -> Content:
    """Return what is said. Raises `InvalidRequest` (E-BODY) for nothing, and for both forms."""
    if bool(text) == bool(content):
        raise InvalidRequest("E-BODY", "Send a text, or content.")
    return content or as_content(text)


async def interrupt(call: Call) -> Response:
    """End the turn: what runs is killed, what waits is cancelled."""
    return await _command(call, "interrupt")


async def pause(call: Call) -> Response:
    """Let what runs come to its end and start nothing more."""
    return await _command(call, "pause")


async def resume(call: Call) -> Response:
    """Go on: after a pause, after being parked, or with what a failed turn left undone."""
    return await _command(call, "resume")


async def _command(call: Call, kind: Literal["interrupt", "pause", "resume"]) -> Response:
    body = await call.read(By)
    session = session_of(call)
    await row_of(call, session.id)
    return answer(Posted(await session.post(Say(kind, by=by_of(call, body.by)))), 202)


async def compact(call: Call) -> Response:
    """Make what the model reads shorter before its next call; the journal keeps all."""
    body = await call.read(By)
    session = session_of(call)
    await row_of(call, session.id)
    await session.compact(by=by_of(call, body.by))
    return answer(Posted(fresh=True), 202)


async def wake(call: Call) -> Response:
    """See to it that somebody works on a session that was left with work to do."""
    await call.read(By)
    found = await row_of(call, call.path["id"])
    call.engine.wake(found.id)
    return answer(found, 202)


async def close(call: Call) -> Response:
    """Close a session for good; its journal stays."""
    body = await call.read(By)
    return answer(await soon(session_of(call).close(by=by_of(call, body.by))))


async def rewind(call: Call) -> Response:
    """Take a session back to an event, transcript and files together; it is paused then."""
    body = await call.read(Rewound)
    return answer(await soon(session_of(call).rewind(body.to, by=by_of(call, body.by))))


async def fork(call: Call) -> Response:
    """Begin a new session at any moment of this one, paused."""
    made = await forked(call, await call.read(Fork))
    return answer(Opened(await row_of(call, made.id), created=True), 201)


async def signal(call: Call) -> Response:
    """Tell a session of an event that it waits for, or will."""
    body = await call.read(Tell)
    by = by_of(call, body.by)
    fresh = await session_of(call).signal(body.name, body.data, key=body.key, by=by)
    return answer(Posted(fresh), 202)


async def answer_call(call: Call) -> Response:
    """Answer a call that was left to a client."""
    body = await call.read(AnswerCall)
    session = session_of(call)
    by = by_of(call, body.by)
    work = session.answer(call.path["call_id"], body.result, failed=body.failed, by=by)
    return answer(await soon(work))


async def decide(call: Call) -> Response:
    """Decide on an action: allow or deny a call, or say what became of one."""
    body = await call.read(DecideAction)
    return answer(await soon(_decided(session_of(call), call.path["action_id"], body, call)))


async def _decided(session: Session, action: str, body: DecideAction, call: Call) -> Event:
    by = by_of(call, body.by)
    if body.decision == "allow":
        return await session.allow(
            action, by=by, seen=body.seen, arguments=body.arguments, scope=body.scope,
            when=body.when, until_us=body.until_us,
        )  # fmt: skip
    if body.arguments is not None or body.scope != "once" or body.when or body.until_us:
        raise InvalidRequest("E-BODY", "arguments, scope, when and until_us belong to allow.")
    decision = Decide(action, body.decision, by, body.reason, body.seen, result=body.result)
    return await session.decide(decision)


async def revoke(call: Call) -> Response:
    """Take back what was allowed in a session beyond one call."""
    by = by_of(call, call.query.get("by", ""))
    return answer(await soon(session_of(call).revoke(call.path["name"], by=by)))


async def actions(call: Call) -> Response:
    """List what waits for people and clients, over all sessions."""
    kind, only = call.query.get("kind", ""), call.query.get("session", "")
    found: list[OpenAction] = []
    for row in await call.engine.sessions():
        if row.waiting and only in ("", row.id):
            found += await _open(Session(call.engine, row.id), kind)
    return answer(Actions(found))


async def _open(session: Session, kind: str) -> list[OpenAction]:
    state = await session.state()
    calls = state.turn.calls if state.turn else {}
    found: list[OpenAction] = []
    for action in state.actions.values():
        known = calls.get(action.call_id)
        if known is None or kind not in ("", action.kind):
            continue
        tool = state.spec.tool(known.call.tool)
        form = tool.answer_schema if tool is not None and action.kind == "answer" else ""
        opened = OpenAction(
            state.id, state.spec.name, action, known.call.tool, known.call.arguments
        )
        found.append(replace(opened, reason=known.reason, answer_schema=form))
    return found


_ACTIONS: Final = (
    Query("kind", "only approve, resolve, rollback or answer"),
    Query("session", "only those of this session"),
)

OPERATIONS: Final = (
    Operation("PATCH", "/sessions/{id}", update, "operator", "update_session", "sessions",
              body=Change, result=Posted, status=202),
    Operation("POST", "/sessions/{id}/messages", message, "operator", "send_message", "sessions",
              body=Message, result=Posted, status=202),
    Operation("POST", "/sessions/{id}/steer", steer, "operator", "steer_session", "sessions",
              body=Message, result=Posted, status=202),
    Operation("POST", "/sessions/{id}/interrupt", interrupt, "operator", "interrupt_session",
              "sessions", body=By, result=Posted, status=202),
    Operation("POST", "/sessions/{id}/pause", pause, "operator", "pause_session", "sessions",
              body=By, result=Posted, status=202),
    Operation("POST", "/sessions/{id}/resume", resume, "operator", "resume_session", "sessions",
              body=By, result=Posted, status=202),
    Operation("POST", "/sessions/{id}/compact", compact, "operator", "compact_session",
              "sessions", body=By, result=Posted, status=202),
    Operation("POST", "/sessions/{id}/wake", wake, "operator", "wake_session", "sessions",
              body=By, result=Row, status=202),
    Operation("POST", "/sessions/{id}/close", close, "operator", "close_session", "sessions",
              body=By, result=Event),
    Operation("POST", "/sessions/{id}/rewind", rewind, "operator", "rewind_session", "sessions",
              body=Rewound, result=Event),
    Operation("POST", "/sessions/{id}/fork", fork, "operator", "fork_session", "sessions",
              body=Fork, result=Opened, status=201),
    Operation("POST", "/sessions/{id}/signals", signal, "operator", "signal_session", "sessions",
              body=Tell, result=Posted, status=202),
    Operation("POST", "/sessions/{id}/answers/{call_id}", answer_call, "operator", "answer_call",
              "actions", body=AnswerCall, result=Event),
    Operation("POST", "/sessions/{id}/actions/{action_id}", decide, "operator", "decide_action",
              "actions", body=DecideAction, result=Event),
    Operation("DELETE", "/sessions/{id}/grants/{name}", revoke, "operator", "revoke_grant",
              "actions", result=Event, query=(BY,)),
    Operation("GET", "/actions", actions, "viewer", "list_actions", "actions",
              result=Actions, query=_ACTIONS),
)  # fmt: skip
