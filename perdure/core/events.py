"""The facts a journal is made of. Format version 1 is written down in docs/journal-format.md.

Rules: a field may be added with a default; a field or a type is never renamed, reused or
removed; what an event says was true when it was written and stays so.

`gc=False`, here and in what events are made of: they cannot hold themselves, so looking for cycles
among the thousands that a busy process holds would find nothing, and cost it a third of its time.
"""

from typing import Any, Final, Literal, get_args

import msgspec

from perdure.core.agent import AgentSpec, Effect, Limits, Verdict
from perdure.core.content import Content, ReplyItem, Usage
from perdure.core.errors import ErrorInfo

FORMAT: Final = 1

InputKind = Literal["message", "steer", "interrupt", "pause", "resume"]
TurnStatus = Literal["completed", "failed", "cancelled", "budget"]
ReplyStatus = Literal["ok", "error", "incomplete", "lost", "cancelled"]
ToolStatus = Literal["ok", "error", "denied", "cancelled", "unknown"]
ActionKind = Literal["approve", "resolve", "rollback"]
Decision = Literal["allow", "deny", "expired", "done", "failed", "rerun", "withdrawn"]


class _Fact(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type"):
    """What all payloads share: immutable, tagged with their type, defaults left out."""


class SessionCreated(_Fact, frozen=True, tag="session.created"):
    """The first event. Pins the agent as it was; `source` is the user's directory or empty.

    A subagent's session names its `parent` and the call there that it answers, `parent_call`.
    Its agent is already narrowed to the parent's rights; `asked` are the limits that its own
    definition asks for. `levels` says how many levels of subagents may follow below it and
    `width` how many at once (None: as its tools say).
    """

    session: str
    agent: AgentSpec
    source: str = ""
    format: int = FORMAT
    parent: str = ""
    parent_call: str = ""
    levels: int | None = None
    width: int | None = None
    asked: Limits | None = None


class SessionUpdated(_Fact, frozen=True, tag="session.updated"):
    """The session goes on under another agent version, or under other limits."""

    by: str = ""
    agent: AgentSpec | None = None
    limits: Limits | None = None


class SessionForked(_Fact, frozen=True, tag="session.forked"):
    """This session begins here with the first `at` events of `origin` as its own past.

    `unsafe` are calls that were open at `at` and left afterwards in the origin: what became of
    them there is known, so they are not simply run again here.
    """

    session: str
    origin: str
    at: int
    by: str = ""
    agent: AgentSpec | None = None
    unsafe: tuple[str, ...] = ()


class SessionRewound(_Fact, frozen=True, tag="session.rewound"):
    """The session is taken back to what it was at event `to`; what came since stays readable.

    `unsafe` are calls that were open at `to` and left since.
    """

    to: int
    by: str = ""
    unsafe: tuple[str, ...] = ()


class SessionRecovered(_Fact, frozen=True, tag="session.recovered"):
    """A new owner found unfinished work. Written before anything is tried again; `attempt`
    counts owners that died one after the other without any progress.
    """

    epoch: int
    attempt: int


class SessionParked(_Fact, frozen=True, tag="session.parked"):
    """The session is taken out of service until a person resumes it."""

    error: ErrorInfo


class SessionClosed(_Fact, frozen=True, tag="session.closed"):
    """Nothing more will happen here."""

    by: str = ""


class InputAccepted(_Fact, frozen=True, tag="input.accepted"):
    """Something was taken from the inbox. `key` made sure that it came in once."""

    kind: InputKind
    content: Content = ()
    key: str = ""
    by: str = ""


class TurnStarted(_Fact, frozen=True, tag="turn.started"):
    """A turn begins with the input of that `seq`; 0 goes on with what the transcript owes."""

    input: int = 0


class TurnEnded(_Fact, frozen=True, tag="turn.ended"):
    """The turn is over."""

    status: TurnStatus
    error: ErrorInfo | None = None


class ModelRequested(_Fact, frozen=True, tag="model.requested"):
    """The model is about to be called. `steers` are inputs that join the transcript here.

    `reserved_tokens` and `reserved_micro_usd` are the worst case of this call.
    """

    model: str
    attempt: int = 1
    steers: tuple[int, ...] = ()
    max_output_tokens: int = 0
    reserved_tokens: int = 0
    reserved_micro_usd: int | None = None


class ModelResponded(_Fact, frozen=True, tag="model.responded"):
    """The call is over. Only an `ok` reply joins the transcript; `partial` is evidence.

    With an error, `retry_at_us` says when the next attempt is due; without it there is none.
    `dropped` says what of the transcript could not be shown to this provider as it was.
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


class ToolRequested(_Fact, frozen=True, tag="tool.requested"):
    """A call was decided on. `digest` binds tool definition and exact arguments."""

    call_id: str
    tool: str
    effect: Effect
    verdict: Verdict
    digest: str
    rule: str = ""
    reason: str = ""


class ToolStarted(_Fact, frozen=True, tag="tool.started"):
    """The call is about to leave. `snapshot` is the workspace before it, where it has one."""

    call_id: str
    attempt: int
    epoch: int
    snapshot: str = ""


class ToolFinished(_Fact, frozen=True, tag="tool.finished"):
    """How the call ended. `text` is what the model reads; `full` names the blob of the whole
    output. After `unknown` a second one says what was decided.
    """

    call_id: str
    status: ToolStatus
    text: str = ""
    error: ErrorInfo | None = None
    full: str = ""
    meta: dict[str, Any] = {}


class ToolLateResult(_Fact, frozen=True, tag="tool.late_result"):
    """A result that came after its owner had lost the session, or after a timeout."""

    call_id: str
    attempt: int
    status: ToolStatus
    text: str = ""


class ActionRequested(_Fact, frozen=True, tag="action.requested"):
    """A person owes the session a decision until `expires_at_us`."""

    action_id: str
    kind: ActionKind
    call_id: str
    question: str
    digest: str = ""
    expires_at_us: int | None = None


class ActionResolved(_Fact, frozen=True, tag="action.resolved"):
    """Who decided what. `arguments` replace the call's; `result` is what a person vouches for."""

    action_id: str
    decision: Decision
    by: str = ""
    digest: str = ""
    reason: str = ""
    arguments: str | None = None
    result: str | None = None


class StateSet(_Fact, frozen=True, tag="state.set"):
    """A value of the application's own, kept beside the transcript. null removes it."""

    key: str
    value: msgspec.Raw


class EnvironmentOpened(_Fact, frozen=True, tag="environment.opened"):
    """A sandbox was opened; `isolation` names what was seen to be in force."""

    level: str
    isolation: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    workspace: str = ""


class EnvironmentSnapshotted(_Fact, frozen=True, tag="environment.snapshotted"):
    """The workspace as it is after `call_id` (empty: at the beginning) is stored."""

    snapshot: str
    call_id: str = ""


class EnvironmentRestored(_Fact, frozen=True, tag="environment.restored"):
    """The workspace was taken back to `snapshot`. `paths` names at most 50 of `count` files."""

    snapshot: str
    call_id: str = ""
    count: int = 0
    paths: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


class EnvironmentLost(_Fact, frozen=True, tag="environment.lost"):
    """The sandbox could not be opened."""

    error: ErrorInfo


class NoteRecorded(_Fact, frozen=True, tag="note.recorded"):
    """A remark for people. Nothing depends on it."""

    text: str


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
    | ToolRequested
    | ToolStarted
    | ToolFinished
    | ToolLateResult
    | ActionRequested
    | ActionResolved
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
