"""The facts a journal is made of. Format version 1 is written down in docs/journal-format.md.

Rules: a field may be added with a default; a field or a type is never renamed, reused or
removed; what an event says was true when it was written and stays so.

`gc=False`, here and in what events are made of: they cannot hold themselves, so looking for cycles
among the thousands that a busy process holds would find nothing, and cost it a third of its time.
"""
# ruff: noqa: PLC0414

from typing import Any, Final, Literal, get_args

import msgspec

from perdure.core.agent import Effect, Verdict
from perdure.core.content import Content, ContextItem, ReplyItem, Usage
from perdure.core.errors import ErrorInfo
from perdure.core.facts import (  # re-exported: `events` is where all of them are looked for
    FORMAT as FORMAT,
    EnvironmentLost as EnvironmentLost,
    EnvironmentOpened as EnvironmentOpened,
    EnvironmentRestored as EnvironmentRestored,
    EnvironmentSnapshotted as EnvironmentSnapshotted,
    Fact,
    SessionClosed as SessionClosed,
    SessionCreated as SessionCreated,
    SessionForked as SessionForked,
    SessionParked as SessionParked,
    SessionRecovered as SessionRecovered,
    SessionRewound as SessionRewound,
    SessionUpdated as SessionUpdated,
)
from perdure.core.grants import Grant

InputKind = Literal["message", "steer", "interrupt", "pause", "resume"]
TurnStatus = Literal["completed", "failed", "cancelled", "budget"]
ReplyStatus = Literal["ok", "error", "incomplete", "lost", "cancelled"]
ToolStatus = Literal["ok", "error", "denied", "cancelled", "unknown", "retry", "held"]
ActionKind = Literal["approve", "resolve", "rollback", "answer"]
Purpose = Literal["", "compact"]
Remedy = Literal["", "compact", "repair", "fallback"]
Decision = Literal["allow", "deny", "expired", "done", "failed", "rerun", "withdrawn"]


class InputAccepted(Fact, frozen=True, tag="input.accepted"):
    """Something was taken from the inbox. `key` made sure that it came in once."""

    kind: InputKind
    content: Content = ()
    key: str = ""
    by: str = ""


class TurnStarted(Fact, frozen=True, tag="turn.started"):
    """A turn begins with the input of that `seq`; 0 goes on with what the transcript owes."""

    input: int = 0


class TurnEnded(Fact, frozen=True, tag="turn.ended"):
    """The turn is over."""

    status: TurnStatus
    error: ErrorInfo | None = None


class ModelRequested(Fact, frozen=True, tag="model.requested"):
    """The model is about to be called. `steers` are inputs that join the transcript here.

    `reserved_tokens` and `reserved_micro_usd` are the worst case of this call. With the purpose
    `compact` the reply is a summary and no part of the transcript. `because` says why another
    model than the one that is due was called.
    """

    model: str
    attempt: int = 1
    steers: tuple[int, ...] = ()
    max_output_tokens: int = 0
    reserved_tokens: int = 0
    reserved_micro_usd: int | None = None
    purpose: Purpose = ""
    because: str = ""


class ModelResponded(Fact, frozen=True, tag="model.responded"):
    """The call is over. Only an `ok` reply joins the transcript; `partial` is evidence.

    With an error, `retry_at_us` says when the next attempt is due; without it there is none.
    `dropped` says what of the transcript could not be shown to this provider as it was. `remedy`
    is what is done about an error before the next attempt: compact or repair the transcript, or
    go on with the model `fallback`.
    """

    status: ReplyStatus
    items: tuple[ReplyItem, ...] = ()
    raw: tuple[msgspec.Raw, ...] = ()
    dialect: str = ""
    provider: str = ""
    model: str = ""
    usage: Usage = Usage()
    finish: str = ""
    request_id: str = ""
    error: ErrorInfo | None = None
    partial: str = ""
    retry_at_us: int | None = None
    dropped: tuple[str, ...] = ()
    remedy: Remedy = ""
    fallback: str = ""


class ModelDelta(Fact, frozen=True, tag="model.delta"):
    """A piece of the reply that is being written, kept because somebody may follow it after this
    process is gone. `model.responded` says everything again; nothing else depends on it.
    """

    channel: Literal["text", "reasoning"]
    text: str


class ToolRequested(Fact, frozen=True, tag="tool.requested"):
    """A call was decided on. `digest` binds tool definition and exact arguments; `grant` is what
    a person had allowed before, where that turned a question into a yes.
    """

    call_id: str
    tool: str
    effect: Effect
    verdict: Verdict
    digest: str
    rule: str = ""
    reason: str = ""
    grant: Grant | None = None


class ToolStarted(Fact, frozen=True, tag="tool.started"):
    """The call is about to leave. `snapshot` is the workspace before it, where it has one."""

    call_id: str
    attempt: int
    epoch: int
    snapshot: str = ""


class ToolFinished(Fact, frozen=True, tag="tool.finished"):
    """How the call ended. `text` is what the model reads; `full` names the blob of the whole
    output. After `unknown` a second one says what was decided. So it is after `retry` (the
    attempt failed, the next is due at `retry_at_us`) and `held` (it failed, a person decides). A
    `fatal` error ends the turn.
    """

    call_id: str
    status: ToolStatus
    text: str = ""
    error: ErrorInfo | None = None
    full: str = ""
    meta: dict[str, Any] = {}  # noqa: RUF012  # msgspec makes a new one for each
    retry_at_us: int | None = None
    fatal: bool = False


