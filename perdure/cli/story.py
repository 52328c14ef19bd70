"""A session's story for `perdure show`: its head, what was done in it, what is due."""

import json as plain_json
from collections import deque
from typing import Final

from perdure.cli.asked import asked_in
from perdure.cli.asking import question
from perdure.cli.failing import fields_of, in_words
from perdure.cli.lines import as_told, imported
from perdure.cli.naps import until_when
from perdure.cli.opened import Opened
from perdure.cli.printer import INDENT, Printer
from perdure.cli.screen import Screen
from perdure.cli.text import clip, count, duration, one_line, plural, usd
from perdure.cli.wire import plain
from perdure.core.content import ToolCall
from perdure.core.events import Event, ModelResponded
from perdure.core.state import State
from perdure.core.step import status
from perdure.core.timeline import effective
from perdure.engine.kin import Tree, has_subagents
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
        tree = await tree_below(place, state)
        fields = {**plain(row), "status": status(state), "asked": asked}
        fields |= {"timers": plain(list(state.timers.values()))} if state.timers else {}
        fields |= {"tree": plain(tree)} if tree else {}
        if state.imported:
            fields |= {"imported": state.imported, "imported_by": state.imported_by}
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
        printer.event(as_told(event, state))
    printer.fresh_line()
    screen.faded = False
    tree = await tree_below(place, state)
    if tree is not None:
        _family(screen, tree)
    _foot(screen, state)
    return 0


async def tree_below(place: Opened, state: State) -> Tree | None:
    """Return the session with its subagents, if it has any."""
    if not has_subagents(state.spec):
        return None
    tree = await (await place.runtime.engine()).tree(state.id)
    return tree if len(tree.rows) > 1 else None


def _family(screen: Screen, tree: Tree) -> None:
    """Print the subagents, one a line, and what all used together."""
    screen.line()
    facts = [plural(tree.steps, "model call"), f"{count(tree.tokens)} tokens"]
    if tree.micro_usd:
        facts.append(usd(tree.micro_usd))
    together = " · ".join(facts)
    number = plural(len(tree.rows) - 1, "subagent")
    screen.line("  " + screen.bold(number) + screen.dim(f"   together with them: {together}"))
    depths = {tree.rows[0].id: 0}
    for row in tree.rows[1:]:
        depth = depths[row.id] = depths[row.parent] + 1
        spent = f"{plural(row.steps, 'model call')} · {count(row.tokens)} tokens"
        if row.micro_usd:
            spent += f" · {usd(row.micro_usd)}"
        name = "  " * depth + f"└ {one_line(row.id)}"
        screen.line(f"  {name}   {row.agent} {row.status}   " + screen.dim(spent))


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
    if state.parent:
        where.append(f"subagent of {state.parent}")
    if where:
        screen.line("  " + screen.dim(" · ".join(where)))
    if state.imported:
        screen.line("  " + screen.style(imported(state), "yellow"))
    screen.line()


def _foot(screen: Screen, state: State) -> None:
    me = state.id
    screen.line()
    for asked in asked_in(state):
        sign = screen.style("  ⏸ ", "yellow")
        screen.line(sign + f"{asked.action_id}  {clip(question(asked), screen.width - INDENT)}")
    for timer in state.timers.values():
        lines = until_when(me, timer.due_us, (timer.signal,) if timer.signal else ())
        screen.line(screen.style("  ◔ ", "cyan") + lines[0])
        for line in lines[1:]:
            screen.line("    " + screen.dim(line))
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
    elif "answer" in kinds:
        steps = [f"perdure answer {me}", f"perdure answer {me} VALUE"]
    elif kinds:
        steps = [f"perdure resume {me} --as done --result JSON", "--rerun", "--as failed"]
    if state.snapshot:
        steps.append(f"perdure show {me} --diff")
    if steps:
        screen.line("  " + screen.dim("next  ") + screen.dim(" · ").join(steps))
