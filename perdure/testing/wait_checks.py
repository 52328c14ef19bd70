"""What must hold where calls wait, checked against the journals and what people really said."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from perdure.core import events as e
from perdure.core.agent import Effect, RetryPolicy, Verdict
from perdure.core.content import ToolCall
from perdure.core.events import Event
from perdure.core.grants import Grant
from perdure.core.state import State
from perdure.testing import invariants
from perdure.testing.grant_checks import unfounded
from perdure.testing.invariants import Check, Run

BUSY: Final = "E-SIM-BUSY"  # raised: the call certainly had no effect, and the error can pass
TOLD: Final = "E-SIM-TOLD"  # came as a result: nobody knows what the call did before


class WaitRun(Run, Protocol):
    """A run with calls that wait, come to its end."""

    def states(self, session: str) -> list[State]: ...


def check_waits(run: WaitRun) -> None:
    """Check every invariant on every session; findings go to the world's list of violations."""
    made = _made(run)
    for session in run.sessions:
        events = run.world.events(session)
        for name, check in {**invariants.CHECKS, **CHECKS}.items():
            for finding in check(run, session, events):
                run.world.violated(name, f"{session}: {finding}")
        steps = list(zip(events, run.states(session)[1:], strict=True))
        for finding in unfounded(steps, made, ("user",)):
            run.world.violated("allowed", f"{session}: {finding}")


def _made(run: Run) -> dict[str, tuple[Grant, int]]:
    """Return all grants that somebody decided on, with the time of it."""
    made: dict[str, tuple[Grant, int]] = {}
    for session in run.sessions:
        for event in run.world.events(session):
            match event.payload:
                case e.ActionResolved(decision="allow", grant=Grant() as grant):
                    made.setdefault(grant.name, (grant, event.at_us))
                case _:
                    pass
    return made


