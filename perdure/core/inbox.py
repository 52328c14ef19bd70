"""What anybody may post to a session, and what its owner makes of it.

An inbox item is durable and deduplicated by its key before it is acknowledged; the owner takes
it into the journal later, in the same transaction that removes it from the inbox.
"""

import msgspec

from perdure.core import events as e
from perdure.core.content import Content, ContextItem
from perdure.core.events import Decision, InputKind, Payload, ToolStatus
from perdure.core.grants import Grant
from perdure.core.state import ActionState, Phase, State


class Say(msgspec.Struct, frozen=True, tag="say", omit_defaults=True):
    """A message, a steering word, or a command to the session."""

    kind: InputKind
    content: Content = ()
    by: str = ""


class Decide(msgspec.Struct, frozen=True, tag="decide", omit_defaults=True):
    """A decision on an open action. `seen` is the digest of what the decider was shown; `grant`
    is what is to be allowed from now on beside this call.
    """

    action_id: str
    decision: Decision
    by: str = ""
    reason: str = ""
    seen: str = ""
    arguments: str | None = None
    arguments_digest: str = ""
    result: str | None = None
    grant: Grant | None = None


class Late(msgspec.Struct, frozen=True, tag="late", omit_defaults=True):
    """A result that arrived when its call was no longer waited for."""

    call_id: str
    attempt: int
    status: ToolStatus
    text: str = ""


class Update(msgspec.Struct, frozen=True, tag="update", omit_defaults=True):
    """Other limits or another agent version for the session."""

    update: e.SessionUpdated


class Put(msgspec.Struct, frozen=True, tag="put"):
    """A value of the application's own; null removes it."""

    name: str
    value: msgspec.Raw


class Answer(msgspec.Struct, frozen=True, tag="answer", omit_defaults=True):
    """What a client says of a call that was left to it: its result, or why there is none."""

    call_id: str
    text: str = ""
    failed: bool = False
    by: str = ""


class Signalled(msgspec.Struct, frozen=True, tag="signal", omit_defaults=True):
    """Something happened outside that a call may be waiting for."""

    name: str
    text: str = ""
    by: str = ""


class Revoke(msgspec.Struct, frozen=True, tag="revoke", omit_defaults=True):
    """Take back what was allowed in this session beyond a single call."""

    name: str
    by: str = ""


