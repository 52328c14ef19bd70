"""`perdure signal`: tell a session of an event outside."""

import asyncio
import json as plain_json
import sys
from typing import Final

from perdure.cli.background import drive
from perdure.cli.me import fresh_key, whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.core import events as e
from perdure.core.errors import PerdureError
from perdure.core.events import Event
from perdure.core.step import status
from perdure.engine.session import Session

_DATA_CHARS: Final = 1024 * 1024
_TAKEN_S: Final = 5.0


def signal(typed: str, name: str, data: str, *, key: str, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    text = sys.stdin.read(_DATA_CHARS) if data == "-" else data
    return opened(lambda place: _signal(screen, place, typed, (name, text), key))


async def _signal(
    screen: Screen, place: Opened, typed: str, told: tuple[str, str], key: str
) -> int:
    session = await place.session(typed)
    before = await session.state()
    key = key or fresh_key()
    fresh = await session.signal(*told, key=key, by=whoami())
    if fresh:
        await _taken(session, before.seq, key)
    state = await session.state()
    wakes = fresh and status(before) == "sleeping" and status(state) == "running"
    if screen.json:
        fields = {"session": session.id, "event": told[0], "fresh": fresh, "wakes": wakes}
        screen.line(plain_json.dumps(fields | {"status": status(state)}))
    else:
        screen.line(_said(session.id, told[0], fresh=fresh, wakes=wakes))
    if status(state) == "running":
        try:
            await drive(place, state)
        except PerdureError as error:
            screen.error(f"  {session.id} does not go on by itself: {error.message}  {error.hint}")
    return 0


def _said(session: str, name: str, *, fresh: bool, wakes: bool) -> str:
    if not fresh:
        return f"  {session} was told of this before, under the same key; nothing was done."
    if wakes:
        return f"  ✓ {session} waited for {name!r} and goes on:  perdure show {session}"
    return f"  ✓ {session} knows of {name!r}; it is kept until a call waits for it."


async def _taken(session: Session, after: int, key: str) -> None:
    """Wait a little until the event is in the journal; whoever owns the session takes it there."""
    try:
        async with asyncio.timeout(_TAKEN_S):
            async for item in session.follow(after):
                if not isinstance(item, Event):
                    continue
                match item.payload:
                    case e.SignalReceived(key=taken) if taken == key:
                        return
                    case e.NoteRecorded():
                        return  # it was not taken, and the note says why
                    case _:
                        pass
    except TimeoutError:
        return  # it lies in the inbox, durably
