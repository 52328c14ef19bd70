"""What a replay takes from the record as given, because no engine could compute it again.

Times, ids and dice were drawn then; epochs were given out by a store; letters were written by
people. Everything else must come out of the engine's own code anew.
"""

from typing import Final

from msgspec.structs import replace

from perdure.core import events as e, step as due
from perdure.core.agent import AgentSpec, RetryPolicy, ToolSpec
from perdure.core.errors import ErrorInfo
from perdure.core.events import Event, Payload
from perdure.core.inbox import Decide, Late, Post, Signalled, accept
from perdure.core.state import State
from perdure.engine import retry
from perdure.engine.kin import SOURCE as SUBAGENT, has_subagents

SLACK_US: Final = 1_000_000  # between looking at the clock and the time an event got
DECIDED: Final = (
    e.SessionRecovered,
    e.TurnStarted,
    e.TurnEnded,
    e.ModelRequested,
    e.ModelResponded,
    e.ToolRequested,
    e.ToolStarted,
    e.ToolFinished,
    e.ActionRequested,
    e.TimerSet,
    e.ContextCompacted,
    e.ContextRepaired,
)
GIVEN: Final = (
    e.SessionCreated,
    e.SessionUpdated,
    e.SessionForked,
    e.SessionRewound,
    e.SessionParked,
    e.SessionClosed,
    e.InputAccepted,
    e.ToolLateResult,
    e.StateSet,
    e.ModelDelta,
    e.ContextAdded,
    e.ContextDropped,
    e.GrantRevoked,
    e.ContextCompactAsked,
    e.SignalReceived,
    e.EnvironmentOpened,
    e.EnvironmentLost,
    e.NoteRecorded,
)
EITHER: Final = (e.ActionResolved, e.TimerFired, e.EnvironmentSnapshotted, e.EnvironmentRestored)


class Trust:
    """What this replay believes. Without prices, money is as recorded; with an `agent`, that one
    takes the place of the recorded definitions.
    """

    def __init__(self, *, money: bool, agent: AgentSpec | None) -> None:
        self.money = money
        self.agent = agent


def redefined(event: Event, trust: Trust) -> Event:
    """Put the definition under test in the place of a recorded one."""
    p = event.payload
    if trust.agent is None:
        return event
    match p:
        case e.SessionCreated(agent=agent):
            return _with(event, replace(p, agent=_as_worded(trust.agent, agent)))
        case (
            e.SessionUpdated(agent=AgentSpec() as agent)
            | e.SessionForked(agent=AgentSpec() as agent)
        ):
            return _with(event, replace(p, agent=_as_worded(trust.agent, agent)))
        case _:
            return event


def _with(event: Event, payload: Payload) -> Event:
    return Event(event.seq, event.id, event.at_us, event.turn, payload)


def _as_worded(agent: AgentSpec, recorded: AgentSpec) -> AgentSpec:
    """Return `agent` in the words of the recorded one: words decide nothing by themselves."""
    tools = tuple(_tool_as_worded(tool, recorded.tool(tool.name)) for tool in agent.tools)
    return replace(
        agent,
        name=recorded.name,
        model=recorded.model,
        fallbacks=recorded.fallbacks,
        instructions=recorded.instructions,
        tools=tools,
        environment=recorded.environment,
    )


def _tool_as_worded(tool: ToolSpec, recorded: ToolSpec | None) -> ToolSpec:
    if recorded is None:
        return tool
    both = tool.source.startswith(SUBAGENT) and recorded.source.startswith(SUBAGENT)
    # What a subagent may do is decided in its own session; here it is a tool by its name.
    source = recorded.source if both else tool.source
    return replace(tool, description=recorded.description, source=source)


def with_facts(made: Payload, event: Event, before: State, trust: Trust) -> Payload:
    """Return what the engine wrote, with the facts of the record it could not know."""
    made = _as_old(made, event.payload)
    match made, event.payload:
        case e.ToolStarted(), e.ToolStarted(epoch=epoch):
            return replace(made, epoch=epoch)
        case e.SessionRecovered(), e.SessionRecovered(epoch=epoch):
            return replace(made, epoch=epoch)
        case e.ActionRequested(expires_at_us=int() as mine), e.ActionRequested(
            expires_at_us=int() as then
        ) if abs(mine - then) <= SLACK_US:
            return replace(made, expires_at_us=then)
        case e.ModelRequested(), e.ModelRequested() as recorded:
            return _reserved(made, recorded, before, trust)
        case e.ModelResponded(), e.ModelResponded() as recorded:
            return _responded(made, recorded, event, before, trust)
        case e.ToolFinished(status="retry"), e.ToolFinished(status="retry") as recorded:
            return _tried_again(made, recorded, event, before)
        case _:
            return made


def _as_old(made: Payload, recorded: Payload) -> Payload:
    """Leave out what older versions did not write: whom an error was about, what a model said."""
    mine, then = getattr(made, "error", None), getattr(recorded, "error", None)
    if isinstance(mine, ErrorInfo) and isinstance(then, ErrorInfo) and not then.subject:
        return replace(made, error=replace(mine, subject=""))
    if isinstance(made, e.ActionRequested) and isinstance(recorded, e.ActionRequested):
        return made if recorded.said else replace(made, said="")
    return made