class Brought(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client sent, as it was, and what of it the model is shown, if anything."""

    raw: msgspec.Raw
    item: ContextItem | None = None


class AddItems(msgspec.Struct, frozen=True, tag="add_items", omit_defaults=True):
    """Bring items into the transcript of a session that has no turn open. Each of `brought` becomes
    an event of its own, all of them or none.
    """

    items: tuple[ContextItem, ...] = ()
    by: str = ""
    brought: tuple[Brought, ...] = ()


class DropItem(msgspec.Struct, frozen=True, tag="drop_item", omit_defaults=True):
    """Take one item out of what the model reads; see `ContextDropped`."""

    entered: int
    index: int = 0
    by: str = ""


class Compact(msgspec.Struct, frozen=True, tag="compact", omit_defaults=True):
    """Make the transcript shorter before the model is called next."""

    by: str = ""


class Close(msgspec.Struct, frozen=True, tag="close", omit_defaults=True):
    """Nothing more is to happen here. An open turn is interrupted first."""

    by: str = ""


class Rewind(msgspec.Struct, frozen=True, tag="rewind", omit_defaults=True):
    """Take the session back to what it was at event `to`."""

    to: int
    by: str = ""


Post = (
    Say
    | Decide
    | Answer
    | Signalled
    | Revoke
    | Late
    | Update
    | Put
    | AddItems
    | DropItem
    | Compact
    | Close
    | Rewind
)

NOT_EDITED = "The transcript was not edited: a turn is open."
SIGNALS_MAX = 1000  # that wait unread; more are not taken, and the note says so


def accept(state: State, post: Post, key: str) -> tuple[Payload, ...]:
    """Return the events that taking `post` means in `state`. Total: what cannot be honoured
    becomes a note that says why, so that nothing posted is lost without a trace.
    """
    match post:
        case Say():
            if state.closed:
                return (e.NoteRecorded(f"A {post.kind} came after the session was closed."),)
            return (e.InputAccepted(post.kind, post.content, key, post.by),)
        case Decide():
            return _decide(state, post)
        case Late():
            return _late(state, post)
        case _ if state.closed:
            return (e.NoteRecorded("A change came after the session was closed."),)
        case Answer() | Signalled() | Revoke():
            return _outside(state, post, key)
        case AddItems():
            return _add(state, post, key)
        case DropItem():
            return (_drop(state, post),)
        case _:
            return (_change(state, post),)


def _add(state: State, post: AddItems, key: str) -> tuple[Payload, ...]:
    if state.turn is not None and (post.items or any(each.item for each in post.brought)):
        return (e.NoteRecorded(NOT_EDITED),)
    found = [e.ContextAdded(post.items, key, post.by)] if post.items else []
    for each in post.brought:
        items = () if each.item is None else (each.item,)
        found.append(e.ContextAdded(items, key, post.by, (each.raw,)))
    return tuple(found) or (e.NoteRecorded("Nothing was added to the transcript."),)


def _drop(state: State, post: DropItem) -> Payload:
    if state.turn is not None:
        return e.NoteRecorded(NOT_EDITED)
    if not 0 < post.entered <= state.seq or post.index < 0:
        return e.NoteRecorded(f"No item entered the transcript with event {post.entered}.")
    return e.ContextDropped(post.entered, post.index, post.by)


def _change(state: State, post: Update | Put | Compact | Close | Rewind) -> Payload:
    match post:
        case Update(update=update) if update.agent is not None and state.parent:
            return e.NoteRecorded("A subagent's definition is its parent's matter: kept.")
        case Update(update=update):
            return update
        case Put(name=name, value=value):
            return e.StateSet(name, value)
        case Compact(by=by):
            return e.ContextCompactAsked(by)
        case Close(by=by):
            if state.turn is not None:
                return e.NoteRecorded("Closing was refused: a turn is open.")
            return e.SessionClosed(by)
        case Rewind(to=to):
            return e.NoteRecorded(no_such_past(to))


def _outside(state: State, post: Answer | Signalled | Revoke, key: str) -> tuple[Payload, ...]:
    match post:
        case Answer():
            return _answer(state, post)
        case Signalled(name=name, text=text, by=by):
            if len(state.signals) >= SIGNALS_MAX:
                return (
                    e.NoteRecorded(f"Signal {name!r} was not taken: {SIGNALS_MAX} wait unread."),
                )
            return _signalled(state, e.SignalReceived(name, text, key, by))
        case Revoke(name=name, by=by):
            if name not in state.grants:
                return (e.NoteRecorded(f"There is no grant {name!r} to revoke."),)
            return (e.GrantRevoked(name, by),)


def _signalled(state: State, received: e.SignalReceived) -> tuple[Payload, ...]:
    """Keep a signal, and give it at once to the first call that waits for it."""
    for timer in state.timers.values():
        if timer.signal == received.name:
            return (received, e.TimerFired(timer.id, state.seq + 1, received.text))
    return (received,)


def _answer(state: State, post: Answer) -> tuple[Payload, ...]:
    waiting = [a for a in state.actions.values() if (a.kind, a.call_id) == ("answer", post.call_id)]
    if not waiting:
        return (e.NoteRecorded(f"An answer to {post.call_id} by {post.by!r} was not needed."),)
    action = waiting[0]
    return (
        e.ActionResolved(
            action.id,
            "failed" if post.failed else "done",
            post.by,
            action.digest,
            reason=post.text if post.failed else "",
            result=None if post.failed else post.text,
        ),
    )


def no_such_past(to: int) -> str:
    """Return the note that refuses a rewind."""
    return f"Going back to event {to} was refused: it is not in the past, or a turn is open."


def _decide(state: State, post: Decide) -> tuple[Payload, ...]:
    action = state.actions.get(post.action_id)
    why = _refusal(state, action, post)
    if action is None or why:
        return (
            e.NoteRecorded(f"{post.decision} of {post.action_id} by {post.by!r} refused: {why}"),
        )
    edited = post.arguments is not None
    resolved = e.ActionResolved(
        post.action_id,
        post.decision,
        post.by,
        post.arguments_digest if edited else action.digest,
        post.reason,
        post.arguments,
        post.result,
        post.grant if post.decision == "allow" else None,
    )
    return (resolved,)


def _refusal(state: State, action: ActionState | None, post: Decide) -> str:
    if action is None:
        return _why_closed(state, post.action_id)
    if post.seen and post.seen != action.digest:
        return "what was shown is not what would run"
    fitting = {
        "approve": ("allow", "deny"),
        "resolve": ("done", "failed", "rerun"),
        "rollback": ("done", "failed", "rerun"),
        "answer": ("done", "failed"),
    }[action.kind]
    if post.decision not in fitting:
        return f"this action takes {', '.join(fitting)}"
    return ""


def _why_closed(state: State, action_id: str) -> str:
    """Say why an action is not open: who was faster, as far as that is remembered."""
    for past in reversed(state.decided):
        if past.action_id == action_id and past.decision == "expired":
            return "it had expired: nobody decided in time"
        if past.action_id == action_id:
            return f"{past.by or 'somebody'} had decided already: {past.decision}"
    return "no such action is open: its turn has ended"


def _late(state: State, post: Late) -> tuple[Payload, ...]:
    filed = e.ToolLateResult(post.call_id, post.attempt, post.status, post.text)
    call = state.turn.calls.get(post.call_id) if state.turn else None
    if call is None or call.phase is not Phase.UNKNOWN or call.attempt != post.attempt:
        return (filed,)
    action = next((a for a in state.actions.values() if a.call_id == post.call_id), None)
    if action is None or post.status not in ("ok", "error"):
        return (filed,)
    return (
        filed,
        e.ActionResolved(
            action.id,
            "done" if post.status == "ok" else "failed",
            by="late result",
            digest=action.digest,
            reason=post.text if post.status == "error" else "",
            result=post.text if post.status == "ok" else None,
        ),
    )
