"""A conversation that grows too long goes on; what was said stays; a refused one is made plain."""

import pytest

from perdure.core import compacting, events as e
from perdure.core.agent import Compaction, Limits
from perdure.core.content import (
    ModelItem,
    Text,
    UserItem,
    text_of,
)
from perdure.core.context import Transcript
from perdure.core.events import Event
from perdure.core.evolve import fold
from perdure.core.timeline import effective
from perdure.stores.memory import MemoryDisk
from tests.engine.talks import (
    Small,
    agent,
    engine_on,
    exact,
    journal,
    length,
    long_talk,
    of,
    run,
    talked,
)


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
