"""`perdure compact`: make what a session's model reads shorter; and how a compaction is told."""

import asyncio
import json as plain_json

from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.text import one_line, plural
from perdure.core.compacting import size
from perdure.core.errors import InvalidRequest
from perdure.core.events import ContextCompactAsked, ContextCompacted, ContextRepaired, Event
from perdure.core.state import State
from perdure.core.step import status
from perdure.engine.session import Session

PATIENCE_S = 20.0


def compact(typed: str, *, json: bool) -> int:
    """Carry out the verb."""
    return opened(lambda place: _compact(place, typed, json=json))


async def _compact(place: Opened, typed: str, *, json: bool) -> int:
    screen = Screen(json=json)
    session = await place.session(typed)
    before = await session.state()
    if before.closed:
        raise InvalidRequest(
            "E-SESSION-CLOSED",
            f"{session.id} is closed: its model reads nothing more.",
            f"perdure fork {session.id}",
        )
    items = await session.context()
    await session.compact(by=whoami())
    state = await _until_taken(session, before)
    if json:
        fields = {"session": session.id, "status": status(state), "seq": state.seq}
        read = {"items": len(items), "bytes": size(items), "asked": state.compact_asked}
        screen.line(plain_json.dumps({**fields, **read}))
        return 0
    reads = f"{plural(len(items), 'item')}, {about(size(items))}"
    screen.line(
        f"{session.id} is compacted before its model is called next (it would read {reads}). "
        "The journal keeps all."
    )
    go_on = f'perdure run {session.id} "…"'
    steps = [go_on if state.turn is None else f"perdure resume {session.id}"]
    steps.append(f"perdure show {session.id} --context")
    screen.line("  " + screen.dim("next  ") + screen.dim(" · ").join(steps))
    return 0


async def _until_taken(session: Session, state: State) -> State:
    """Follow until the letter is in the journal, or patience ends."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for item in session.follow(state.seq):
                if isinstance(item, Event) and isinstance(item.payload, ContextCompactAsked):
                    return await session.state(item.seq)
    except TimeoutError:
        pass
    return await session.state()


def about(count: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, size_of in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size_of:
            return f"{count / size_of:.1f} {unit}"
    return f"{count} bytes"


def in_words(p: ContextCompacted | ContextRepaired | ContextCompactAsked) -> tuple[str, str]:
    """Return what became of the transcript, and what people should know beside it."""
    stay = "originals stay: perdure show ID --events"
    match p:
        case ContextCompactAsked(by=by):
            return "context is compacted before the next model call" + (f", by {by}" * bool(by)), ""
        case ContextRepaired(why=why):
            return f"context made plain, because it was refused: {one_line(why)}", stay
        case ContextCompacted(summary="", elided=most, items=items):
            what = plural(items, "long result") + f" → at most {most} characters each"
            return f"context compacted: {what}", stay
        case ContextCompacted(summary=summary, items=items):
            length = about(len(summary.encode(errors="replace")))
            return f"context compacted: {plural(items, 'item')} → summary of {length}", stay
