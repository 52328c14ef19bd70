"""What a session's events fold to: just enough to decide what is due and to show a summary.

The transcript is not in here (see `context.py`): it grows with the session, and `State` must
stay small enough to be cached beside a journal of any length.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from perdure.core.agent import AgentSpec, Effect, Limits
from perdure.core.content import ToolCall, Usage
from perdure.core.errors import ErrorInfo
from perdure.core.events import ActionKind, Decision, InputKind, Purpose, Remedy, TurnStatus
from perdure.core.grants import Grant

FOLD_VERSION: Final = 5  # raise it when the fold changes: cached states of older ones are dropped


class Phase(StrEnum):
    """Where a tool call is. Only `STARTED` can have touched the world without our knowing how."""

    PROPOSED = "proposed"  # the model asked for it
    READY = "ready"  # it may run
    ASKING = "asking"  # a person decides, or a client's program answers
    SLEEPING = "sleeping"  # it waits for its time, or for a signal
    REFUSED = "refused"  # a rule or a person said no; the model has not been told yet
    STARTED = "started"  # it left
    UNKNOWN = "unknown"  # a person decides what became of it, or of its error
    RESOLVED = "resolved"  # somebody vouches for its outcome; the model has not been told yet
    FINISHED = "finished"


class CallState(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One tool call of the reply being worked on."""

    call: ToolCall
    phase: Phase = Phase.PROPOSED
    effect: Effect = Effect.ONCE
    digest: str = ""
    approved: str = ""  # the digest an approval was given for; spent when the call starts
    attempt: int = 0
    epoch: int = 0
    snapshot: str = ""
    reason: str = ""
    result: str | None = None  # what a person vouches for
    failed: bool = False  # a person says it did not happen
    session: str = ""  # where it was first requested, when that is another session: its key
    granted: str = ""  # the grant in whose name it may run
    failures: int = 0  # failed attempts, and when the next one is due
    retry_at_us: int | None = None


