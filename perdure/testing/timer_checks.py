"""What sleep must be: ended in time and once, by another process too, and no event lost.

`troubles` plays one story with an engine and says what was wrong with it.
"""

from collections import Counter
from typing import Final

import msgspec

from perdure.core import events as e
from perdure.core.content import ResultItem, Text
from perdure.core.errors import PerdureError
from perdure.core.inbox import Say
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.journal import events_of
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Script, Scripted
from perdure.ports.model import Model
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.tools.waiting import sleep, wait_for

_BOUNDS: Final = Bounds(idle_s=0.01, poll_s=0.005, recoveries=1000)
_LOOKS: Final = 100
_LOOK_S: Final = 0.01
_HOUR_S: Final = 3600
_STORY: Final = {
    "reply": [
        {"call": [{"tool": "sleep", "arguments": {"seconds": _HOUR_S}}]},
        {"call": [{"tool": "wait_for", "arguments": {"event": "paid"}}]},
        {"text": "Done."},
    ]
}


class _OneModel:
    def get(self, name: str) -> tuple[Model, str]:
        return Scripted(msgspec.convert(_STORY, Script)), name


async def troubles(engine_type: type[Engine]) -> list[str]:
    """Let a session fall asleep, tell it of an event that nobody waits for yet, kill its process,
    let the time pass and another process find it. Return what is wrong then.
    """
    disk, clock = MemoryDisk(), FakeClock()
    first = MemoryStore(disk)
    async with engine_type(_kit(first, clock)) as engine:
        agent = Agent("sleeper", "scripted:x", tools=[sleep, wait_for])
        session = await engine.session("s", agent)
        await session.post(Say("message", (Text("go"),)), "the one message")
        if not await _comes_to(session, "sleeping"):
            return ["it never falls asleep"]
        await session.signal("paid", "in cash", key="k")
        await _comes_to(session, "nothing", looks=5)
        first.kill()
    clock.advance(_HOUR_S)
    second = MemoryStore(disk)
    async with engine_type(_kit(second, clock)) as engine:
        await engine.register(agent)
        session = Session(engine, "s")
        rested = await _comes_to(session, "idle")
        found = [] if rested else [f"not woken in time: it is {await _status(session)}"]
        return found + await _wrong(session, second)


def _kit(store: MemoryStore, clock: FakeClock) -> Kit:
    return Kit(store, clock, SeededIds(len(store.node)), _OneModel(), bounds=_BOUNDS)


async def _comes_to(session: Session, wanted: str, looks: int = _LOOKS) -> bool:
    quiet = MemoryStore(MemoryDisk())
    for _ in range(looks):
        if await _status(session) == wanted:
            return True
        await quiet.changed(_LOOK_S)
    return False


async def _status(session: Session) -> str:
    try:
        return status(await session.state())
    except PerdureError as error:
        return error.code


async def _wrong(session: Session, store: MemoryStore) -> list[str]:
    """Return what is wrong with the journal as it stands."""
    events = [event.payload async for event, _ in events_of(store, session.id)]
    fired = Counter(p.timer_id for p in events if isinstance(p, e.TimerFired))
    found = [f"timer {name} fired {n} times" for name, n in fired.items() if n > 1]
    if not any(isinstance(p, e.SignalReceived) for p in events):
        found.append("the event is lost")
    read = [i.text for i in await session.context() if isinstance(i, ResultItem)]
    if read != ["The time is over.", "in cash"]:
        found.append(f"the model read {read}")
    return found