def _reserved(
    made: e.ModelRequested, recorded: e.ModelRequested, before: State, trust: Trust
) -> e.ModelRequested:
    if not trust.money:
        made = replace(made, reserved_micro_usd=recorded.reserved_micro_usd)
    # A price bounds the length of a reply; a definition's size bounds what the call may read.
    priced = not trust.money and before.limits.usd is not None
    if trust.agent is not None or priced or in_tree(before):
        return replace(
            made,
            max_output_tokens=recorded.max_output_tokens,
            reserved_tokens=recorded.reserved_tokens,
            reserved_micro_usd=recorded.reserved_micro_usd,
        )
    return made


def _responded(
    made: e.ModelResponded, recorded: e.ModelResponded, event: Event, before: State, trust: Trust
) -> e.ModelResponded:
    if not trust.money:
        cost = recorded.usage.cost_micro_usd
        made = replace(made, usage=replace(made.usage, cost_micro_usd=cost))
    if made.remedy == "fallback" and not recorded.remedy:
        # Older versions knew no fallbacks: the turn ended there, and did so by their rules.
        made = replace(made, remedy="", fallback="")
    if made.remedy in ("compact", "repair") and not recorded.remedy and _untouched(before):
        made = replace(made, remedy="")  # older versions knew no such remedy: the turn failed
    if made.retry_at_us is None or recorded.retry_at_us is None or before.turn is None:
        return made
    failures = before.turn.failures + 1
    if _diced(recorded.retry_at_us, event, before.spec.retry, failures, recorded.error):
        return replace(made, retry_at_us=recorded.retry_at_us)
    return made


def _tried_again(
    made: e.ToolFinished, recorded: e.ToolFinished, event: Event, before: State
) -> e.ToolFinished:
    call = before.turn.calls.get(recorded.call_id) if before.turn else None
    spec = before.spec.tool(call.call.tool) if call else None
    policy = (spec.retry if spec else None) or before.spec.tool_retry
    if call is None or policy is None or recorded.retry_at_us is None:
        return made
    if _diced(recorded.retry_at_us, event, policy, call.failures + 1, recorded.error):
        return replace(made, retry_at_us=recorded.retry_at_us)
    return made


def _diced(
    at_us: int, event: Event, policy: RetryPolicy, failures: int, error: ErrorInfo | None
) -> bool:
    """Whether the dice can have said that the next attempt is due at that time."""
    assert error is not None
    waits = [retry.delay_s(policy, failures, error, dice) or 0.0 for dice in (0.0, 1.0)]
    waited_us = at_us - event.at_us
    return waits[0] * 1_000_000 - SLACK_US <= waited_us <= waits[1] * 1_000_000 + SLACK_US


def _untouched(before: State) -> bool:
    turn = before.turn
    return turn is not None and not turn.compactions and not turn.repairs and not turn.remedy


def is_fact(event: Event, previous: Event | None) -> bool:
    """Whether an event came from outside the engine: from people, stores, sandboxes, crashes."""
    match event.payload:
        case e.EnvironmentSnapshotted(call_id=call_id):
            return not call_id
        case e.EnvironmentRestored(call_id=call_id):
            opened = previous is not None and isinstance(previous.payload, e.EnvironmentOpened)
            return opened and not call_id  # made from what is stored, when it was opened
        case e.ActionResolved(decision=decision):
            return decision != "expired"
        case e.TimerFired(signal=signal):
            # A letter ended the waiting, unless its signal lay there before the waiting began.
            came = previous is not None and isinstance(previous.payload, e.SignalReceived)
            return bool(signal) and came and previous is not None and previous.seq == signal
        case payload:
            return not isinstance(payload, DECIDED)


def letter_of(payload: Payload) -> Post | None:
    """Return the letter that an event stands for, where the engine decides what it means."""
    match payload:
        case e.ActionResolved() as p:
            return Decide(
                p.action_id,
                p.decision,
                p.by,
                p.reason,
                "",
                p.arguments,
                p.digest,
                p.result,
                p.grant,
            )
        case e.ToolLateResult() as p:
            return Late(p.call_id, p.attempt, p.status, p.text)
        case e.SignalReceived() as p:
            return Signalled(p.name, p.text, p.by)
        case _:
            return None


def meant(payload: Payload, state: State) -> tuple[Payload, ...]:
    """Return what the engine makes of the letter behind an event; the event itself if none."""
    letter = letter_of(payload)
    key = payload.key if isinstance(payload, e.SignalReceived) else ""
    return (payload,) if letter is None else accept(state, letter, key)


def stops_outside(error: ErrorInfo | None, state: State, trust: Trust) -> bool:
    """Whether a turn ended at a limit that this journal alone cannot show: a price nobody handed
    in, or what other sessions of its tree had used up.
    """
    limits = ["usd"] if not trust.money else []
    if in_tree(state):
        limits = ["usd", "tokens", "steps", "tool_calls"]
    codes = [due.limit_reached(each, "").code for each in limits]
    if not trust.money:
        codes.append("E-PRICE-UNKNOWN")
    return error is not None and error.code in codes


def in_tree(state: State) -> bool:
    """Whether a session shares its budget with others."""
    return bool(state.parent) or has_subagents(state.spec)
