"""Deciding on an action. One decision wins; everybody else learns whose it was, and the journal
keeps that they tried.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from perdure.core import events as e
from perdure.core.codec import arguments_of, decode
from perdure.core.errors import Conflict, InvalidRequest, NotFound, PerdureError
from perdure.core.events import Event
from perdure.core.forms import UNCHECKED, flaw, problems
from perdure.core.inbox import Decide, Revoke
from perdure.core.policy import approval_digest
from perdure.core.state import ActionState, Decided, State
from perdure.core.timeline import as_imported
from perdure.engine import grants
from perdure.engine.answers import Held, ensure_open
from perdure.engine.grants import Scope, shown_time
from perdure.engine.kit import Kit

_DID: Final = {
    "allow": "allowed it",
    "deny": "denied it",
    "done": "said that it was done",
    "failed": "said that it failed",
    "rerun": "let it run again",
    "withdrawn": "withdrew it",
}


class Beyond(NamedTuple):
    """What is to be allowed beyond the one call: see `grants.made`."""

    scope: Scope = "once"
    when: str = ""
    until_us: int | None = None


async def allow(
    session: Held, kit: Kit, action_id: str, beyond: Beyond, *, by: str, seen: str,
    arguments: str | None,
) -> Event:  # fmt: skip
    """Allow a call, and what is beyond it; see `Session.allow`."""
    state = await session.state()
    grant = grants.made(
        state, action_id, scope=beyond.scope, by=by, when=beyond.when,
        until_us=beyond.until_us, now_us=kit.clock.now_us(),
    )  # fmt: skip
    digest = _digest(state, action_id, arguments) if arguments is not None else ""
    decision = Decide(
        action_id, "allow", by, "", seen, arguments, arguments_digest=digest, grant=grant
    )
    if grant is None or grant.scope != "rule" or action_id not in state.actions:
        return await decide(session, decision)
    await grants.propose(kit.store, grant, session.id, action_id)
    try:
        return await decide(session, decision)
    finally:
        with suppress(PerdureError):  # it is looked at again when the rules are next asked for
            await grants.settle(kit.store, grant.name)


def _digest(state: State, action_id: str, arguments: str) -> str:
    action = state.actions.get(action_id)
    call = state.turn.calls.get(action.call_id) if state.turn and action else None
    spec = state.spec.tool(call.call.tool) if call else None
    return approval_digest(spec, arguments) if spec else ""


async def decide(session: Held, decision: Decide) -> Event:
    """Post a decision; return the `action.resolved` that it became. See `Session.decide`."""
    state = await session.state()
    _check(session, state, decision)
    await session.post(decision)
    async for item in session.follow(state.seq):
        match item:
            case Event(payload=e.ActionResolved() as p) if _is_mine(p, decision):
                return item
            case Event(payload=e.NoteRecorded(text=text)) if text.startswith(_note(decision)):
                raise await _refused(session, decision, text.removeprefix(_note(decision)))
            case _:
                pass
    raise AssertionError("a follower ends only by an error")


def _check(session: Held, state: State, decision: Decide) -> None:
    """Raise what is certain before anything is posted."""
    action = state.actions.get(decision.action_id)
    if action is None and not _ever_was(state, decision.action_id):
        ensure_open(state)
        known = ", ".join(state.actions) or "none"
        raise InvalidRequest(
            "E-ACTION-UNKNOWN",
            f"{session.id} has no action {decision.action_id}. Open: {known}.",
            f"perdure show {session.id}",
        )
    if action is not None and action.kind == "answer":
        raise InvalidRequest(
            "E-ACTION-ANSWER",
            f"{decision.action_id} is no decision: a client is to answer {action.call_id}.",
            f"perdure answer {session.id}:{action.call_id}",
        )
    if action is not None and decision.arguments is not None:
        check_edit(session.id, state, action, decision.arguments)


def check_edit(session: str, state: State, action: ActionState, arguments: str) -> None:
    """Raise `InvalidRequest` (E-TOOL-ARGUMENTS) for arguments that the tool would not take."""
    call = state.turn.calls.get(action.call_id) if state.turn else None
    wrong = misfits(takes(state, call.call.tool), arguments_of(arguments)) if call else []
    if wrong and call:
        raise InvalidRequest(
            "E-TOOL-ARGUMENTS",
            f"{call.call.tool} does not take these arguments: {'; '.join(wrong)}. Nothing was "
            "decided.",
            f"perdure show {session}",
        )


def takes(state: State, tool: str) -> str:
    """Return the JSON Schema of what a tool takes; empty where nobody knows but the tool itself."""
    spec = state.spec.tool(tool)
    if spec is None or flaw(decode(bytes(spec.input_schema), object)):
        return ""
    return bytes(spec.input_schema).decode()


def misfits(schema: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the arguments of a call, as far as its schema can be checked."""
    wrong = problems(schema, dict(arguments))
    return [] if wrong and wrong[0].startswith(UNCHECKED) else wrong


