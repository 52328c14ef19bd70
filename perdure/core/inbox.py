"""What anybody may post to a session, and what its owner makes of it.

An inbox item is durable and deduplicated by its key before it is acknowledged; the owner takes
it into the journal later, in the same transaction that removes it from the inbox.
"""

import msgspec

from perdure.core import events as e
from perdure.core.content import Content
from perdure.core.events import Decision, InputKind, Payload, ToolStatus
from perdure.core.state import ActionState, Phase, State


class Say(msgspec.Struct, frozen=True, tag="say", omit_defaults=True):
    """A message, a steering word, or a command to the session."""

    kind: InputKind
    content: Content = ()
    by: str = ""


class Decide(msgspec.Struct, frozen=True, tag="decide", omit_defaults=True):
    """A decision on an open action. `seen` is the digest of what the decider was shown."""

    action_id: str
    decision: Decision
    by: str = ""
    reason: str = ""
    seen: str = ""
    arguments: str | None = None
    arguments_digest: str = ""
    result: str | None = None


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


class Rewind(msgspec.Struct, frozen=True, tag="rewind", omit_defaults=True):
    """Take the session back to what it was at event `to`."""

    to: int
    by: str = ""


Post = Say | Decide | Late | Update | Put | Rewind


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
        case Update(update=update) if update.agent is not None and state.parent:
            return (e.NoteRecorded("A subagent's definition is its parent's matter: kept."),)
        case Update(update=update):
            return (update,)
        case Put(name=name, value=value):
            return (e.StateSet(name, value),)
        case Rewind(to=to):
            return (e.NoteRecorded(no_such_past(to)),)


def no_such_past(to: int) -> str:
    """Return the note that refuses a rewind."""
    return f"Going back to event {to} was refused: it is not in the past, or a turn is open."


def _decide(state: State, post: Decide) -> tuple[Payload, ...]:
    action = state.actions.get(post.action_id)
    why = _refusal(action, post)
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
    )
    return (resolved,)


def _refusal(action: ActionState | None, post: Decide) -> str:
    if action is None:
        return "no such action is open (decided already, expired, or its turn has ended)"
    if post.seen and post.seen != action.digest:
        return "what was shown is not what would run"
    fitting = {
        "approve": ("allow", "deny"),
        "resolve": ("done", "failed", "rerun"),
        "rollback": ("done", "failed", "rerun"),
    }[action.kind]
    if post.decision not in fitting:
        return f"this action takes {', '.join(fitting)}"
    return ""


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
