"""Two sessions side by side: what they share, and what became different. Pure data.

Made for forks and for two runs of the same task; any two sessions can be compared.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.core.agent import AgentSpec
from perdure.core.content import ContextItem
from perdure.core.context import Transcript
from perdure.core.errors import NotFound
from perdure.core.events import Event
from perdure.core.state import Spent, State
from perdure.core.step import status
from perdure.core.timeline import effective
from perdure.engine.counterfactual import first_difference
from perdure.engine.journal import events_of, load
from perdure.engine.wording import changed
from perdure.ports.sandbox import Change
from perdure.ports.store import Store

Changes = Callable[[str, str], Awaitable[Sequence[Change]]]
_PAGE = 1000


class Side(msgspec.Struct, frozen=True):
    """One of the two, as it was at event `at`."""

    session: str
    at: int
    agent: str
    version: str
    model: str
    status: str
    transcript: tuple[ContextItem, ...]
    values: Mapping[str, Any]
    spent: Spent
    snapshot: str


class Changed(msgspec.Struct, frozen=True):
    """One named value that differs. None where a side does not have it."""

    name: str
    a: Any
    b: Any


class Comparison(msgspec.Struct, frozen=True):
    """What two sessions share and where they differ.

    `shared_events` are the events at the beginning that are the same bytes, as after a fork;
    `shared_items` are the items at the beginning of the transcripts that say the same. `files`
    go from `a` to `b`; None where nobody could say.
    """

    a: Side
    b: Side
    shared_events: int
    shared_items: int
    values: tuple[Changed, ...]
    definition: tuple[Changed, ...]
    files: tuple[Change, ...] | None


async def compare(
    store: Store,
    a: str,
    b: str,
    at_a: int | None = None,
    at_b: int | None = None,
    changes: Changes | None = None,
) -> Comparison:
    """Compare session `a` with `b`, each at an event or as it is now.

    `changes` says what differs between two snapshots (`Sandbox.changes` does). Raises `NotFound`.
    """
    state_a, side_a = await _side(store, a, at_a)
    state_b, side_b = await _side(store, b, at_b)
    parted = first_difference(side_a.transcript, side_b.transcript)
    return Comparison(
        a=side_a,
        b=side_b,
        shared_events=await _shared(store, side_a, side_b),
        shared_items=len(side_a.transcript) if parted is None else parted,
        values=_changed(side_a.values, side_b.values),
        definition=_changed(_plain(state_a.spec), _plain(state_b.spec)),
        files=await _files(side_a.snapshot, side_b.snapshot, changes),
    )


async def _side(store: Store, session: str, at: int | None) -> tuple[State, Side]:
    state, _, _ = await load(store, session, at)
    if state.seq == 0:
        raise NotFound("E-SESSION-UNKNOWN", f"There is no session {session}.", "perdure ls")
    if at is not None and state.seq != at:
        raise NotFound(
            "E-EVENT-UNKNOWN", f"{session} has no event {at}.", f"perdure show {session}"
        )
    events: list[Event] = []
    async for event, _ in events_of(store, session):
        if event.seq > state.seq:
            break
        events.append(event)
    side = Side(
        session=session,
        at=state.seq,
        agent=state.spec.name,
        version=state.version,
        model=state.spec.model,
        status=status(state),
        transcript=tuple(Transcript(effective(events)).items),
        values={name: msgspec.json.decode(raw) for name, raw in state.values.items()},
        spent=state.spent,
        snapshot=state.snapshot,
    )
    return state, side


async def _shared(store: Store, a: Side, b: Side) -> int:
    """Count the records at the beginning that are the same bytes."""
    seq, most = 0, min(a.at, b.at)
    while seq < most:
        limit = min(_PAGE, most - seq)
        mine = await store.read(a.session, seq, limit)
        other = await store.read(b.session, seq, limit)
        for one, two in zip(mine, other, strict=True):
            if one.hash != two.hash:
                return seq
            seq += 1
    return seq


async def _files(a: str, b: str, changes: Changes | None) -> tuple[Change, ...] | None:
    if a == b:
        return ()
    if changes is None or not a or not b:
        return None
    return tuple(await changes(a, b))


def _plain(spec: AgentSpec) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(spec, builtin_types=(msgspec.Raw,))
    schemas = {t.name: msgspec.json.decode(t.input_schema) for t in spec.tools}
    tools = plain.get("tools", ())
    plain["tools"] = {t["name"]: {**t, "input_schema": schemas[t["name"]]} for t in tools}
    return plain


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Changed, ...]:
    return tuple(Changed(name, mine, other) for name, mine, other in changed(dict(a), dict(b)))
