"""Answering a call that was left to a client, from any process, and knowing who was first.

The letter's key names the call and the future it is asked in, so that however often an answer is
sent it is taken once, and a fork's question is another one than its origin's.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from perdure.core import events as e
from perdure.core.codec import decode, encode
from perdure.core.content import ToolCall
from perdure.core.errors import Conflict, InvalidRequest, NotFound
from perdure.core.events import Event
from perdure.core.forms import problems
from perdure.core.inbox import Answer, Close, Post
from perdure.core.state import State
from perdure.core.timeline import effective
from perdure.engine.hub import Live


class Held(Protocol):
    """What is needed of a session; see `engine.session`."""

    id: str

    async def state(self, at: int | None = None) -> State: ...

    def events(self, after: int = 0) -> AsyncIterator[Event]: ...

    def follow(self, after: int = 0) -> AsyncIterator[Event | Live]: ...

    async def post(self, post: Post, key: str = "") -> bool: ...


class Past(msgspec.Struct, frozen=True):
    """What a journal knows about a call. `put` says that it was put to the clients."""

    call: ToolCall | None = None
    put: bool = False
    answered: Event | None = None
    over: Event | None = None


def ensure_open(state: State) -> None:
    """Raise `Conflict` (E-SESSION-CLOSED) for a session that is closed."""
    if state.closed:
        raise Conflict(
            "E-SESSION-CLOSED",
            f"{state.id} is closed; its journal stays readable.",
            f"perdure fork {state.id}    goes on from where it was",
        )


async def answer(
    session: Held, call_id: str, result: object, *, failed: bool = False, by: str = ""
) -> Event:
    """Post an answer and return the event that takes it; see `Session.answer`."""
    letter = Answer(call_id, _text(result, failed=failed), failed, by)
    while not (state := await _open_state(session)).awaits_answer(call_id):
        past = await past_of(session, call_id)
        if past.answered is not None or past.over is not None or not past.put:
            return await _not_open(session, state, letter, past)
    if not failed:
        _check(state, call_id, result)
    await post_answer(session, state, letter)
    async for item in session.follow(state.seq):
        if isinstance(item, Event) and _settles(item, state, call_id):
            return _judged(session.id, await past_of(session, call_id), letter)
    raise AssertionError("a follower ends only by an error")


async def post_answer(session: Held, state: State, letter: Answer) -> None:
    """Post an answer that was checked already. Where another one was posted, that one counts."""
    await _post(session, letter, _key(state, letter.call_id))


async def _open_state(session: Held) -> State:
    state = await session.state()
    ensure_open(state)
    return state


def _key(state: State, call_id: str) -> str:
    return f"answer:{state.generation}:{call_id}"


async def past_of(session: Held, call_id: str) -> Past:
    """Return what the journal, as far as it still counts, knows about a call."""
    past = Past()
    action = ""
    for event in effective([event async for event in session.events()]):
        match event.payload:
            case e.ModelResponded(status="ok", items=items):
                for item in items:
                    if isinstance(item, ToolCall) and item.id == call_id:
                        past, action = Past(item), ""
            case e.ActionRequested(kind="answer", call_id=name, action_id=asked) if name == call_id:
                past, action = msgspec.structs.replace(past, put=True), asked
            case e.ActionResolved(action_id=asked) if asked == action:
                past = msgspec.structs.replace(past, answered=event)
            case e.ToolFinished(call_id=name) if name == call_id:
                past = msgspec.structs.replace(past, over=event)
            case _:
                pass
    return past


async def close(session: Held, by: str) -> Event:
    """Close a session; return the event that says so. See `Session.close`."""
    state = await session.state()
    if not state.closed:
        await _post(session, Close(by), f"close:{state.generation}")
        async for item in session.follow(state.seq):
            if isinstance(item, Event) and isinstance(item.payload, e.SessionClosed):
                return item
    seq = await last_open(session, state)
    async for event in session.events(seq):
        return event
    raise AssertionError("what closed the session is in its journal")


async def last_open(session: Held, state: State) -> int:
    """Return the last event at which the session was not closed yet."""
    seq = state.seq
    while state.closed:
        seq -= 1
        state = await session.state(seq)
    return seq


async def _post(session: Held, letter: Answer | Close, key: str) -> None:
    """Post a letter, unless there is one under its key: then that one counts."""
    try:
        await session.post(letter, key)
    except Conflict as error:
        if error.code != "E-KEY-REUSED":
            raise


def _text(result: object, *, failed: bool) -> str:
    """Return what the model reads of a result: a text as it is, all else as JSON."""
    if failed and not isinstance(result, str):
        raise _unfit("why there is no result must be a text")
    try:
        text = encode(result).decode()
        return result if isinstance(result, str) else text
    except (TypeError, ValueError, RecursionError) as error:
        raise _unfit(f"it has no JSON form: {error}") from error


def _check(state: State, call_id: str, result: object) -> None:
    """Refuse what does not fit the tool's form: nothing has been posted yet."""
    assert state.turn is not None
    tool = state.spec.tool(state.turn.calls[call_id].call.tool)
    plain = result if isinstance(result, str) else decode(encode(result), object)
    wrong = problems(tool.answer_schema if tool else "", plain)
    if wrong:
        raise _unfit("; ".join(wrong))