class ActionState(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a person owes the session."""

    id: str
    kind: ActionKind
    call_id: str
    question: str
    digest: str = ""
    asked_at_us: int = 0
    expires_at_us: int | None = None
    said: str = ""


class Decided(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How an action ended: for those who come too late."""

    action_id: str
    call_id: str
    decision: Decision
    by: str = ""
    at_us: int = 0


class TimerState(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A call that sleeps until `due_us` or until the signal comes."""

    id: str
    call_id: str
    due_us: int | None = None
    signal: str = ""
    set_at_us: int = 0


class Signal(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A signal that nobody has waited for yet."""

    seq: int
    name: str
    text: str = ""


class QueuedInput(msgspec.Struct, frozen=True, gc=False):
    """An input that waits for its turn, or for the next model call."""

    seq: int
    kind: InputKind


class Spent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What was used. `unpriced` counts model calls whose price nobody knew."""

    steps: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    micro_usd: int = 0
    unpriced: int = 0

    @property
    def tokens(self) -> int:
        """All tokens read and written."""
        return self.input_tokens + self.output_tokens

    def settled(self, usage: Usage) -> "Spent":
        """Return this with the bill of one model call."""
        cost = usage.cost_micro_usd
        used = usage.input_tokens + usage.output_tokens > 0
        return replace(
            self,
            input_tokens=self.input_tokens + usage.input_tokens,
            output_tokens=self.output_tokens + usage.output_tokens,
            micro_usd=self.micro_usd + (cost or 0),
            unpriced=self.unpriced + (used and cost is None),
        )


class ModelCall(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A model call that left and has not come back."""

    model: str
    attempt: int
    max_output_tokens: int = 0
    reserved_tokens: int = 0
    reserved_micro_usd: int | None = None
    purpose: Purpose = ""


class Turn(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The turn in progress."""

    number: int
    started_at_us: int
    spent: Spent = Spent()
    model: ModelCall | None = None
    calls: Mapping[str, CallState] = {}
    next_call: int = 1
    owes_reply: bool = True
    failures: int = 0  # failed attempts of the model call that is due
    retry_at_us: int | None = None
    error: ErrorInfo | None = None  # why it cannot go on
    interrupted: bool = False
    waited_us: int = 0  # how long nothing was done: people, timers, pauses, dead processes
    remedy: Remedy = ""  # what is due before the next model call, and how often it was tried
    compactions: int = 0
    repairs: int = 0
    model_name: str = ""  # the fallback model that has taken over


class State(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A session at one `seq`."""

    seq: int = 0
    id: str = ""
    agent: AgentSpec | None = None
    version: str = ""
    source: str = ""
    created_at_us: int = 0
    updated_at_us: int = 0
    turns: int = 0
    turn: Turn | None = None
    queue: tuple[QueuedInput, ...] = ()
    actions: Mapping[str, ActionState] = {}
    next_action: int = 1
    decided: tuple[Decided, ...] = ()  # the last few
    grants: Mapping[str, Grant] = {}
    timers: Mapping[str, TimerState] = {}
    next_timer: int = 1
    signals: tuple[Signal, ...] = ()  # that came before anybody waited for them
    spent: Spent = Spent()
    last_tokens: int = 0  # what the provider counted for the last context, and at which
    last_tokens_seq: int = 0  # seq: the next context is that and what came since
    last_tokens_model: str = ""  # who counted, where it was not the agent's own model
    compacted_seq: int = 0  # when the transcript was last compacted, and what the provider
    compacted_tokens: int = 0  # counted for the first context after that
    compact_asked: bool = False  # a person wants it compacted before the next model call
    snapshot: str = ""
    first_snapshot: str = ""  # the workspace as it was at its beginning
    restore_due: bool = False  # the workspace is not at `snapshot` yet
    imported: int = 0  # how many events, from the first, this store did not write itself
    imported_by: str = ""
    generation: int = 0  # forks and rewinds in the past: fresh call ids differ from undone ones
    level: str = ""
    values: Mapping[str, msgspec.Raw] = {}
    recoveries: int = 0
    paused: bool = False
    parked: ErrorInfo | None = None
    closed: bool = False
    last_status: TurnStatus | None = None
    last_error: ErrorInfo | None = None
    parent: str = ""  # the session that this one is a subagent of, and the call it answers
    parent_call: str = ""
    levels: int | None = None  # how many levels of subagents may follow, and how many at once
    width: int | None = None
    asked: Limits | None = None  # a subagent's own limits; those above it hold beside them
    owes_reply: bool = False  # the transcript ends with something no model has answered

    @property
    def spec(self) -> AgentSpec:
        """The agent this session is pinned to."""
        assert self.agent is not None, "a session without session.created"
        return self.agent

    @property
    def limits(self) -> Limits:
        """The limits in force.

        A subagent's definition pins no more than its parent had left when it began. While it
        has a parent, what those above it have left *now* is asked before each step instead, so
        that a limit raised there is seen here; its time is pinned.
        """
        pinned = self.spec.limits
        return replace(self.asked, wall_s=pinned.wall_s) if self.asked else pinned

    @property
    def open_calls(self) -> tuple[CallState, ...]:
        """Calls of this turn that the model has no result for, in the order it wrote them."""
        calls = self.turn.calls.values() if self.turn else ()
        return tuple([c for c in calls if c.phase is not Phase.FINISHED])

    def awaits_answer(self, call_id: str) -> bool:
        """Whether a call has been put to the clients and waits for an answer."""
        return any((a.kind, a.call_id) == ("answer", call_id) for a in self.actions.values())

    def with_call(self, call: CallState) -> "State":
        """Return this with `call` in its place in the open turn."""
        assert self.turn is not None, "a call without a turn"
        calls = {**self.turn.calls, call.call.id: call}
        return replace(self, turn=replace(self.turn, calls=calls))
