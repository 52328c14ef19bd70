"""`perdure stop`: pause a session, end its turn, or close it for good."""

import asyncio
import json as plain_json

from perdure.cli.background import drive
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.core.errors import PerdureError
from perdure.core.events import Event
from perdure.core.state import State
from perdure.core.step import status
from perdure.engine.session import Session

PATIENCE_S = 20.0


def stop(typed: str, *, cancel: bool, close: bool, json: bool) -> int:
    """Carry out the verb."""
    if close:
        return opened(lambda place: _close(place, typed, json=json))
    return opened(lambda place: _stop(place, typed, cancel=cancel, json=json))


async def _stop(place: Opened, typed: str, *, cancel: bool, json: bool) -> int:
    screen = Screen(json=json)
    session = await place.session(typed)
    before = await session.state()
    if cancel and before.turn is not None:
        await session.interrupt(by=whoami())
        note = await _finish_turn(place, before)
        state = await _until(session, before, cancel=True)
    elif cancel:
        state, note = before, ""
    else:
        note = ""
        await session.pause(by=whoami())
        state = await _until(session, before, cancel=False)
    word = status(state)
    if json:
        screen.line(plain_json.dumps({"session": session.id, "status": word, "seq": state.seq}))
        return 0
    screen.line(_sentence(session.id, before, state, cancel=cancel))
    if note:
        screen.error(note)
    return 0


async def _close(place: Opened, typed: str, *, json: bool) -> int:
    """Close a session. Whatever turn is open is ended by its worker, or by a new one."""
    screen = Screen(json=json)
    session = await place.session(typed)
    before = state = await session.state()
    note = ""
    if not before.closed:
        closing = asyncio.create_task(session.close(by=whoami()))
        try:
            note = await _finish_turn(place, before) if before.turn is not None else ""
            await asyncio.wait({closing}, timeout=PATIENCE_S if not note else 1.0)
            if closing.done():
                closing.result()
        finally:
            closing.cancel()
        state = await session.state()
    if json:
        word = status(state)
        screen.line(plain_json.dumps({"session": session.id, "status": word, "seq": state.seq}))
        return 0
    if state.closed:
        was = "was closed already" if before.closed else "is closed"
        screen.line(f"{session.id} {was}. Its journal stays; go on in a fork: "
                    f"perdure fork {session.id}")  # fmt: skip
    else:
        screen.line(f"Told {session.id} to close; it has not yet.   See: perdure show {session.id}")
    if note:
        screen.error(note)
    return 0


async def _finish_turn(place: Opened, state: State) -> str:
    """Let a worker close the turn where nobody drives the session; say so where none can start."""
    try:
        await drive(place, state)
    except PerdureError as error:
        return f"The turn ends when somebody drives the session again ({error.message})"
    return ""


async def _until(session: Session, state: State, *, cancel: bool) -> State:
    """Follow until what was asked for has come about, or patience ends."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for item in session.follow(state.seq):
                if isinstance(item, Event):
                    state = await session.state(item.seq)
                    if (state.turn is None) if cancel else state.paused:
                        return state
    except TimeoutError:
        pass
    return state


def _sentence(name: str, before: State, state: State, *, cancel: bool) -> str:
    if not cancel:
        running = " What runs comes to its end first." if state.turn is not None else ""
        return f"Paused {name}.{running}   Go on: perdure resume {name}"
    if before.turn is None:
        return f"{name} has nothing under way; there is nothing to end."
    if state.turn is None:
        return f'Ended the turn of {name}. Its journal stays; go on: perdure run {name} "…"'
    return f"Told {name} to end its turn; it has not yet.   See: perdure show {name}"
