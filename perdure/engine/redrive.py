"""Errors over all sessions: what went wrong, who still stands there, and moving them on again.

The index says what happened; whether a session still stands where an error stopped it is asked
of the session itself, so one that went on is never counted as waiting.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from perdure.core import events as e, step as due
from perdure.core.agent import Effect
from perdure.core.errors import Conflict, ErrorInfo, InvalidRequest, NotFound, PerdureError
from perdure.core.events import Event, SessionUpdated
from perdure.core.evolve import evolve
from perdure.core.inbox import Say, Update
from perdure.core.state import Phase, State
from perdure.core.step import next_step
from perdure.core.timeline import effective
from perdure.engine.branching import Again, again
from perdure.engine.errors import info_of, rows_of, unknown_outcome
from perdure.engine.journal import events_of, load
from perdure.engine.session import Host, Session
from perdure.ports.store import ErrorRow, SessionRow, Store

_STOPPED = ("failed", "budget", "parked")


class ErrorGroup(msgspec.Struct, frozen=True):
    """One cause over all sessions, in the words of its last occurrence. `count` is how often it
    occurred, `sessions` in how many, `waiting` how many of them still stand there.
    """

    fingerprint: str
    code: str
    kind: str
    subject: str
    origin: str
    message: str
    count: int
    sessions: int
    waiting: int
    first_at_us: int
    last_at_us: int


class Occurrence(msgspec.Struct, frozen=True):
    """An error in one session. `waits` says that the session still stands there."""

    row: ErrorRow
    status: str
    waits: bool


class Planned(msgspec.Struct, frozen=True):
    """What moving a session on would do. `seq` is the event at which it stands.

    `will` says it in words, `calls` are the tool calls that are open with what becomes of each.
    Without `go` nothing would: `will` says why.
    """

    session: str
    seq: int
    status: str
    go: bool
    will: str
    calls: tuple[Again, ...] = ()


class Redriven(msgspec.Struct, frozen=True):
    """What was done about a session: resumed, repeated (it was asked for before), skipped."""

    plan: Planned
    outcome: str
    why: str = ""


async def grouped(store: Store) -> list[ErrorGroup]:
    """Return all errors by their cause: first where sessions wait, then the last seen first."""
    rows, standing = await _index(store)
    causes: dict[str, list[ErrorRow]] = {}
    for row in rows:
        causes.setdefault(row.fingerprint, []).append(row)
    groups = [_group(each, standing) for each in causes.values()]
    return sorted(groups, key=lambda g: (-g.waiting, -g.last_at_us, g.fingerprint))


async def occurrences(store: Store, fingerprint: str) -> list[Occurrence]:
    """Return where the error occurred, last seen first. Raises `NotFound` (E-ERROR-UNKNOWN)."""
    rows, standing = await _index(store, fingerprint)
    if not rows:
        raise NotFound(
            "E-ERROR-UNKNOWN", f"No session has met an error {fingerprint}.", "perdure errors"
        )
    sessions = {row.id: row for row in await store.sessions()}
    found = [
        Occurrence(row, sessions[row.session].status, fingerprint in standing[row.session])
        for row in rows
        if row.session in sessions
    ]
    return sorted(found, key=lambda o: (-o.row.last_at_us, o.row.session))


async def whole_error(store: Store, row: ErrorRow) -> ErrorInfo | None:
    """Return the last occurrence as it was journaled, with the vendor's raw body."""
    async for event, _ in events_of(store, row.session, row.seq - 1, None):
        return info_of(event)
    return None


async def plan_redrive(store: Store, fingerprint: str) -> list[Planned]:
    """Say for each session that waits for this cause what moving it on would run again.

    Raises `NotFound` (E-ERROR-UNKNOWN).
    """
    waiting = [o for o in await occurrences(store, fingerprint) if o.waits]
    return [await _planned(store, o.row.session) for o in waiting]


async def redrive(
    engine: Host,
    fingerprint: str,
    *,
    rate_per_s: float,
    only: Collection[str] | None = None,
    update: SessionUpdated | None = None,
    by: str = "",
) -> AsyncIterator[Redriven]:
    """Resume every session that waits for this cause, or those in `only`, no faster than that.

    `update` is put in force first: the fix. Each session is looked at anew when its turn comes,
    because it may have moved on meanwhile; asked for twice, it is resumed once. Raises `NotFound`
    (E-ERROR-UNKNOWN), `InvalidRequest` (E-REDRIVE-RATE).
    """
    if not rate_per_s > 0:
        raise InvalidRequest("E-REDRIVE-RATE", f"{rate_per_s:g} sessions a second is no rate.")
    store, clock = engine.kit.store, engine.kit.clock
    waiting = [o.row for o in await occurrences(store, fingerprint) if o.waits]
    next_at = clock.monotonic()
    for row in waiting:
        if only is not None and row.session not in only:
            continue
        await asyncio.sleep(max(0.0, next_at - clock.monotonic()))
        plan = await _planned(store, row.session)
        if fingerprint not in await _standing(store, await store.session(row.session)):
            yield Redriven(plan, "skipped", "it has moved on by itself")
        elif not plan.go:
            yield Redriven(plan, "skipped", plan.will)
        else:
            yield await _resume(engine, plan, row, update, by)
            next_at = max(next_at, clock.monotonic() - 1 / rate_per_s) + 1 / rate_per_s


