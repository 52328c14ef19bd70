"""Another model takes a turn over when the one before cannot be had."""

import asyncio

import pytest

from perdure.core import events as e
from perdure.core.agent import Limits, RetryPolicy
from perdure.core.budget import Price
from perdure.core.content import Usage
from perdure.core.errors import InvalidRequest, error_info
from perdure.core.state import ModelCall, State, Turn
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.remedies import models_due, remedy_of
from perdure.engine.replay import replay
from perdure.models.scripted import Failure, Reply
from perdure.ports.store import SessionRow
from perdure.testing.broken_errors import Shops
from perdure.testing.stage import Stage, play, staged

TWICE = RetryPolicy(attempts=2, base_s=1.0)


def agent(*fallbacks: str, limits: Limits | None = None) -> Agent:
    return Agent("agent", "a:big", retry=TWICE, fallbacks=fallbacks, limits=limits or Limits())


def fails(kind: str, times: int) -> Reply:
    return Reply(text="at last", error=Failure(kind, times=times))


async def runs(stage: Stage, made: Agent, *replies: Reply) -> State:
    stage.plays(*replies)
    stage.agent = made
    await stage.say(await stage.start(), "go")
    return await stage.still()


def called(stage: Stage) -> list[tuple[str, int]]:
    return [(p.model, p.attempt) for p in stage.payloads(e.ModelRequested)]


# A script counts the attempts of one call, and they begin anew with each model: what fails twice
# fails so for every model.


def identical(stage: Stage) -> None:
    report = asyncio.run(replay(stage.world.events("s"), prices=stage.prices or None))
    assert report.identical, str(report)


def test_a_model_that_recovers_keeps_the_turn() -> None:
    async def scene(stage: Stage) -> None:
        state = await runs(stage, agent("b:small"), fails("overloaded", 1), Reply(text="more"))
        assert status(state) == "idle"

    stage = play(scene)
    assert called(stage) == [("a:big", 1), ("a:big", 2)], "the same model first"
    identical(stage)


@pytest.mark.parametrize("kind", ["auth", "unknown"])
def test_what_is_not_worth_a_retry_falls_back_at_once(kind: str) -> None:
    async def scene(stage: Stage) -> None:
        await runs(stage, agent("b:small", "c:tiny"), fails(kind, 1))

    stage = play(scene)
    assert called(stage) == [("a:big", 1), ("b:small", 1), ("c:tiny", 1)]
    first, second, last = stage.payloads(e.ModelResponded)
    assert (first.remedy, first.fallback, first.retry_at_us) == ("fallback", "b:small", None)
    assert (second.remedy, second.fallback) == ("fallback", "c:tiny")
    assert (last.remedy, last.fallback) == ("", ""), "none is left"
    assert status(stage.state()) == "failed"
    identical(stage)


@pytest.mark.parametrize("kind", ["overloaded", "rate_limited", "unreachable", "torn", "garbled"])
def test_all_attempts_come_before_the_fallback(kind: str) -> None:
    async def scene(stage: Stage) -> None:
        await runs(stage, agent("b:small"), fails(kind, 2))

    stage = play(scene)
    assert called(stage) == [("a:big", 1), ("a:big", 2), ("b:small", 1), ("b:small", 2)]
    identical(stage)


@pytest.mark.parametrize("kind", ["refused", "context_overflow", "bad_request"])
def test_what_is_the_transcripts_own_fault_does_not_go_from_model_to_model(kind: str) -> None:
    async def scene(stage: Stage) -> None:
        await runs(stage, agent("b:small"), fails(kind, 99))

    stage = play(scene)
    assert {model for model, _ in called(stage)} == {"a:big"}
    identical(stage)


def test_the_next_turn_begins_with_the_first_model_again() -> None:
    async def scene(stage: Stage) -> None:
        stage.plays(fails("auth", 1))
        stage.agent = agent("b:small")
        process = await stage.start()
        await stage.say(process, "go")
        await stage.still()
        assert status(stage.state()) == "failed"
        await stage.say(process, "again", key="k2")
        await stage.until(lambda s: s.turns == 2 and s.turn is None)

    stage = play(scene)
    assert [model for model, _ in called(stage)] == ["a:big", "b:small", "a:big", "b:small"]
    identical(stage)


