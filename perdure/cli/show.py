"""`perdure show`: a session, its journal, one event, what the model reads, what was changed."""

import json as plain_json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from perdure.cli.changes import print_diff
from perdure.cli.lines import as_told, imported
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.story import story, taken_back
from perdure.cli.text import clip, one_line, pad, wrap
from perdure.cli.wire import plain, up
from perdure.core.content import (
    ContextItem,
    ModelItem,
    Reasoning,
    ResultItem,
    Text,
    ToolCall,
    UserItem,
    text_of,
)
from perdure.core.errors import InvalidRequest
from perdure.core.events import Event, ModelResponded, ToolFinished
from perdure.core.step import status
from perdure.engine.session import Session
from perdure.engine.summary import describe


@dataclass(frozen=True)
class View:
    """What is to be shown."""

    context: bool = False
    state: bool = False
    diff: bool = False
    events: bool = False
    json: bool = False


def show(typed: str, view: View) -> int:
    """Carry out the verb."""
    return opened(lambda place: _show(place, typed, view))


async def _show(place: Opened, typed: str, view: View) -> int:
    screen = Screen(json=view.json)
    name, at = parsed(typed)
    session = await place.session(name)
    if view.context:
        return _context(screen, await session.context(at))
    if view.state:
        state = await session.state(at)
        return _document(screen, plain(state))
    if view.diff:
        return await print_diff(screen, place, session, at)
    if view.events:
        return await _journal(screen, session, at)
    if at is not None:
        return await _event(screen, session, at)
    return await story(screen, place, session)


def _document(screen: Screen, value: Any) -> int:
    indent = None if screen.json else 2
    screen.line(plain_json.dumps(value, indent=indent, ensure_ascii=screen.json))
    return 0


def _context(screen: Screen, items: list[ContextItem]) -> int:
    if screen.json:
        return _document(screen, plain(items))
    for item in items:
        match item:
            case UserItem(content=content):
                _said(screen, "you", text_of(content))
            case ModelItem(items=parts):
                for part in parts:
                    _part(screen, part)
            case ResultItem(call_id=call_id, text=text, is_error=is_error):
                _said(screen, call_id, ("(error) " if is_error else "") + text)
    return 0


def _part(screen: Screen, part: Any) -> None:
    match part:
        case Text(text=text):
            _said(screen, "model", text)
        case Reasoning(text=text):
            _said(screen, "think", text)
        case ToolCall(id=id, tool=tool, arguments=given):
            _said(screen, id, f"{tool}({given})")
        case _:
            _said(screen, "?", part.kind)


def _said(screen: Screen, who: str, text: str) -> None:
    label = screen.style(pad(one_line(who), 8), "cyan")
    lines = wrap(text, screen.width - 10)
    screen.line(label + "  " + lines[0])
    for line in lines[1:]:
        screen.line(" " * 10 + line)


async def _journal(screen: Screen, session: Session, at: int | None) -> int:
    gone, now = await taken_back(session, at), await session.state()
    async for event in session.events(until=at):
        if screen.json:
            screen.write(up(event).decode())
            continue
        when = _when(event).strftime("%H:%M:%S.%f")[:-3]
        head = f"{event.seq:>6}  {when}  {pad(event.type, 24)} "
        said = describe(as_told(event, now))
        said = "" if said == event.type else one_line(said)
        screen.faded = event.seq in gone
        said = "(taken back) " * screen.faded + said
        screen.line(screen.dim(head[:22]) + head[22:] + clip(said, screen.width - len(head)))
    return 0


async def _event(screen: Screen, session: Session, at: int) -> int:
    state = await session.state(at)
    event = await anext(aiter(session.events(at - 1, at)))
    if screen.json:
        screen.write(up(event).decode())
        return 0
    when = _when(event).isoformat(" ", "milliseconds")
    title = f"event {event.seq} of {session.id}: {event.type}"
    screen.line(screen.bold(title) + screen.dim(f"   {when}   turn {event.turn}"))
    payload = plain(event.payload)
    payload.pop("type", None)
    for key, value in payload.items():
        text = value if isinstance(value, str) else plain_json.dumps(value, ensure_ascii=False)
        screen.line("  " + screen.style(key, "cyan") + ":")
        for line in wrap(text, screen.width - 4):
            screen.line("    " + line)
    if at <= (now := await session.state()).imported:
        screen.line("  " + screen.style(imported(now), "yellow"))
    if isinstance(event.payload, ToolFinished | ModelResponded):
        screen.line(screen.dim(f"  the session was {status(state)} after this"))
    return 0


def _when(event: Event) -> datetime:
    return datetime.fromtimestamp(event.at_us / 1_000_000, UTC).astimezone()


def parsed(typed: str) -> tuple[str, int | None]:
    """Return id and seq of `ID[:SEQ]`. Raises `InvalidRequest`."""
    name, colon, number = typed.rpartition(":")
    if colon and number.isdigit():
        if number == "0":
            raise InvalidRequest("E-USAGE", "Events are counted from 1.")
        return name, int(number)
    return typed, None