async def _resume(
    engine: Host, plan: Planned, row: ErrorRow, update: SessionUpdated | None, by: str
) -> Redriven:
    session = Session(engine, plan.session)
    # The same standstill has the same key, whoever asks: two people at once resume it once.
    key = f"redrive:{row.fingerprint}:{row.seq}"
    try:
        if update is not None:
            await session.post(Update(update), f"{key}:update")
        fresh = await session.post(Say("resume", by=by), key)
    except Conflict:
        return Redriven(plan, "repeated", "somebody else asked for it before")
    except NotFound as error:
        return Redriven(plan, "skipped", error.message)
    if not fresh:
        return Redriven(plan, "repeated", "it was asked for before and has not begun yet")
    return Redriven(plan, "resumed")


async def _index(
    store: Store, fingerprint: str | None = None
) -> tuple[list[ErrorRow], Mapping[str, set[str]]]:
    """Return the rows of the index (of one error), and for what each of their sessions waits."""
    every: dict[str, list[ErrorRow]] = {}
    for row in await store.errors():
        every.setdefault(row.session, []).append(row)
    sessions = {row.id: row for row in await store.sessions()}
    rows, standing = [], {}
    for session, errors in every.items():
        wanted = [r for r in errors if fingerprint in (None, r.fingerprint)]
        if wanted:
            rows += wanted
            standing[session] = await _standing(store, sessions.get(session))
    return rows, standing


async def _standing(store: Store, session: SessionRow | None) -> set[str]:
    """Return the errors that a session stands at: none when it works, rests or was paused."""
    if session is None:
        return set()
    if session.status in _STOPPED:
        if session.parent and session.status != "parked":
            return set()  # a subagent's turn is over: its error was answered to its parent
        return {session.fingerprint}
    if session.status == "waiting":
        return await _left_to_people(store, session.id)
    return set()


async def _left_to_people(store: Store, session: str) -> set[str]:
    """Return the causes for which calls wait for a person: of unknown outcome, or failed."""
    try:
        state, _, _ = await load(store, session)
        open_ = [call for call in state.open_calls if call.phase is Phase.UNKNOWN]
        failed = {call.call.id for call in open_ if call.failures}
        causes = await _held(store, session, failed) if failed else set()
    except PerdureError:
        return set()
    return causes | {unknown_outcome(call.call.tool) for call in open_ if not call.failures}


async def _held(store: Store, session: str, calls: Collection[str]) -> set[str]:
    """Return why these calls were last held, each after an attempt that failed."""
    last: dict[str, set[str]] = {}
    for event in effective([event async for event, _ in events_of(store, session)]):
        match event.payload:
            case e.ToolFinished(call_id=call, status="held") if call in calls:
                last[call] = {row.fingerprint for row in rows_of(session, [event])}
    return set().union(*last.values())


def _group(rows: Sequence[ErrorRow], standing: Mapping[str, set[str]]) -> ErrorGroup:
    last = max(rows, key=lambda row: row.last_at_us)
    return ErrorGroup(
        fingerprint=last.fingerprint,
        code=last.code,
        kind=last.kind,
        subject=_first(row.subject for row in (last, *rows)),
        origin=_first(row.origin for row in (last, *rows)),
        message=last.message,
        count=sum(row.count for row in rows),
        sessions=len(rows),
        waiting=sum(row.fingerprint in standing[row.session] for row in rows),
        first_at_us=min(row.first_at_us for row in rows),
        last_at_us=last.last_at_us,
    )


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


async def _planned(store: Store, session: str) -> Planned:
    try:
        state, _, _ = await load(store, session)
    except PerdureError as error:
        return Planned(session, 0, "unreadable", go=False, will=error.message)
    go, will = _resumed(state)
    calls = tuple(again(call, {}, state) for call in state.open_calls)
    return Planned(session, state.seq, due.status(state), go, will, calls)


def _resumed(state: State) -> tuple[bool, str]:
    """Say what is due once `state` is told to go on, and whether that is anything."""
    if state.closed:
        return False, "it is closed"
    told = Event(state.seq + 1, "", state.updated_at_us, 0, e.InputAccepted("resume"))
    then = evolve(state, told)
    step, before = next_step(then), ""
    if isinstance(step, due.RestoreWorkspace):
        step, before = next_step(replace(then, restore_due=False)), "the workspace is taken back; "
    if isinstance(step, due.Rest | due.Ask | due.Sleep):
        return False, _why_not(step)
    return True, before + _will(step, state)


def _why_not(step: due.Rest | due.Ask | due.Sleep) -> str:
    if isinstance(step, due.Ask):
        return "a person owes it a decision"
    if isinstance(step, due.Sleep):
        return "it sleeps, and wakes by itself"
    return f"nothing is left to be done: it is {step.why}"


def _will(step: due.Step, state: State) -> str:
    model = state.spec.model
    match step:
        case due.BeginTurn():
            return f"a new turn begins: {model} is called with the transcript as it is"
        case due.CallModel():
            return f"{model} is called again"
        case due.RecoverModel():
            return f"the lost call of {model} is booked at its worst, and it is called again"
        case due.RequestTools():
            return "the permissions decide its calls"
        case due.Settle():
            return "the model is told what was decided"
        case due.RunTools(calls=calls):
            return f"{_counted(len(calls))} will run"
        case due.RecoverTools(calls=calls):
            once = sum(call.effect is Effect.ONCE for call in calls)
            asks = f"; {once} only after a probe or a decision" if once else ""
            return f"{_counted(len(calls))} in flight will be recovered{asks}"
        case due.EndTurn(status=status):
            return f"its turn ends as {status}"
        case _:
            return "it goes on"


def _counted(number: int) -> str:
    return "1 call" if number == 1 else f"{number} calls"
