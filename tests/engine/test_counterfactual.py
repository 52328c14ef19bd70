"""Another model on the same task: tools answer from the record, and nothing is run."""

import pytest

from perdure.core import events as e
from perdure.core.content import ModelItem, ResultItem
from perdure.core.errors import InvalidRequest
from perdure.engine.compare_text import rerun_text
from perdure.engine.counterfactual import Mode, Rerun
from perdure.ports.model import Model
from perdure.replaying import replay_session_with
from tests.engine.told import (
    PRICES,
    REFUND,
    Named,
    Shop,
    call,
    clerk,
    engine_on,
    journal,
    memory,
    refunded,
    script,
)


async def rerun(other: Model, mode: Mode = "stop", *, deny: str = "", model: str = "") -> Rerun:
    """Record a session, then run it again with another model."""
    shop, store = Shop(), memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        session = await engine.session("s", clerk(shop))
        await refunded(session, deny=deny)
        await session.send("and order 8?")
        shop.calls.clear()
        before = await journal(store)
        found = await replay_session_with(
            store, "s", Named({"other": other}), mode=mode, model=model, prices=PRICES
        )
        assert await journal(store) == before
        assert (await store.session("s")) is not None
        assert len(await store.sessions()) == 1
    assert shop.calls == [], "no tool is run"
    return found


async def test_the_same_model_says_the_same() -> None:
    found = await rerun(REFUND)
    assert found.differs_at is None
    assert found.stopped is None
    assert found.spent == found.spent_recorded
    texts = [i.text for i in found.rerun if isinstance(i, ResultItem)]
    assert texts[0] == "order 7 is there"
    assert texts[2] == "500 for 7 given back"


async def test_a_decision_is_made_again_as_it_was_made() -> None:
    found = await rerun(REFUND, deny="too much")
    assert found.differs_at is None
    assert "too much" in next(i.text for i in found.rerun if "not allowed" in str(i))  # type: ignore[union-attr]


async def test_another_model_stops_at_the_first_call_that_was_never_made() -> None:
    other = script(
        {"text": "Hm.", "call": [call("look", thing="order 7")]},
        {"call": [call("refund", order="7", amount=20)]},
        {"text": "Done."},
    )
    found = await rerun(other)
    assert found.stopped is not None
    assert (found.stopped.tool, found.stopped.what) == ("refund", "result")
    assert found.stopped.arguments == '{"amount":20,"order":"7"}'
    assert found.differs_at == 1
    assert isinstance(found.rerun[-1], ModelItem)
    text = rerun_text(found, 90)
    assert 'Stopped at refund({"amount":20,"order":"7"}): no recorded result.' in text
    assert all(len(line) <= 90 for line in text.splitlines() if "Stopped" not in line)


async def test_a_question_nobody_answered_then_stops_it_too() -> None:
    found = await rerun(script({"call": [call("refund", order="9", amount=900)]}))
    assert found.stopped is not None
    assert found.stopped.what == "decision"


async def test_a_stub_says_so_and_the_model_goes_on() -> None:
    other = script(
        {"call": [call("look", thing="the moon"), call("refund", order="9", amount=900)]},
        {"text": "I read: {{last_result}}"},
        {"text": "Bye."},
    )
    found = await rerun(other, "stub")
    assert found.stopped is None
    assert [(s.tool, s.what) for s in found.stubs] == [("look", "result"), ("refund", "decision")]
    results = [i for i in found.rerun if isinstance(i, ResultItem)]
    assert [r.is_error for r in results] == [True, True]
    assert "nothing is run" in next(r.text for r in results if r.tool == "look")
    ends = [x.payload.status for x in found.events if isinstance(x.payload, e.TurnEnded)]
    assert ends == ["completed", "completed"]
    assert "Stub for look" in rerun_text(found)


async def test_key_order_does_not_matter_and_results_are_given_in_order_and_again() -> None:
    look = {"tool": "look", "arguments": '{ "thing" : "order 7" }'}
    backwards = {"tool": "refund", "arguments": '{"amount": 500, "order": "7"}'}
    other = script({"call": [look, look, look, backwards]}, {"text": "Done."}, {"text": "Bye."})
    found = await rerun(other)
    assert found.stopped is None
    texts = [i.text for i in found.rerun if isinstance(i, ResultItem)]
    assert texts == ["order 7 is there"] * 3 + ["500 for 7 given back"]


async def test_a_model_of_another_name_is_asked_by_that_name() -> None:
    found = await rerun(REFUND, model="scripted:other")
    requested = [x.payload for x in found.events if isinstance(x.payload, e.ModelRequested)]
    assert {each.model for each in requested} == {"scripted:other"}


async def test_a_session_without_a_message_and_a_store_with_sessions_are_refused() -> None:
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        await engine.session("s", clerk(Shop()))
        with pytest.raises(InvalidRequest, match="E-REPLAY-EMPTY"):
            await replay_session_with(store, "s", Named({"a": REFUND}))
