"""What is sent into a session, and the stream of what comes of it."""

import asyncio
import contextlib
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import Response

from perdure.core import events as e
from perdure.core.errors import Conflict
from perdure.core.events import Decision, Payload
from perdure.core.inbox import Answer, Decide, Post, Say
from perdure.core.state import Phase, State
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import inputs
from perdure.doors.openai.agents import definitions
from perdure.doors.openai.agents.reading import Reader
from perdure.doors.openai.agents.sessions import session_of, streamed
from perdure.doors.openai.following import followed
from perdure.doors.openai.problems import Wording
from perdure.doors.repeats import Repeat
from perdure.engine.answers import past_of
from perdure.engine.journal import follow
from perdure.engine.session import Session

Json = dict[str, Any]
Letters = list[tuple[Post, str]]

_INPUT: Final = "agent.session.input."
_PATIENCE_S: Final = 5.0  # for a call that was shown and is just being put to the client


async def create(call: Call) -> Response:
    """POST …/events: all of them are read before the first is posted. 202 means durable."""
    record = await session_of(call)
    events = (await call.json()).get("events")
    if not isinstance(events, list) or not all(isinstance(each, dict) for each in events):
        raise Wording(400, "events is a list of input events.", param="events")
    repeat = Repeat(call, f"events\0{record.id}", events)
    async with repeat.alone():
        await repeat.before()
        letters = await _letters(call, record.id, events)
        await repeat.makes(record.id)
        for post, key in letters:
            await _post(Session(call.engine, record.id), post, key)
    return Response(status_code=202)


async def _letters(call: Call, name: str, events: list[Json]) -> Letters:
    session = Session(call.engine, name)
    letters: Letters = []
    for number, event in enumerate(events):
        key = call.header("idempotency-key")
        name = f"openai:{key}:{number}" if key else ""
        letters += await _Incoming(call, session, f"events[{number}]", name).letters(event)
    return letters


async def stream(call: Call) -> Response:
    """GET …/events: from now on, or behind the event that a reader names as its last."""
    record, reader = await session_of(call), Reader(call.engine)
    last = call.header("last-event-id") or call.query.get("last_event_id", "")
    place = await reader.place(record, last)  # before the reply begins: nothing after it is missed
    return streamed(call, reader.stream(record, place))


async def _post(session: Session, post: Post, key: str) -> None:
    try:
        await session.post(post, key)
    except Conflict as error:
        if not isinstance(post, Answer):
            raise
        raise _unknown(post.call_id) from error  # another answer was posted, and that one counts


class _Incoming:
    """One input event on its way to letters."""

    def __init__(self, call: Call, session: Session, where: str, key: str) -> None:
        self._call = call
        self._session = session
        self._where = where
        self._key = key
        self._by = call.principal.id

    async def letters(self, event: Mapping[str, Any]) -> Letters:
        """Return what an event comes to. Raises `Wording` (400)."""
        match str(event.get("type") or "").removeprefix(_INPUT):
            case "message":
                words = definitions.words(event.get("input") or [], f"{self._where}.input")
                # A steer begins a turn where none is open: whichever it was, a retry is the same.
                return [(Say("steer", words, self._by), self._key)]
            case "cancel":
                state = await self._session.state()
                if state.turn is None and state.parked is not None:
                    return []  # what has failed has nothing to cancel, and stays as it is
                return [(Say("interrupt", by=self._by), self._key)]
            case "tool_result":
                return await self._result(event)
            case "mcp_approval_request_result":
                return await self._decision(event)
            case _:
                said = f"Events of type {event.get('type')!r} are not taken here."
                raise Wording(400, said, param=f"{self._where}.type")

    async def _result(self, event: Mapping[str, Any]) -> Letters:
        call_id, done = str(event.get("call_id") or ""), event.get("success")
        if not isinstance(done, bool):
            raise Wording(400, "success is true or false.", param=f"{self._where}.success")
        text = inputs.text_of(event.get("output"), f"{self._where}.output") if done else ""
        failed = str(event.get("error") or "The call failed.")
        answer = Answer(call_id, text if done else failed, not done, self._by)
        state = await self._asked(call_id)
        if not state.awaits_answer(call_id):
            past = await past_of(self._session, call_id)
            if past.answered is None or not _same(past.answered.payload, answer):
                raise _unknown(call_id)
            return []  # it was sent before, and taken
        # Whatever key the client gave: a call is answered once.
        return [(answer, f"answer:{state.generation}:{call_id}")]

    async def _asked(self, call_id: str) -> State:
        """Return the state, once a call that the model has made is put to the client."""
        state, engine = await self._session.state(), self._call.engine
        if not _is_coming(state, call_id):
            return state
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(_PATIENCE_S),
                aclosing(followed(engine, self._session.id, state.seq)) as events,
            ):
                async for event in events:
                    state = await follow(engine.kit.store, self._session.id, state, event)
                    if not _is_coming(state, call_id):
                        break
        return state

    async def _decision(self, event: Mapping[str, Any]) -> Letters:
        response = event.get("response")
        decision = response.get("decision") if isinstance(response, dict) else None
        if decision not in ("approve", "deny", "cancel"):
            where = f"{self._where}.response.decision"
            raise Wording(400, "decision is approve, deny or cancel.", param=where)
        request = str(event.get("request_id") or "")
        action = (await self._session.state()).actions.get(request)
        yes: Decision = "allow"
        no: Decision = "deny"
        if action is not None and action.kind != "approve":
            yes, no = "rerun", "failed"  # the call has left, and nobody knows what it did
        why = "The request was dismissed." if decision == "cancel" else ""
        chosen = yes if decision == "approve" else no
        # One that comes too late is filed as a note in the journal.
        return [(Decide(request, chosen, self._by, why), self._key)]


def _is_coming(state: State, call_id: str) -> bool:
    """Whether a call was made by the model and has not been put to the client yet."""
    call = state.turn.calls.get(call_id) if state.turn else None
    return call is not None and call.phase in (Phase.PROPOSED, Phase.READY)


def _same(taken: Payload, answer: Answer) -> bool:
    if not isinstance(taken, e.ActionResolved):
        return False
    if answer.failed:
        return taken.decision == "failed" and taken.reason == answer.text
    return taken.decision == "done" and (taken.result or "") == answer.text


def _unknown(call_id: str) -> Wording:
    """Return the error in the words that clients look for."""
    return Wording(400, f"Unknown pending tool call: {call_id}")


ENDPOINTS = (
    Endpoint("POST", "/agents/sessions/{session_id}/events", create, "operator", "events.create"),
    Endpoint("GET", "/agents/sessions/{session_id}/events", stream, "viewer", "events.stream"),
)
