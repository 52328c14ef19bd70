"""Compaction and repair, with a process that dies after each event."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from perdure.core import compacting, events as e
from perdure.core.agent import Compaction
from perdure.core.content import (
    ModelItem,
    ToolCall,
    UserItem,
)
from perdure.core.context import Transcript
from perdure.core.errors import error_info
from perdure.core.events import Event
from perdure.core.evolve import fold
from perdure.engine import remedies
from perdure.ports.model import ModelRequest
from perdure.stores.memory import MemoryDisk, MemoryStore
from tests.engine.talks import Small, agent, engine_on, exact, journal, of, run


@pytest.mark.parametrize("kind", ["elide", "summary", "fallback", "repair"])
async def test_a_crash_at_every_event(kind: str) -> None:
    """A process dies after each event; another one goes on, and comes to the same end."""
    whole = await recorded(kind)
    for cut in range(2, len(whole)):
        events = await resumed(whole[:cut], kind)
        state = fold(events)
        assert state.last_status == "completed", f"cut at {cut}: {state.last_error}"
        per_turn = [v.turn for v in events if isinstance(v.payload, e.ContextCompacted)]
        assert all(per_turn.count(turn) <= 4 for turn in per_turn)
        if not (isinstance(whole[cut - 1].payload, e.ModelResponded) and together(whole, cut)):
            await exact(events)  # a summary and what it replaces are one write: no crash cuts there


def together(events: Sequence[Event], cut: int) -> bool:
    asked = bool(getattr(events[cut - 2].payload, "purpose", ""))
    return asked and isinstance(events[cut].payload, e.ContextCompacted)


def poisoned(request: ModelRequest) -> bool:
    """Whether the vendor's own form of the first reply is still in there."""
    first = [i for i in request.items if isinstance(i, ModelItem) and i.provider]
    return any(isinstance(c, ToolCall) and c.id == "t1.1" for i in first for c in i.items)


def model_for(kind: str) -> Small:
    model = Small(9_000, pages=5)
    if kind in ("summary", "fallback"):
        model = Small(3_000, pages=2)
    if kind == "fallback":
        model.no_summary = ["E-MODEL-REFUSED"] * 9
    if kind == "repair":
        model = Small(10**9, pages=3)
        model.refuse = poisoned
    return model


PAGE = {"summary": 10, "fallback": 10}
SAY = {"summary": "Read. " + "s" * 900, "fallback": "Read. " + "s" * 900}


async def recorded(kind: str) -> list[Event]:
    store = MemoryDisk()
    async with engine_on(store, model_for(kind)) as engine:
        session = await engine.session("s", agent(PAGE.get(kind, 3_000)))
        for _ in range(3):
            await session.send(SAY.get(kind, "Read."))
        state = await session.send(SAY.get(kind, "Read."))
        assert state.last_status == "completed", state.last_error
    events = await journal(store)
    marks = e.ContextRepaired if kind == "repair" else e.ContextCompacted
    assert of(events, marks), "or the test shows nothing"
    return events


async def resumed(events: Sequence[Event], kind: str) -> list[Event]:
    """Put these events into a store, as a process left them, and let another go on."""
    store = MemoryDisk()
    await put(store, events)
    model = model_for(kind)
    async with engine_on(store, model) as engine:
        session = await engine.session("s", agent(PAGE.get(kind, 3_000)))
        state = await session.state()
        if state.turn is None and not state.queue:
            await session.send(SAY.get(kind, "Read."))
        else:
            async for _ in session.watch():
                pass
        assert not model.wrong
    return await journal(store)


async def put(disk: MemoryDisk, events: Sequence[Event]) -> None:
    from perdure.core import journal as records
    from perdure.engine.summary import row_of, telling
    from perdure.ports.store import Batch

    store = MemoryStore(disk)
    claim = await store.claim("s")
    link, batch = claim.hash, []
    for event in events:
        written = records.write(event, link)
        link = written.record.hash
        batch.append(written.record)
    row = row_of(fold(events), telling(events))
    await store.append(Batch("s", claim.epoch, 0, batch, [], row, []))
    await store.release(claim)


async def test_a_refused_transcript_is_made_plain_once_and_says_why() -> None:
    model = model_for("repair")
    disk = MemoryDisk()
    async with engine_on(disk, model) as engine:
        session = await engine.session("s", agent())
        state = await session.send("Read.")
        assert state.last_status == "completed"
        model.refuse = lambda _request: True
        state = await session.send("Go on.")
    events = await journal(disk)
    repaired = of(events, e.ContextRepaired)
    assert "is malformed" in repaired[0].why
    assert "sk-abc" not in repaired[0].why, "what looks like a key is masked"
    assert len(repaired) == 2, "once in each turn"
    assert state.last_error is not None
    assert state.last_error.code == "E-MODEL-REJECT"
    await exact(events)


async def test_what_is_plain_already_is_not_sent_a_second_time() -> None:
    model = Small(10**9)
    model.refuse = lambda _request: True
    state, events = await run(model)
    assert state.last_error is not None
    assert state.last_error.code == "E-MODEL-REJECT"
    assert len(model.requests) == 1
    assert not of(events, e.ContextRepaired)


async def test_a_journal_of_before_there_were_remedies_replays() -> None:
    """An older engine ended the turn at once."""
    _, events = await run(Small(8_000), agent(compaction=Compaction(on_overflow=False)))
    first = events[0].payload
    assert isinstance(first, e.SessionCreated)
    old = replace(first, agent=replace(first.agent, compaction=Compaction()))
    assert old.agent.compaction.on_overflow
    head = Event(1, events[0].id, events[0].at_us, events[0].turn, old)
    await exact([head, *events[1:]])


async def test_a_loop_would_be_seen() -> None:
    """Broken on purpose: a turn that compacts once more than it may."""
    whole = await recorded("elide")
    assert most_in_a_turn(whole) <= remedies.COMPACTIONS
    last = next(v for v in reversed(whole) if isinstance(v.payload, e.ContextCompacted))
    looped = [*whole, *[last] * remedies.COMPACTIONS]
    assert most_in_a_turn(looped) > remedies.COMPACTIONS
    overflow = error_info("E-CONTEXT-OVERFLOW", "model", "too long")
    state = fold(whole[: last.seq])
    assert state.turn is not None
    assert remedies.remedy_of(state, overflow).remedy == "compact"
    spent = replace(state, turn=replace(state.turn, compactions=remedies.COMPACTIONS))
    assert not remedies.remedy_of(spent, overflow).remedy


async def test_a_compaction_that_drops_the_originals_would_be_seen() -> None:
    whole = await recorded("summary")
    assert originals_stay(whole)
    cut = next(v.seq for v in whole if isinstance(v.payload, e.ContextCompacted))
    kept = [v for v in whole if v.seq >= cut or not isinstance(v.payload, e.InputAccepted)]
    assert not originals_stay(kept)


def most_in_a_turn(events: Sequence[Event]) -> int:
    turns = [v.turn for v in events if isinstance(v.payload, e.ContextCompacted)]
    return max((turns.count(turn) for turn in turns), default=0)


def originals_stay(events: Sequence[Event]) -> bool:
    """Whether going back to before each compaction shows all that the model read then."""
    for event in events:
        if isinstance(event.payload, e.ContextCompacted) and event.payload.summary:
            before = Transcript(v for v in events if v.seq < event.seq)
            said = [v for v in events if v.seq < event.seq and isinstance(v.payload, e.TurnStarted)]
            users = [item for item in before.items if isinstance(item, UserItem)]
            if len(users) < len(said) and not str(before.items[0]).count(compacting.HEAD):
                return False
    return True