def decided(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """Nobody decides in a person's name; what expired had its time; all is decided once."""
    expiry: dict[str, int] = {}
    done: Counter[str] = Counter()
    for event in events:
        match event.payload:
            case e.ActionRequested(action_id=name, expires_at_us=when):
                expiry[name] = when or 0
            case e.ActionResolved(action_id=name, decision=decision, by=by):
                done[name] += 1
                if done[name] > 1:
                    yield f"event {event.seq}: {name} is decided for the second time"
                if decision == "expired":
                    if event.at_us < expiry[name]:
                        yield f"event {event.seq}: {name} expired before its time"
                elif decision == "withdrawn" or by == "late result":
                    pass
                elif (session, name, decision) not in run.world.decided:
                    yield f"event {event.seq}: {decision} of {name} was nobody's decision"
            case _:
                pass


def refused(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """What was denied, or expired, does not run."""
    actions: dict[str, str] = {}
    never: set[str] = set()
    for event in events:
        match event.payload:
            case e.ActionRequested(action_id=name, call_id=call_id):
                actions[name] = call_id
            case e.ActionResolved(action_id=name, decision="deny" | "expired"):
                never.add(actions[name])
            case e.ToolStarted(call_id=call_id) if call_id in never:
                yield f"event {event.seq}: {call_id} runs, and was refused"
            case _:
                pass


def granted(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """What runs by a grant is what a person allowed, and had not taken back."""
    given: dict[str, Grant] = {}
    arguments: dict[str, str] = {}
    for event in events:
        match event.payload:
            case e.ModelResponded(status="ok", items=items):
                arguments |= {i.id: i.arguments for i in items if isinstance(i, ToolCall)}
            case e.ActionResolved(decision="allow", grant=Grant() as grant):
                given[grant.name] = grant
            case e.GrantRevoked(name=name):
                given.pop(name, None)
            case e.ToolRequested(call_id=call_id, tool=tool, grant=Grant() as grant):
                known = given.get(grant.name)
                if known is None or known.tool != tool:
                    yield f"event {event.seq}: nobody granted {grant.name}"
                elif not _holds(known.when, arguments[call_id]):
                    yield f"event {event.seq}: {arguments[call_id]} is not {known.when}"
            case _:
                pass


def _holds(when: str, arguments: str) -> bool:
    if not when:
        return True
    number = json.loads(arguments).get("n")
    if not isinstance(number, int):
        return False
    operator, limit = when.split()[1], int(when.split()[2])
    return {"==": number == limit, ">=": number >= limit, "<": number < limit}[operator]


def answered(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """A call that is left to a client ends with one answer, and that is one somebody gave."""
    asked: dict[str, str] = {}
    said: dict[str, str] = {}
    clients: set[str] = set()
    named = {tool.name for tool in run.state(session).spec.tools if tool.client}
    for event in events:
        match event.payload:
            case e.ModelResponded(status="ok", items=items):
                clients |= {i.id for i in items if isinstance(i, ToolCall) and i.tool in named}
            case e.ActionRequested(action_id=name, kind="answer", call_id=call_id):
                asked[name] = call_id
            case e.ActionResolved(action_id=name, decision=how) as p if name in asked:
                text = p.result if how == "done" else p.reason
                if asked[name] in said:
                    yield f"event {event.seq}: {asked[name]} is answered again"
                said[asked[name]] = text or ""
                if (session, asked[name], text) not in run.world.answers:
                    yield f"event {event.seq}: nobody answered {text!r}"
            case e.ToolStarted(call_id=call_id) if call_id in clients:
                yield f"event {event.seq}: {call_id} is a client's, and ran here"
            case e.ToolFinished(call_id=call_id, status="ok" | "error" as status, text=text):
                read = said.get(call_id, text)
                if text != read and not (status == "error" and text.endswith(f" {read}")):
                    yield f"event {event.seq}: {said[call_id]!r} was read as {text!r}"
            case _:
                pass


def timed(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """A timer fires once, and not before its time unless its signal has come."""
    timers: dict[str, e.TimerSet] = {}
    for event in events:
        match event.payload:
            case e.TimerSet() as p:
                timers[p.timer_id] = p
            case e.TimerFired(timer_id=name, signal=signal):
                timer = timers.pop(name, None)
                if timer is None:
                    yield f"event {event.seq}: {name} fires, and is not set"
                elif not signal and (timer.due_us is None or event.at_us < timer.due_us):
                    yield f"event {event.seq}: {name} fires {event.at_us}, due {timer.due_us}"
            case e.TurnEnded():
                timers.clear()
            case _:
                pass


def signalled(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """A signal is taken once, used once, by a call that waits for it, and not lost."""
    taken: Counter[str] = Counter()
    kept: dict[int, e.SignalReceived] = {}
    waits: dict[str, str] = {}
    for event in events:
        match event.payload:
            case e.SignalReceived() as p:
                taken[p.key] += 1
                kept[event.seq] = p
            case e.TimerSet(timer_id=name, signal=signal):
                waits[name] = signal
            case e.TimerFired(timer_id=name, signal=seq, text=text) if seq:
                used = kept.pop(seq, None)
                if used is None:
                    yield f"event {event.seq}: signal {seq} is used, and is not there"
                elif (used.name, used.text) != (waits[name], text):
                    yield f"event {event.seq}: {used.name} {used.text!r} ended {waits[name]}"
            case _:
                pass
    if [signal.seq for signal in run.state(session).signals] != list(kept):
        yield f"signals {list(kept)} were not used; kept are {run.state(session).signals}"
    for key, (name, kind, _) in run.world.signalled.items():
        if name == session and taken[key] != 1:
            yield f"signal {key} {kind} was acknowledged and taken {taken[key]} times"


def tried(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """A call that failed is tried again as often as its tool says, and not before its time."""
    state = run.state(session)
    failures: Counter[str] = Counter()
    due: dict[str, int] = {}
    tools: dict[str, RetryPolicy | None] = {}
    effects: dict[str, Effect] = {}
    for event in events:
        match event.payload:
            case e.ToolRequested(call_id=call_id, tool=tool, effect=effect):
                effects[call_id] = effect
                spec = state.spec.tool(tool)
                tools[call_id] = spec.retry if spec else None
            case e.ToolFinished(call_id=call_id, status="retry", retry_at_us=when):
                failures[call_id] += 1
                due[call_id] = when or 0
                policy = tools[call_id]
                yield from _may_be_tried(event, effects[call_id])
                if policy is None or failures[call_id] >= policy.attempts:
                    yield f"event {event.seq}: {call_id} failed {failures[call_id]} times: {policy}"
            case e.ToolFinished(call_id=call_id, status="held" | "unknown"):
                failures[call_id] = 0  # what a person decides is another matter
            case e.ToolStarted(call_id=call_id) if event.at_us < due.get(call_id, 0):
                yield f"event {event.seq}: {call_id} is tried before its time"
            case _:
                pass


def _may_be_tried(event: Event, effect: Effect) -> Iterator[str]:
    """Only what can pass is tried again; what may happen once, only where it certainly did not."""
    assert isinstance(event.payload, e.ToolFinished)
    error = event.payload.error
    if error is None or not error.retryable:
        yield f"event {event.seq}: an error that cannot pass is tried again: {error}"
    elif effect is Effect.ONCE and error.code != BUSY:
        yield f"event {event.seq}: a `once` call is tried again after {error.code}"


def used(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """What allows a call allows one attempt: another one needs another word, unless the tool said
    that nothing happened, or its process died over a call that may be repeated.
    """
    actions: dict[str, str] = {}
    may: set[str] = set()
    effects: dict[str, Effect] = {}
    epochs: dict[str, int] = {}
    probed: Counter[str] = Counter()
    for event in events:
        match event.payload:
            case e.ToolRequested(call_id=call_id, effect=effect, verdict=verdict):
                effects[call_id] = effect
                (may.add if verdict is Verdict.ALLOW else may.discard)(call_id)
            case e.ActionRequested(action_id=name, call_id=call_id):
                actions[name] = call_id
            case e.ActionResolved(action_id=name, decision="allow" | "rerun"):
                may.add(actions[name])
            case e.ActionResolved(action_id=name):
                may.discard(actions[name])
            case e.ToolFinished(call_id=call_id, status="retry"):
                may.add(call_id)
            case e.ToolStarted(call_id=call_id, epoch=epoch):
                again = epochs.get(call_id, epoch) < epoch
                if call_id not in may and effects[call_id] is Effect.ONCE:
                    probed[call_id] += 1  # the far end may have said that it did not happen
                    again = probed[call_id] <= run.world.denied_probes[session, call_id]
                if call_id not in may and not again:
                    yield f"event {event.seq}: {call_id} starts again, and nobody allowed that"
                may.discard(call_id)
                epochs[call_id] = epoch
            case _:
                pass


def kept_time(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """A timer is set for the moment that the call named."""
    arguments: dict[str, str] = {}
    for event in events:
        match event.payload:
            case e.ModelResponded(status="ok", items=items):
                arguments |= {i.id: i.arguments for i in items if isinstance(i, ToolCall)}
            case e.TimerSet(call_id=call_id, due_us=due_us, signal=signal):
                asked = json.loads(arguments[call_id])
                seconds = asked.get("timeout_s") if signal else asked["seconds"]
                meant = None if seconds is None else event.at_us + round(seconds * 1_000_000)
                if (due_us, signal) != (meant, asked.get("event", "")):
                    yield f"event {event.seq}: set for {due_us} {signal!r}, asked for {meant}"
            case _:
                pass


def harmless(run: Run, session: str, events: list[Event]) -> Iterator[str]:
    """What was refused, and never started, was not entered either."""
    started = {ev.payload.call_id for ev in events if isinstance(ev.payload, e.ToolStarted)}
    for event in events:
        p = event.payload
        if not isinstance(p, e.ToolFinished) or p.status != "denied" or p.call_id in started:
            continue
        if run.world.performed[session, p.call_id]:
            yield f"event {event.seq}: {p.call_id} happened, and was refused"


CHECKS: Final[Mapping[str, Check]] = {
    "uses": used,
    "moments": kept_time,
    "harmless": harmless,
    "decisions": decided,
    "refusals": refused,
    "grants": granted,
    "answers": answered,
    "timers": timed,
    "signals": signalled,
    "attempts": tried,
}
