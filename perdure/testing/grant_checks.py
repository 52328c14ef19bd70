"""What must hold of every journal in which something was allowed: checked without the engine.

Used beside `invariants.py`, for journals that hold grants.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from perdure.core import events as e
from perdure.core.agent import ToolSpec, Verdict
from perdure.core.codec import arguments_of
from perdure.core.conditions import parse
from perdure.core.content import ToolCall
from perdure.core.events import Event
from perdure.core.grants import Grant
from perdure.core.policy import approval_digest, decide
from perdure.core.state import State
from perdure.engine.journal import events_of, follow
from perdure.ports.store import Store


def unfounded(
    steps: Sequence[tuple[Event, State]],
    made: Mapping[str, tuple[Grant, int]],
    people: Iterable[str],
) -> Iterator[str]:
    """Yield what of a journal nobody had allowed.

    `steps` are its events with the state after each, `made` the grants that all journals of the
    store say were decided on, with the time of it, and `people` those who may decide.
    """
    state = State()
    permits: dict[str, str] = {}
    for event, after in steps:
        match event.payload:
            case e.ToolRequested() as p:
                permits.pop(p.call_id, None)
                yield from _requested(event, p, state, made)
                if p.verdict is Verdict.ALLOW:
                    permits[p.call_id] = p.digest
            case e.ActionResolved(decision="allow" | "rerun") as p:
                if p.by not in people:
                    yield f"event {event.seq}: {p.by!r} is nobody who may decide"
                permits[state.actions[p.action_id].call_id] = p.digest
            case e.ToolStarted(call_id=call_id, attempt=1):
                yield from _started(event, call_id, state, permits.pop(call_id, None))
            case _:
                pass
        state = after


def _requested(
    event: Event, p: e.ToolRequested, state: State, made: Mapping[str, tuple[Grant, int]]
) -> Iterator[str]:
    call, spec = _call(state, p.call_id), state.spec.tool(p.tool)
    assert spec is not None
    arguments = arguments_of(call.arguments)
    verdict = decide(spec, state.spec.permissions, arguments).verdict
    if p.verdict is not verdict and (p.grant is None or verdict is not Verdict.ASK):
        yield f"event {event.seq}: written is {p.verdict.value}, the rules say {verdict.value}"
    if p.grant is None:
        return
    known, at_us = made.get(p.grant.name, (None, 0))
    if known != p.grant or at_us > event.at_us:
        yield f"event {event.seq}: nobody had decided on the grant {p.grant.name}"
    if p.grant.scope == "session" and state.grants.get(p.grant.name) != p.grant:
        yield f"event {event.seq}: this session does not hold the grant {p.grant.name}"
    yield from (f"event {event.seq}: {why}" for why in _misfits(p.grant, spec, state, arguments))
    if p.grant.until_us is not None and event.at_us >= p.grant.until_us + 1_000_000:
        yield f"event {event.seq}: the grant had ended"


def _misfits(
    grant: Grant, spec: ToolSpec, state: State, arguments: Mapping[str, object]
) -> Iterator[str]:
    if (grant.tool, grant.digest) != (spec.name, spec.digest):
        yield "the grant was for another definition of the tool"
    if grant.agent not in ("", state.spec.name):
        yield "the grant was for another agent"
    if grant.when and parse(grant.when).holds(arguments) is not True:
        yield "the arguments do not certainly fit the grant"


def _started(event: Event, call_id: str, state: State, permit: str | None) -> Iterator[str]:
    call = _call(state, call_id)
    spec = state.spec.tool(call.tool)
    if permit is None:
        yield f"event {event.seq}: {call_id} started and nobody had allowed it"
    elif spec is not None and approval_digest(spec, call.arguments) != permit:
        yield f"event {event.seq}: {call_id} is not what was allowed"


def _call(state: State, call_id: str) -> ToolCall:
    assert state.turn is not None
    return state.turn.calls[call_id].call


async def check_store(store: Store, people: Iterable[str]) -> list[str]:
    """Return what is unfounded in any journal of a store."""
    made: dict[str, tuple[Grant, int]] = {}
    journals: dict[str, list[tuple[Event, State]]] = {}
    for row in await store.sessions():
        state, steps = State(), journals.setdefault(row.id, [])
        async for event, _ in events_of(store, row.id):
            state = await follow(store, row.id, state, event)
            steps.append((event, state))
            if isinstance(event.payload, e.ActionResolved) and event.payload.grant is not None:
                made.setdefault(event.payload.grant.name, (event.payload.grant, event.at_us))
    allowed = tuple(people)
    return [
        f"{name}: {finding}"
        for name, steps in journals.items()
        for finding in unfounded(steps, made, allowed)
    ]
