"""A conversation that grows too long goes on; what was said stays; a refused one is made plain."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from perdure.core import compacting, events as e
from perdure.core.agent import Compaction, Limits, RetryPolicy
from perdure.core.content import (
    ContextItem,
    ModelItem,
    Reasoning,
    ReplyItem,
    ResultItem,
    Text,
    ToolCall,
    Usage,
    UserItem,
    text_of,
)
from perdure.core.context import Transcript
from perdure.core.errors import error_info
from perdure.core.events import Event
from perdure.core.evolve import fold
from perdure.core.state import State
from perdure.core.timeline import effective
from perdure.engine.agent import Agent
from perdure.engine.journal import events_of
from perdure.engine.kit import Bounds, Kit
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.ports.model import Delta, Model, ModelFailed, ModelReply, ModelRequest, TextDelta
from perdure.ports.tool import Tool
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.testing.sim_model import what_is_wrong
from perdure.tools.python import tool

QUICK = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.01)


class Small:
    """A model that reads so many characters and no more. It reads `pages` pages, one at a time."""

    def __init__(self, room: int, pages: int = 6, *, summary: str = "We read pages.") -> None:
        self.room = room
        self.pages = pages
        self.summary = summary
        self.no_summary: Sequence[str] = ()  # how each attempt at one fails, in turn
        self.refuse: Callable[[ModelRequest], bool] = lambda _request: False
        self.requests: list[ModelRequest] = []
        self.wrong: list[str] = []
        self.counts = False

    def get(self, name: str) -> tuple[Model, str]:
        return self, name

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        self.requests.append(request)
        self.wrong += what_is_wrong(request.items)
        read = length(request.items)
        if request.instructions == compacting.INSTRUCTIONS:
            if self.no_summary:
                code, *self.no_summary = self.no_summary
                raise failure(code)
            said: tuple[ReplyItem, ...] = (Text(self.summary),)
        elif read > self.room:
            raise failure("E-CONTEXT-OVERFLOW")
        elif self.refuse(request):
            raise failure("E-MODEL-REJECT", "Item 3 with key sk-abcdefghijklmnopq is malformed.")
        else:
            said = self._next(request)
        yield TextDelta("…")
        usage = Usage(read // 4, 5) if self.counts else Usage(read // 4, 5, estimated=True)
        yield ModelReply(said, usage, "stop", provider="small", dialect="small")

    def _next(self, request: ModelRequest) -> tuple[ReplyItem, ...]:
        done = request.first_call - 1
        if done >= self.pages:
            return (Text(f"Read all {done}."),)
        name = f"{request.call_prefix}{request.first_call}"
        return (Reasoning("hm"), ToolCall(name, "read_page", f'{{"page": {done + 1}}}'))

    async def check(self) -> str:
        return "small"

    async def close(self) -> None: ...


def length(items: Sequence[ContextItem]) -> int:
    total = 0
    for item in items:
        match item:
            case UserItem(content=content):
                total += len(text_of(content))
            case ResultItem(text=text):
                total += len(text)
            case ModelItem(items=said):
                total += sum(len(getattr(i, "text", "")) + 20 for i in said)
    return total


def failure(code: str, said: str = "no") -> ModelFailed:
    retryable = code in ("E-MODEL-OVERLOADED", "E-MODEL-TORN")
    return ModelFailed(error_info(code, "model", said, retryable=retryable))


def reader(page_chars: int = 3_000) -> Tool:
    @tool(effect="read")
    def read_page(page: int) -> str:
        """Read a page."""
        return f"page {page} " + "p" * page_chars

    return read_page


def agent(page_chars: int = 3_000, **more: Any) -> Agent:
    more.setdefault("compaction", Compaction(keep_tokens=1_000))
    return Agent("reader", "small:m", tools=[reader(page_chars)], retry=QUICK, **more)


def engine_on(disk: MemoryDisk, model: Small, bounds: Bounds | None = None) -> Engine:
    bounds = bounds or Bounds(idle_s=0.0, poll_s=0.01)
    return Engine(Kit(MemoryStore(disk), FakeClock(), SeededIds(1), model, bounds=bounds))


async def run(
    model: Small, who: Agent | None = None, say: str = "Read the book."
) -> tuple[State, list[Event]]:
    store = MemoryDisk()
    async with engine_on(store, model) as engine:
        session = await engine.session("s", who or agent())
        state = await session.send(say)
        events = await journal(store)
    await exact(events)
    assert not model.wrong
    return state, events


async def journal(disk: MemoryDisk, session: str = "s") -> list[Event]:
    return [event async for event, _ in events_of(MemoryStore(disk), session)]


async def exact(events: Sequence[Event]) -> None:
    report = await replay(events)
    assert report.identical, str(report)
    assert report.events == len(events)


def of(events: Sequence[Event], kind: type[Any]) -> list[Any]:
    return [event.payload for event in events if isinstance(event.payload, kind)]


async def test_old_results_are_elided_without_a_model_call() -> None:
    model = Small(12_000, pages=9)
    state, events = await run(model)
    assert state.last_status == "completed"
    first = of(events, e.ContextCompacted)[0]
    assert first.elided == 400
    assert not first.summary
    assert not [r for r in of(events, e.ModelRequested) if r.purpose]
    overflow = next(p for p in of(events, e.ModelResponded) if p.status == "error")
    assert (overflow.remedy, overflow.retry_at_us) == ("compact", None)


async def long_talk(session: Session, turns: int = 8) -> State:
    state = await session.state()
    for n in range(turns):
        state = await session.send(f"Remark {n}: " + "r" * 1_500)
    return state


async def talked(model: Small, who: Agent | None = None, turns: int = 8) -> list[Event]:
    """A conversation of words alone, so that nothing but a summary makes it shorter."""
    store = MemoryDisk()
    async with engine_on(store, model) as engine:
        session = await engine.session("s", who or agent())
        state = await long_talk(session, turns)
        assert state.last_status == "completed", state.last_error
    events = await journal(store)
    await exact(events)
    assert not model.wrong
    return events


async def test_words_are_summarised_by_a_call_of_its_own() -> None:
    model = Small(8_000, pages=0, summary="The user made remarks.")
    events = await talked(model)
    asked = next(r for r in model.requests if r.instructions == compacting.INSTRUCTIONS)
    assert not asked.tools
    assert "Remark 0" in text_of(asked.items[0].content)  # type: ignore[union-attr]  # a message
    done = of(events, e.ContextCompacted)[0]
    assert "The user made remarks." in done.summary
    request = next(event for event in events if getattr(event.payload, "purpose", ""))
    reply = events[request.seq]
    assert isinstance(reply.payload, e.ModelResponded)
    assert reply.payload.usage.output_tokens == 5
    assert events[reply.seq].payload == done, "the reply and what it replaces go together"
    after = model.requests[model.requests.index(asked) + 1]
    assert isinstance(after.items[0], UserItem)
    assert text_of(after.items[0].content) == done.summary
    last = [i for i in after.items if isinstance(i, UserItem)][-1]
    assert "Remark" in text_of(last.content)
    # It is billed like every call, and is no part of what is said.
    state = fold(events)
    assert state.spent.steps == len(of(events, e.ModelRequested))
    items = Transcript(events).items
    replies = [i.items for i in items if isinstance(i, ModelItem)]
    assert (Text("The user made remarks."),) not in replies


async def test_the_originals_stay_and_a_rewind_or_a_fork_has_them_again() -> None:
    store = MemoryDisk()
    model = Small(8_000, pages=0)
    async with engine_on(store, model) as engine:
        session = await engine.session("s", agent())
        await long_talk(session)
        events = await journal(store)
        done = next(event for event in events if isinstance(event.payload, e.ContextCompacted))
        before = Transcript(events[: done.seq - 1]).items
        assert len(await session.context()) < len(before) + 10
        fork = await session.fork(done.seq - 1)
        assert await fork.context() == before
        await session.rewind(done.seq - 1)
        assert await session.context() == before
        model.room = 10**9
        assert (await fork.resume()).last_status == "completed"
        assert (await session.resume()).last_status == "completed"
        for name in ("s", fork.id):
            past = await journal(store, name)
            await exact(past)
            assert Transcript(effective(past)).said
    assert not model.wrong
    original = [text_of(p.content) for p in of(events, e.InputAccepted)]
    assert [t for t in original if t.startswith("Remark 0")]


@pytest.mark.parametrize("code", ["E-CONTEXT-OVERFLOW", "E-MODEL-REFUSED", "E-MODEL-REJECT"])
async def test_a_summary_that_nobody_can_write_does_not_hold_the_session_up(code: str) -> None:
    model = Small(8_000, pages=0)
    model.no_summary = [code]
    events = await talked(model)
    done = of(events, e.ContextCompacted)[0]
    assert "earlier exchanges are left out" in done.summary
    assert "Remark 0" in done.summary, "how it began"


async def test_a_summary_is_tried_again_like_any_call() -> None:
    model = Small(8_000, pages=0)
    model.no_summary = ["E-MODEL-OVERLOADED"]
    events = await talked(model, turns=6)
    tried = [r for r in of(events, e.ModelRequested) if r.purpose]
    assert [r.attempt for r in tried[:2]] == [1, 2]
    assert "We read pages." in of(events, e.ContextCompacted)[0].summary
    model = Small(8_000, pages=0)
    model.no_summary = ["E-MODEL-OVERLOADED", "E-MODEL-TORN"]
    events = await talked(model, turns=6)
    assert "earlier exchanges are left out" in of(events, e.ContextCompacted)[0].summary


async def test_a_provider_that_is_gone_fails_the_turn_and_costs_no_words() -> None:
    store = MemoryDisk()
    model = Small(8_000, pages=0)
    model.no_summary = ["E-MODEL-AUTH"]
    async with engine_on(store, model) as engine:
        session = await engine.session("s", agent())
        state = await long_talk(session, 6)
        assert state.last_status == "failed" or not model.no_summary
        failed = [p for p in of(await journal(store), e.TurnEnded) if p.status == "failed"]
        assert [p.error.code for p in failed] == ["E-MODEL-AUTH"]
        state = await session.resume()
        assert state.last_status == "completed"
    await exact(await journal(store))


async def test_an_empty_summary_is_none() -> None:
    events = await talked(Small(8_000, pages=0, summary=" \n"))
    assert "earlier exchanges are left out" in of(events, e.ContextCompacted)[0].summary


async def test_what_cannot_be_made_shorter_fails_with_a_way_out() -> None:
    model = Small(1_000, pages=0)
    state, events = await run(model, say="x" * 5_000)
    assert state.last_status == "failed"
    assert state.last_error is not None
    assert state.last_error.code == "E-CONTEXT-FULL"
    assert "perdure rewind" in state.last_error.hint
    assert len(model.requests) == 1
    assert not of(events, e.ContextCompacted)


async def test_it_does_not_go_on_for_ever() -> None:
    """However often a model says no, a turn compacts a few times and then fails."""
    model = Small(12_000, pages=9)
    await run(model)
    model = Small(12_000, pages=9)
    events: list[Event] = []
    store = MemoryDisk()
    async with engine_on(store, model) as engine:
        session = await engine.session("s", agent())
        model.pages = 3
        await session.send("Read.")
        model.room = 0
        state = await session.send("Go on.")
        events = await journal(store)
    assert state.last_status == "failed"
    assert state.last_error is not None
    assert state.last_error.code in ("E-CONTEXT-OVERFLOW", "E-CONTEXT-FULL")
    assert 1 <= len(of(events, e.ContextCompacted)) <= 5
    await exact(events)


async def test_switched_off_the_turn_fails_as_the_provider_says() -> None:
    model = Small(8_000)
    state, events = await run(model, agent(compaction=Compaction(on_overflow=False)))
    assert state.last_error is not None
    assert state.last_error.code == "E-CONTEXT-OVERFLOW"
    assert not of(events, e.ContextCompacted)


async def test_before_the_limit_is_met() -> None:
    model = Small(10**9, pages=30)
    model.counts = True
    wish = Compaction(at_tokens=5_000, keep_tokens=1_000)
    state, events = await run(model, agent(compaction=wish))
    assert state.last_status == "completed"
    assert not [p for p in of(events, e.ModelResponded) if p.status == "error"]
    assert all(length(r.items) // 4 < 7_000 for r in model.requests)
    done = of(events, e.ContextCompacted)
    assert 3 <= len(done) <= 15, "it has an effect each time"


async def test_an_aim_that_cannot_be_reached_costs_nothing() -> None:
    """The message alone is longer than `at_tokens`: the model is called as it is."""
    model = Small(10**9, pages=12)
    model.counts = True
    wish = Compaction(at_tokens=1_000, keep_tokens=100)
    state, events = await run(model, agent(10, compaction=wish), say="m" * 20_000)
    assert state.last_status == "completed"
    summaries = [r for r in of(events, e.ModelRequested) if r.purpose]
    assert len(summaries) <= 3
    assert len(of(events, e.ModelRequested)) - len(summaries) == 13


async def test_a_person_asks_for_it() -> None:
    store = MemoryDisk()
    model = Small(10**9, pages=3)
    async with engine_on(store, model) as engine:
        session = await engine.session("s", agent())
        await session.send("Read.")
        await session.compact(by="anna")
        await session.compact(by="anna")
        state = await session.send("And now?")
        assert state.last_status == "completed"
        assert not state.compact_asked
        context = await session.context()
    events = await journal(store)
    assert [p.by for p in of(events, e.ContextCompactAsked)] == ["anna", "anna"]
    assert len(of(events, e.ContextCompacted)) >= 1
    assert "We read pages." in text_of(context[0].content)  # type: ignore[union-attr]  # a message
    await exact(events)


async def test_asked_where_there_is_nothing_to_shorten() -> None:
    store = MemoryDisk()
    model = Small(10**9, pages=0)
    async with engine_on(store, model) as engine:
        session = await engine.session("s", agent())
        await session.compact(by="anna")
        state = await session.send("Hello.")
    assert (state.last_status, state.compact_asked) == ("completed", False)
    events = await journal(store)
    assert not of(events, e.ContextCompacted)
    await exact(events)


async def test_a_budget_binds_a_summary_too() -> None:
    store = MemoryDisk()
    model = Small(8_000, pages=0)
    async with engine_on(store, model) as engine:
        session = await engine.session("s", agent(limits=Limits(tokens=100_000)))
        await long_talk(session, 8)
    booked = [r for r in of(await journal(store), e.ModelRequested) if r.purpose]
    assert booked
    for each in booked:
        assert each.max_output_tokens == compacting.SUMMARY_TOKENS
        assert each.reserved_tokens > each.max_output_tokens
    model = Small(8_000, pages=0)
    store = MemoryDisk()
    async with engine_on(store, model) as engine:
        session = await engine.session("s", agent(limits=Limits(steps=1)))
        state = await long_talk(session, 6)
    assert "budget" in {p.status for p in of(await journal(store), e.TurnEnded)}
    assert state.last_error is not None
    await exact(await journal(store))


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