def _ever_was(state: State, action_id: str) -> bool:
    """Whether the session has put such a question: their numbers only grow."""
    number = action_id.removeprefix("a")
    return action_id != number and number.isdecimal() and 0 < int(number) < state.next_action


def _is_mine(p: e.ActionResolved, mine: Decide) -> bool:
    grant = mine.grant if mine.decision == "allow" else None
    return (p.action_id, p.decision, p.by, p.reason, p.arguments, p.result, p.grant) == (
        mine.action_id, mine.decision, mine.by, mine.reason, mine.arguments, mine.result, grant
    )  # fmt: skip


def _note(decision: Decide) -> str:
    """Return how the note begins that refuses this decision; see `core.inbox`."""
    return f"{decision.decision} of {decision.action_id} by {decision.by!r} refused: "


async def _refused(session: Held, decision: Decide, why: str) -> PerdureError:
    """Return the error that tells somebody why their decision was not taken."""
    state = await session.state()
    name, hint = f"{decision.action_id} of {session.id}", f"perdure show {session.id}"
    if decision.action_id in state.actions:
        hint = f"perdure approve {session.id}:{decision.action_id}"
        return Conflict("E-ACTION-REFUSED", f"{name} is still open: {why}.", hint)
    end = await how_it_ended(session, state, decision.action_id)
    if end is None and state.closed:
        text = f"{session.id} is closed. Your {decision.decision} is recorded as refused."
        return Conflict("E-SESSION-CLOSED", text, hint)
    late = f"Your {decision.decision} came too late and is recorded as refused."
    return Conflict("E-ACTION-DECIDED", f"{name}: {in_words(end)}. {late}", hint)


async def how_it_ended(session: Held, state: State, action_id: str) -> Decided | None:
    """Return how an action that is not open any more was decided; None: its turn ended first."""
    known = [past for past in state.decided if past.action_id == action_id]
    if known:
        return known[-1]
    found = None
    async for event in session.events():
        match event.payload:
            case e.ActionResolved(action_id=name, decision=what, by=by) if name == action_id:
                told = as_imported(by) if event.seq <= state.imported else by
                found = Decided(action_id, "", what, told, event.at_us)
            case _:
                pass
    return found


def in_words(end: Decided | None) -> str:
    """Return who decided what, and when."""
    if end is None:
        return "its turn had ended, and nothing waits for it any more"
    when = shown_time(end.at_us)
    if end.decision == "expired":
        return f"it had expired at {when}: nobody decided in time"
    return f"{end.by or 'somebody'} {_DID.get(end.decision, end.decision)} at {when}"


async def revoke(session: Held, kit: Kit, name: str, by: str) -> Event:
    """Take a grant back; return `grant.revoked`. See `Session.revoke`."""
    state = await session.state()
    ensure_open(state)
    held = state.grants.get(name)
    if held is None:
        raise grants.unknown(name)
    if held.scope == "rule":
        await grants.forget(kit.store, name)
    await session.post(Revoke(name, by))
    async for item in session.follow(state.seq):
        match item:
            case Event(payload=e.GrantRevoked(name=gone)) if gone == name:
                return item
            case Event(payload=e.NoteRecorded(text=text)) if text.endswith(f"{name!r} to revoke."):
                raise grants.unknown(name)
            case Event(payload=e.SessionClosed()):
                ensure_open(await session.state())
            case _:
                pass
    raise AssertionError("a follower ends only by an error")


async def revoke_rule(kit: Kit, maker: Held, name: str, by: str) -> None:
    """Take a rule out of force, and write that into the journal of the session that made it.

    Out of force it is at once; what comes after that is only the record.
    """
    there = await grants.forget(kit.store, name)
    try:
        recorded = name not in (await maker.state()).grants
    except NotFound:
        recorded = True  # it came with the store of a session that is not here
    if not recorded:
        await maker.post(Revoke(name, by))
    elif not there:
        raise grants.unknown(name)
