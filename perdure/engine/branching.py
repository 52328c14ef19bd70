"""Taking a session up again differently: what a fork or a rewind would mean, and doing it.

A fork shares the events of its origin and makes its workspace from a stored snapshot, so it costs
the same whatever the length of the past. A rewind appends an event; nothing is deleted.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from perdure.core import events as e
from perdure.core.agent import AgentSpec, Effect
from perdure.core.content import Content
from perdure.core.errors import InvalidRequest, NotFound
from perdure.core.events import Event
from perdure.core.evolve import evolve
from perdure.core.state import CallState, Phase, State
from perdure.core.timeline import effective, left_since
from perdure.engine.journal import Journal, events_of, load
from perdure.engine.kit import Kit
from perdure.ports.store import Store

EDIT: Final = "edit"  # the key of the message that a fork says instead


class Again(msgspec.Struct, frozen=True):
    """A call that is open at the cut. `verdict` is again, decide, ask or told (it does not run: the
    model learns what was decided); `why` says it in words.
    """

    call_id: str
    tool: str
    arguments: str
    verdict: str
    why: str


class Preflight(msgspec.Struct, frozen=True):
    """What going on from event `at` means, before anything is done.

    `from_journal` counts the model calls and tool calls whose results are taken as they are;
    `calls` are those that are open at the cut; `snapshot` is the workspace of that moment.
    """

    session: str
    at: int
    turn_open: bool
    from_journal: dict[str, int]
    calls: tuple[Again, ...]
    snapshot: str
    spent_micro_usd: int


async def preflight(store: Store, session: str, at: int) -> Preflight:
    """Say what going on from event `at` of `session` means. Raises `NotFound`."""
    base, later = await _cut(store, session, at)
    unsafe = left_since(base, later)
    calls = tuple(again(call, unsafe, base) for call in base.open_calls)
    spent = base.spent
    return Preflight(
        session=session,
        at=base.seq,
        turn_open=base.turn is not None,
        from_journal={"model calls": spent.steps, "tool calls": spent.tool_calls},
        calls=calls,
        snapshot=base.snapshot,
        spent_micro_usd=spent.micro_usd,
    )


async def fork(
    kit: Kit,
    source: str,
    at: int,
    name: str,
    agent: AgentSpec | None = None,
    by: str = "",
    said: Content = (),
) -> None:
    """Begin session `name` with the first `at` events of `source`, paused at that moment.

    With `agent` it goes on under another definition; `said` waits there as its next message.
    Raises `NotFound`, `Conflict`.
    """
    base, later = await _cut(kit.store, source, at)
    if base.spec.environment.in_place:
        spec = agent or base.spec
        where = msgspec.structs.replace(spec.environment, in_place=False)
        agent = msgspec.structs.replace(spec, environment=where)
    unsafe = tuple(left_since(base, later))
    now, _, _ = await load(kit.store, source)
    imported = min(now.imported, base.seq)  # also where the fork begins before the import was said
    imported_by = now.imported_by if imported else ""
    await kit.store.fork(source, base.seq, name)
    claim = await kit.store.claim(name)
    try:
        journal = Journal(kit, claim, base, 0)
        journal.append(
            e.SessionForked(name, source, base.seq, by, agent, unsafe, imported, imported_by)
        )
        if said:  # a message ends a pause, and this one waits for whoever resumes the fork
            message = e.InputAccepted("message", said, EDIT, by)
            journal.append(message, e.InputAccepted("pause", by=by))
        await journal.durable()
        await journal.close()
    finally:
        await kit.store.release(claim)


async def before_message(store: Store, session: str, at: int) -> int:
    """Return the event before the last message at or before event `at`: where a fork begins that
    says something else instead. Raises `InvalidRequest` (E-FORK-EDIT) when there is none.
    """
    events = [event async for event, _ in events_of(store, session) if event.seq <= at]
    for event in reversed(effective(events)):
        if isinstance(event.payload, e.InputAccepted) and event.payload.kind == "message":
            return event.seq - 1
    raise InvalidRequest(
        "E-FORK-EDIT",
        f"{session} has no message at or before event {at} that could be said in other words.",
        f"perdure show {session} --events",
    )


async def _cut(store: Store, session: str, at: int) -> tuple[State, Sequence[Event]]:
    base, later = await cut(store, session, at)
    if base.seq == 0:
        raise NotFound("E-SESSION-UNKNOWN", f"There is no session {session}.", "perdure ls")
    if base.seq < at or at < 1:
        raise NotFound(
            "E-EVENT-UNKNOWN", f"{session} has no event {at}.", f"perdure show {session} --events"
        )
    if base.closed:
        raise InvalidRequest("E-SESSION-CLOSED", f"{session} is closed at event {at}.")
    return base, later


async def cut(store: Store, session: str, at: int) -> tuple[State, list[Event]]:
    """Return the state of the moment of event `at`, and what came later.

    The end of a call and the workspace that it left behind are one moment: a cut between them
    is made after both.
    """
    base, hash_, _ = await load(store, session, at)
    later = [event async for event, _ in events_of(store, session, base.seq, hash_)]
    if (
        later
        and isinstance(later[0].payload, e.EnvironmentSnapshotted)
        and later[0].payload.call_id
    ):
        base = evolve(base, later.pop(0))
    return base, later


def _is_for_clients(state: State, call: CallState) -> bool:
    tool = state.spec.tool(call.call.tool)
    return tool is not None and tool.client


def again(call: CallState, unsafe: Mapping[str, e.ToolFinished | None], state: State) -> Again:
    """Say what becomes of an open call when the session goes on from here."""
    name = call.call.id
    if name in unsafe:
        done = unsafe[name]
        result = f"it ended {done.status} there" if done else "its outcome is not known"
        verdict, why = "decide", f"it was made after this moment, and {result}"
    elif state.awaits_answer(name) or (call.phase is Phase.READY and _is_for_clients(state, call)):
        verdict, why = "ask", "it waits for a client, whatever was answered elsewhere"
    elif call.phase in (Phase.ASKING, Phase.PROPOSED) or (call.approved and not call.attempt):
        verdict, why = "ask", "the permissions decide it anew"
    elif call.phase in (Phase.REFUSED, Phase.RESOLVED):
        verdict, why = "told", "it was decided on"
    elif call.phase is Phase.UNKNOWN and call.failures:
        verdict, why = "decide", "it failed, and a person decides what becomes of it"
    elif call.phase is Phase.UNKNOWN or (
        call.effect is Effect.ONCE and call.attempt > 0 and call.phase is Phase.READY
    ):
        verdict, why = "decide", "its outcome is not known"
    elif call.effect is Effect.ONCE and call.phase is Phase.STARTED:
        verdict, why = "decide", "it was in flight at this moment"
    else:
        verdict = "again"
        why = {
            Effect.READ: "it only reads",
            Effect.IDEMPOTENT: "the same key does it once",
            Effect.CONTAINED: "the workspace is taken back first",
            Effect.ONCE: "it had not left yet",
        }[call.effect]
    return Again(name, call.call.tool, call.call.arguments, verdict, why)
