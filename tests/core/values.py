"""Values for property tests: any payload of any event type, and journals that could have been."""

import types
import typing
from enum import Enum
from random import Random
from typing import Any, Literal, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from perdure.core import events as e
from perdure.core.agent import AgentSpec, Effect, Limits, ToolSpec, Verdict
from perdure.core.codec import encode
from perdure.core.content import Content, ReplyItem, Text, ToolCall, Usage, UserItem
from perdure.core.errors import CorruptJournal, error_info
from perdure.core.events import Event, Payload
from perdure.core.evolve import evolve
from perdure.core.grants import Grant
from perdure.core.state import Phase, State


def joined(text: str) -> str:
    """Return `text` with surrogates that make a pair joined: in JSON they are one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


TEXT = st.text(st.characters(exclude_categories=()), max_size=12).map(joined) | st.sampled_from(
    ["\0", "\ud800", "a\udcffb", "\ue000d800", "\U0001f600", "\\ud800", "{}"]
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
SIMPLE: dict[object, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(0, 2**53),
    float: st.floats(0, 1e9, allow_nan=False).map(lambda x: round(x, 3)),
    bool: st.booleans(),
    type(None): st.none(),
    msgspec.Raw: JSON.map(encode).map(msgspec.Raw),
    Any: JSON,
}


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a type as our structs use them."""
    if kind in SIMPLE:
        return SIMPLE[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([any_of(each) for each in inner])
    if origin is tuple:
        return st.lists(any_of(inner[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXT, any_of(inner[1]), max_size=2)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    return struct_of(kind)


def struct_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for one of our structs, each field of any value."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{n: any_of(hints[n]) for n in kind.__struct_fields__})


PAYLOADS: st.SearchStrategy[Payload] = st.one_of([struct_of(t) for t in get_args(Payload)])
EVENTS = st.builds(
    Event,
    st.integers(1, 10**9),
    st.just("01h455vb4pex5vsknk084sn02q"),
    st.integers(0, 2**53),
    st.integers(0, 10**6),
    PAYLOADS,
)

SCHEMA = msgspec.Raw(b'{"type":"object"}')
SPEC = AgentSpec(
    "agent",
    "scripted:play",
    tools=tuple(ToolSpec(f.value, f"a tool: {f.value}", SCHEMA, f) for f in Effect),
    limits=Limits(steps=50, tool_calls=50),
)
ERROR = error_info("E-MODEL-RATE", "model", "slow down", retryable=True)


def event_of(state: State, payload: Payload) -> Event:
    """Return `payload` as the event that comes next."""
    turn = state.turn.number if state.turn else 0
    if isinstance(payload, e.TurnStarted):
        turn = state.turns + 1
    seq = state.seq + 1
    return Event(seq, f"{seq:026}", 1_700_000_000_000_000 + seq * 1000, turn, payload)


def journal(*payloads: Payload) -> list[Event]:
    """Return payloads as a journal, with session.created before them."""
    state, events = State(), []
    for payload in (e.SessionCreated("ses_1", SPEC), *payloads):
        events.append(event_of(state, payload))
        state = evolve(state, events[-1])
    return events


def walk(seed: int, length: int = 60) -> list[Event]:
    """Return a journal that might have come about: a random walk over what may follow."""
    dice = Random(seed)
    events = journal()
    state = evolve(State(), events[0])
    for _ in range(length * 4):
        event = event_of(state, _maybe_next(dice, state))
        try:
            state = evolve(state, event)
        except CorruptJournal:
            continue
        events.append(event)
        if len(events) >= length:
            break
    return events


def _maybe_next(dice: Random, state: State) -> Payload:
    """Return something that often may follow."""
    if dice.random() < 0.25 or (state.turn is None and not state.queue):
        return dice.choice(_anytime(dice, state))
    if state.turn is None:
        return e.TurnStarted(dice.choice(state.queue).seq)
    if state.turn.model is not None:
        return _answer(dice, state)
    calls = state.open_calls
    if calls and dice.random() < 0.9:
        return _of_call(dice, state, dice.choice(calls).call.id)
    if state.turn.owes_reply and not calls and dice.random() < 0.8:
        steers = tuple(q.seq for q in state.queue if q.kind == "steer")
        return e.ModelRequested("scripted:play", state.turn.failures + 1, steers, 100, 300, 5)
    status: e.TurnStatus = dice.choice(("completed", "failed", "cancelled", "budget"))
    return e.TurnEnded(status, ERROR if status == "failed" else None)


def _anytime(dice: Random, state: State) -> list[Payload]:
    content: Content = (Text(f"word {state.seq}"),)
    kinds: tuple[e.InputKind, ...] = ("message", "steer", "interrupt", "pause", "resume")
    return [
        *(e.InputAccepted(dice.choice(kinds), content, f"k{state.seq}", "anna") for _ in range(4)),
        e.SessionRecovered(state.seq, state.recoveries + 1),
        e.SessionUpdated("anna", limits=Limits(steps=dice.randrange(1, 60))),
        e.SessionParked(ERROR),
        e.StateSet("mood", msgspec.Raw(dice.choice((b"null", b"[1]", b'"\\ud800"')))),
        e.NoteRecorded("a note"),
        e.EnvironmentOpened("bubblewrap", ("network",), (), "/w"),
        e.EnvironmentSnapshotted(f"snap{state.seq}"),
        e.EnvironmentRestored(f"snap{state.seq}", "t1.1", 1, ("a",)),
        e.EnvironmentLost(ERROR),
        e.ToolLateResult("t1.1", 1, "ok", "late"),
        e.SignalReceived(dice.choice("xy"), f"signal {state.seq}", f"k{state.seq}", "anna"),
        e.ModelDelta("text", f"piece {state.seq}"),
        e.ContextAdded((UserItem(content),), f"k{state.seq}", "anna"),
        e.ContextAdded((), f"k{state.seq}", "anna", (msgspec.Raw(b'{"type":"odd"}'),)),
        e.ContextDropped(max(1, state.seq), 0, "anna"),
        e.GrantRevoked(next(iter(state.grants), "none"), "anna"),
        e.ContextCompacted(max(1, state.seq), f"so far {state.seq}"),
        e.ContextCompactAsked("anna"),
        e.ContextRepaired(max(1, state.seq), "not readable"),
        e.SessionClosed("anna") if dice.random() < 0.05 else e.NoteRecorded("still open"),
    ]


def _answer(dice: Random, state: State) -> Payload:
    assert state.turn is not None
    status: e.ReplyStatus = dice.choice(("ok", "ok", "ok", "error", "incomplete", "lost"))
    if dice.random() < 0.3:
        return e.ModelDelta("text", f"piece {state.seq}")
    if status != "ok":
        retry = dice.choice((None, 5)) if status != "lost" else None
        error = None if status == "lost" else ERROR
        return e.ModelResponded(status, usage=Usage(10, 5), error=error, retry_at_us=retry)
    first, count = state.turn.next_call, dice.randrange(4)
    calls = (
        ToolCall(f"t{state.turn.number}.{first + i}", dice.choice(SPEC.tools).name, "{}", f"v{i}")
        for i in range(count)
    )
    raw = (msgspec.Raw(b'{"said":"\\ud800"}'),)
    items: tuple[ReplyItem, ...] = (Text(f"reply at {state.seq}"), *calls)
    return e.ModelResponded("ok", items, raw, "sim", "sim", usage=Usage(100, 20))


def _of_call(dice: Random, state: State, call_id: str) -> Payload:
    assert state.turn is not None
    call = state.turn.calls[call_id]
    action = next((a for a in state.actions.values() if a.call_id == call_id), None)
    spec = SPEC.tool(call.call.tool)
    effect = spec.effect if spec else Effect.ONCE
    if action is not None:
        answers: tuple[e.Decision, ...] = ("allow", "deny", "expired", "done", "failed", "rerun")
        grant = Grant(f"g{state.seq}", call.call.tool, "d") if dice.random() < 0.3 else None
        return e.ActionResolved(action.id, dice.choice(answers), "anna", action.digest, grant=grant)
    match call.phase:
        case Phase.PROPOSED:
            verdict = dice.choice(tuple(Verdict))
            return e.ToolRequested(call_id, call.call.tool, effect, verdict, f"d{call_id}")
        case Phase.READY if dice.random() < 0.2:
            return e.TimerSet(f"w{state.next_timer}", call_id, 1, dice.choice("xy"))
        case Phase.READY if dice.random() < 0.2:
            return e.ActionRequested(f"a{state.next_action}", "answer", call_id, "?", call.digest)
        case Phase.SLEEPING:
            timer = next(t for t in state.timers.values() if t.call_id == call_id)
            return e.TimerFired(timer.id, next((s.seq for s in state.signals), 0), "awake")
        case Phase.READY:
            return e.ToolStarted(call_id, call.attempt + 1, 1, state.snapshot)
        case Phase.ASKING | Phase.UNKNOWN:
            kind: e.ActionKind = "approve" if call.phase is Phase.ASKING else "resolve"
            return e.ActionRequested(f"a{state.next_action}", kind, call_id, "may I?", call.digest)
        case Phase.STARTED if dice.random() < 0.2:
            return e.ActionRequested(f"a{state.next_action}", "rollback", call_id, "and now?")
        case _:
            statuses = ("ok", "error", "denied", "cancelled", "unknown", "retry", "held")
            return e.ToolFinished(call_id, dice.choice(statuses), f"result of {call_id}")  # type: ignore[arg-type]


WALKS = st.integers(0, 2**32).map(walk)