def _unfit(wrong: str) -> InvalidRequest:
    return InvalidRequest(
        "E-ANSWER-FORM",
        f"The answer was not posted, the question stays open: {wrong}.",
        "perdure answer ID    shows what is asked for",
    )


async def _not_open(session: Held, state: State, letter: Answer, past: Past) -> Event:
    """Say of a call that waits for no answer why that is; file what comes too late."""
    call_id = letter.call_id
    if past.put and past.answered is None and past.over is not None:
        await post_answer(session, state, letter)
        async for item in session.follow(past.over.seq):
            if isinstance(item, Event) and _tells_of(item, call_id):
                break  # that note is what the journal keeps of it
    if past.put:
        return _judged(session.id, past, letter)
    tool = state.spec.tool(past.call.tool) if past.call else None
    if past.over is None and tool is not None and tool.client:
        raise Conflict(
            "E-ANSWER-EARLY",
            f"{call_id} has not been put to anybody yet: it may wait for an approval. "
            "Nothing was posted.",
            f"perdure show {session.id}",
        )
    names = [a.call_id for a in state.actions.values() if a.kind == "answer"]
    raise NotFound(
        "E-CALL-UNKNOWN",
        f"{session.id} has asked no client for {call_id}. Open: {', '.join(names) or 'none'}.",
        f"perdure answer {session.id}",
    )


def _settles(event: Event, state: State, call_id: str) -> bool:
    """Whether an event ends the wait for an answer, one way or the other."""
    match event.payload:
        case e.ActionResolved(action_id=name):
            return name in state.actions and state.actions[name].call_id == call_id
        case e.SessionClosed():
            return True
        case _:
            return _tells_of(event, call_id)


def _tells_of(event: Event, call_id: str) -> bool:
    p = event.payload
    return isinstance(p, e.NoteRecorded) and p.text.startswith(f"An answer to {call_id} by ")


def _judged(session: str, past: Past, letter: Answer) -> Event:
    """Return the event that took this answer, or raise who answered otherwise, and when."""
    if past.answered is None:
        raise Conflict(
            "E-ANSWER-LATE",
            f"{letter.call_id} is not waited for any more: its turn has ended. The answer was "
            "filed as a note and nothing else was done with it.",
            f"perdure show {session}",
        )
    taken = past.answered.payload
    assert isinstance(taken, e.ActionResolved)
    if (taken.decision, _said(taken)) == ("failed" if letter.failed else "done", letter.text):
        return past.answered
    when = datetime.fromtimestamp(past.answered.at_us / 1_000_000, UTC)
    raise Conflict(
        "E-ANSWER-TWICE",
        f"{letter.call_id} was answered otherwise by {taken.by or 'somebody'} at {when:%F %T} UTC "
        f"(event {past.answered.seq}). The first answer counts; this one was not taken.",
        f"perdure show {session}:{past.answered.seq}",
    )


def _said(taken: e.ActionResolved) -> str:
    return (taken.reason if taken.decision == "failed" else taken.result) or ""