class ToolLateResult(Fact, frozen=True, tag="tool.late_result"):
    """A result that came after its owner had lost the session, or after a timeout."""

    call_id: str
    attempt: int
    status: ToolStatus
    text: str = ""


class ActionRequested(Fact, frozen=True, tag="action.requested"):
    """A person, or a client's program, owes the session a decision until `expires_at_us`. `said`
    is what the model wrote when it made the call.
    """

    action_id: str
    kind: ActionKind
    call_id: str
    question: str
    digest: str = ""
    expires_at_us: int | None = None
    said: str = ""


class ActionResolved(Fact, frozen=True, tag="action.resolved"):
    """Who decided what. `arguments` replace the call's; `result` is what a person vouches for;
    `grant` is what is allowed from now on.
    """

    action_id: str
    decision: Decision
    by: str = ""
    digest: str = ""
    reason: str = ""
    arguments: str | None = None
    result: str | None = None
    grant: Grant | None = None


class GrantRevoked(Fact, frozen=True, tag="grant.revoked"):
    """What a person allowed in this session is allowed no longer."""

    name: str
    by: str = ""


class SignalReceived(Fact, frozen=True, tag="signal.received"):
    """Something happened outside. It is kept until a call waits for it."""

    name: str
    text: str = ""
    key: str = ""
    by: str = ""


class TimerSet(Fact, frozen=True, tag="timer.set"):
    """A call waits: until `due_us`, for the signal `signal`, or for whichever comes first."""

    timer_id: str
    call_id: str
    due_us: int | None = None
    signal: str = ""


class TimerFired(Fact, frozen=True, tag="timer.fired"):
    """The waiting is over. `signal` is the seq of the signal that ended it; 0: it was time."""

    timer_id: str
    signal: int = 0
    text: str = ""


class ContextAdded(Fact, frozen=True, tag="context.added"):
    """Items enter the transcript as they are: an earlier conversation, brought along.

    `raw` is what a client sent, where it wants that back as it was. It may be of a kind that no
    model is shown: then there are no `items`, and the event may come while a turn is open.
    """

    items: tuple[ContextItem, ...] = ()
    key: str = ""
    by: str = ""
    raw: tuple[msgspec.Raw, ...] = ()


class ContextDropped(Fact, frozen=True, tag="context.dropped"):
    """The model no longer reads one item: the `index`-th (from 0) of those that entered with event
    `entered`. A call goes with its result.
    """

    entered: int
    index: int = 0
    by: str = ""


class ContextCompacted(Fact, frozen=True, tag="context.compacted"):
    """From now on the model reads less of what entered the transcript up to event `upto`: a
    `summary` in its place, or (`elided`) the same with long tool results cut to that many
    characters. `items` of what it read were concerned. The events themselves stay.
    """

    upto: int
    summary: str = ""
    elided: int = 0
    items: int = 0


class ContextCompactAsked(Fact, frozen=True, tag="context.compact_asked"):
    """A person wants the transcript compacted before the model is called next."""

    by: str = ""


class ContextRepaired(Fact, frozen=True, tag="context.repaired"):
    """A provider would not read the transcript. Up to event `upto` it is from now on shown in
    plain form: texts, calls and results, without what vendors add. `why` is what was refused.
    """

    upto: int
    why: str = ""


class StateSet(Fact, frozen=True, tag="state.set"):
    """A value of the application's own, kept beside the transcript. null removes it."""

    key: str
    value: msgspec.Raw


class NoteRecorded(Fact, frozen=True, tag="note.recorded"):
    """A remark for people. No decision depends on it.

    With `imported` it says that the first so many events were not written by this store but brought
    by `imported_by`: the names in them are as they came.
    """

    text: str
    imported: int = 0
    imported_by: str = ""


Payload = (
    SessionCreated
    | SessionUpdated
    | SessionForked
    | SessionRewound
    | SessionRecovered
    | SessionParked
    | SessionClosed
    | InputAccepted
    | TurnStarted
    | TurnEnded
    | ModelRequested
    | ModelResponded
    | ModelDelta
    | ToolRequested
    | ToolStarted
    | ToolFinished
    | ToolLateResult
    | ActionRequested
    | ActionResolved
    | GrantRevoked
    | SignalReceived
    | TimerSet
    | TimerFired
    | ContextAdded
    | ContextDropped
    | ContextCompacted
    | ContextCompactAsked
    | ContextRepaired
    | StateSet
    | EnvironmentOpened
    | EnvironmentSnapshotted
    | EnvironmentRestored
    | EnvironmentLost
    | NoteRecorded
)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One fact: `seq` is dense from 1, `id` stable and sortable, `at_us` wall time in
    microseconds, `turn` the number of the turn it belongs to (0 outside of any).
    """

    seq: int
    id: str
    at_us: int
    turn: int
    payload: Payload

    @property
    def type(self) -> str:
        """The event's type, `noun.verb`."""
        return type_of(self.payload)


def type_of(payload: Payload) -> str:
    """Return the `noun.verb` of a payload."""
    tag = type(payload).__struct_config__.tag
    assert isinstance(tag, str)
    return tag


EVENT_TYPES: Final = tuple(str(t.__struct_config__.tag) for t in get_args(Payload))
