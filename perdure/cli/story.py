"""A session's story for `perdure show`: its head, what was done in it, what is due."""

import json as plain_json
from collections import deque
from typing import Final

from perdure.cli.asking import question
from perdure.cli.failing import fields_of, in_words
from perdure.cli.opened import Opened
from perdure.cli.printer import INDENT, Printer
from perdure.cli.screen import Screen
from perdure.cli.text import clip, count, duration, plural, usd
from perdure.cli.wire import plain
from perdure.cli.worker import asked_in
from perdure.core.content import ToolCall
from perdure.core.events import Event, ModelResponded
from perdure.core.state import State
from perdure.core.step import status
from perdure.core.timeline import effective
from perdure.engine.session import Session
from perdure.stores.system import SystemClock

SHOWN: Final = 300


async def taken_back(session: Session, at: int | None = None) -> frozenset[int]:
    """Return which events count no longer because the session was rewound."""
    if not (await session.state(at)).generation:
        return frozenset()
    events = [event async for event in session.events(until=at)]
    return frozenset(e.seq for e in events) - {e.seq for e in effective(events)}


async def story(screen: Screen, place: Opened, session: Session) -> int:
    """Print a session as it was seen when it happened; dim what was taken back."""
    state = await session.state()
    if screen.json:
        row = await (await place.runtime.engine()).kit.store.session(session.id)
        asked = plain(asked_in(state))
        fields = {**plain(row), "status": status(state), "asked": asked}
        screen.line(plain_json.dumps(fields))
        return 0
    _head(screen, state)
    events: deque[Event] = deque(maxlen=SHOWN)
    printer = Printer(screen, inputs=True)
    async for event in session.events():
        if isinstance(event.payload, ModelResponded):
            for item in event.payload.items:
                if isinstance(item, ToolCall):
                    printer.know(item)
        events.append(event)
    if events and events[0].seq > 1:
        screen.line(screen.dim(f"  … {events[0].seq - 1} events before: perdure show ID --events"))
    gone = await taken_back(session)
    for event in events:
        if screen.faded != (event.seq in gone):
            printer.fresh_line()
            screen.faded = event.seq in gone
            if screen.faded:
                printer.note("⟲", "taken back: what follows counts no longer, up to the rewind")
        printer.event(event)
    printer.fresh_line()
    screen.faded = False
    _foot(screen, state)
    return 0


def _head(screen: Screen, state: State) -> None:
    spec, spent = state.spec, state.spent
    age = duration(SystemClock().now_us() - state.updated_at_us)
    screen.line()
    screen.line(
        "  " + screen.bold(f"{state.id}   {spec.name} {state.version}") + f"   {spec.model}"
    )
    facts = [
        status(state),
        plural(spent.steps, "model call"),
        plural(spent.tool_calls, "tool call"),
        f"{count(spent.tokens)} tokens",
    ]
    if spent.micro_usd:
        facts.append(usd(spent.micro_usd))
    facts += [plural(state.seq, "event"), f"{age} ago"]
    screen.line("  " + screen.dim(" · ".join(facts)))
    where = [f"workspace: {spec.environment.kind}"] if state.level else []
    if state.source:
        where.append(("in place: " if spec.environment.in_place else "copied from ") + state.source)
    if where:
        screen.line("  " + screen.dim(" · ".join(where)))
    screen.line()


def _foot(screen: Screen, state: State) -> None:
    me = state.id
    screen.line()
    for asked in asked_in(state):
        sign = screen.style("  ⏸ ", "yellow")
        screen.line(sign + f"{asked.action_id}  {clip(question(asked), screen.width - INDENT)}")
    kinds = {asked.kind for asked in asked_in(state)}
    word = status(state)
    error = state.parked or state.last_error
    if error is not None:
        for line in in_words(screen, fields_of(error, me)).splitlines():
            screen.line("  " + line)
    steps = {
        "running": [f"perdure resume {me}"],
        "paused": [f"perdure resume {me}"],
        "parked": [f"perdure resume {me}"],
        "failed": [f"perdure resume {me}"],
        "budget": [f"perdure resume {me} --limit usd=2"],
    }.get(word, [])
    if "approve" in kinds:
        steps = [f"perdure approve {me} --allow", "… --deny --reason …"]
    elif kinds:
        steps = [f"perdure resume {me} --as done --result JSON", "--rerun", "--as failed"]
    if state.snapshot:
        steps.append(f"perdure show {me} --diff")
    if steps:
        screen.line("  " + screen.dim("next  ") + screen.dim(" · ").join(steps))