def test_each_model_is_booked_at_its_own_price() -> None:
    async def scene(stage: Stage) -> None:
        stage.prices = {"a:*": Price(1000.0, 1000.0), "b:*": Price(1.0, 2.0)}
        await runs(stage, agent("b:small"), fails("overloaded", 2))

    stage = play(scene)
    asked = stage.payloads(e.ModelRequested)
    dear = [p.reserved_micro_usd for p in asked if p.model == "a:big"]
    cheap = [p.reserved_micro_usd for p in asked if p.model == "b:small"]
    assert min(c for c in dear if c is not None) > 100 * max(c for c in cheap if c is not None)
    identical(stage)


@staged
async def test_a_fallback_without_a_price_is_not_called_under_a_limit_in_money(
    stage: Stage,
) -> None:
    stage.prices = {"a:*": Price(1.0, 1.0)}
    state = await runs(stage, agent("b:small", limits=Limits(usd=1.0)), fails("auth", 1))
    assert status(state) == "budget"
    assert state.last_error is not None
    assert state.last_error.code == "E-PRICE-UNKNOWN"
    assert "b:small" in state.last_error.message
    assert [m for m, _ in called(stage)] == ["a:big"]


@staged
async def test_lists_know_what_the_fallback_cost(stage: Stage) -> None:
    stage.prices = {"a:*": Price(5.0, 5.0), "b:*": Price(1.0, 2.0)}
    usage = Usage(input_tokens=100, output_tokens=10)
    torn = Failure("torn", times=2, partial="I th")
    await runs(stage, agent("b:small"), Reply(text="x", usage=usage, error=torn))

    async def rows(engine: object) -> list[SessionRow]:
        return await engine.sessions()  # type: ignore[attr-defined,no-any-return]

    (row,) = await stage.on(stage.processes[-1], rows)
    costs = [p.usage.cost_micro_usd or 0 for p in stage.payloads(e.ModelResponded)]
    assert row.micro_usd == sum(costs) > 0


def test_a_crash_in_mid_fallback_goes_on_with_the_fallback() -> None:
    async def scene(stage: Stage) -> None:
        stage.plays(fails("auth", 1))
        stage.agent = agent("b:small", "c:tiny")
        first = await stage.start()
        await stage.say(first, "go")
        await stage.until(lambda s: s.turn is None or s.turn.model_name)
        stage.kill(first)
        await stage.start()
        await stage.still()

    stage = play(scene)
    models = [model for model, _ in called(stage)]
    assert models == sorted(models), "never back to one that was given up"
    assert models.count("a:big") == 1
    identical(stage)


def test_no_chain_of_models_is_a_circle() -> None:
    spec = agent("b:x", "a:big", "b:x").spec([])
    seen, state = [], State(agent=spec, turn=Turn(1, 0))
    error = error_info("E-MODEL-AUTH", "model", "no")
    name = spec.model
    while name:
        seen.append(name)
        assert len(seen) < 10
        open_ = State(agent=spec, turn=Turn(1, 0, model=ModelCall(name, 1)))
        name = remedy_of(open_, error).fallback
    assert seen == ["a:big", "b:x"]
    assert models_due(state) == ("a:big", "b:x")


def test_a_fallback_must_say_whose_model_it_is() -> None:
    with pytest.raises(InvalidRequest, match="E-MODEL-NAME"):
        agent("small")
    with pytest.raises(InvalidRequest, match="E-MODEL-NAME"):
        Agent("agent", "a:big", fallbacks="b:small")


def test_an_engine_that_shops_for_a_model_that_reads_more_is_caught() -> None:
    async def scene(stage: Stage) -> None:
        stage.engine_type = Shops
        await runs(stage, agent("b:small"), fails("context_overflow", 99))

    stage = play(scene)
    assert {model for model, _ in called(stage)} == {"a:big", "b:small"}
    with pytest.raises(AssertionError):
        identical(stage)


def test_what_one_model_counted_is_no_bound_for_another() -> None:
    async def scene(stage: Stage) -> None:
        usage = Usage(input_tokens=7, output_tokens=3)
        plain = Reply(text="x", usage=usage)
        stage.plays(plain, Reply(text="y", usage=usage, error=Failure("auth", times=1)), plain)
        stage.agent = agent("b:small")
        process = await stage.start()
        await stage.say(process, "one")
        await stage.still()
        await stage.say(process, "two", key="k2")
        await stage.until(lambda s: s.turns == 2 and s.turn is None)

    stage = play(scene)
    bounds = [p.reserved_tokens - p.max_output_tokens for p in stage.payloads(e.ModelRequested)]
    assert [model for model, _ in called(stage)] == ["a:big", "a:big", "b:small"]
    assert bounds[1] < 200 < bounds[2], "bytes, where nobody has counted"
    identical(stage)
