"""A provider that fails for everybody is left alone for a while, and then tried with one call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random

import pytest

from perdure.core import events as e
from perdure.core.agent import Limits, RetryPolicy
from perdure.core.errors import ErrorInfo, error_info
from perdure.core.step import status
from perdure.engine import breaker
from perdure.engine.agent import Agent
from perdure.engine.breaker import PROVIDERS_MAX, BreakerRules, Breakers, told
from perdure.engine.errors import rows_of
from perdure.engine.replay import replay
from perdure.models.scripted import Reply, Script, Scripted
from perdure.ports.model import Delta, Model, ModelFailed, ModelReply, ModelRequest
from perdure.testing.broken_errors import NeverCloses
from perdure.testing.stage import Stage, play, staged

RULES = BreakerRules(failures=3, window_s=60.0, cool_s=30.0, cool_cap_s=100.0)
BUSY = error_info("E-MODEL-OVERLOADED", "model", "too much", retryable=True)
WRONG = error_info("E-MODEL-AUTH", "model", "wrong key")


class Clocked:
    """Breakers and the time."""

    def __init__(self, rules: BreakerRules = RULES, breakers: Breakers | None = None) -> None:
        self.rules = rules
        self.now_s = 0.0
        self.breakers = breakers or Breakers()

    def wait_s(self, *models: str) -> float:
        return self.breakers.pick(models or ("a:x",), {}, self.now_s, self.rules).wait_s

    def call(self, error: ErrorInfo | None, model: str = "a:x") -> None:
        number = self.breakers.leaves(model)
        self.breakers.comes_back(model, number, error, self.now_s, self.rules)

    def fail(self, times: int = 1, model: str = "a:x") -> None:
        for _ in range(times):
            self.call(BUSY, model)


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    it = Clocked()
    it.fail(2)
    assert it.wait_s() == 0
    it.fail()
    assert it.wait_s() == 30.0
    assert it.wait_s("b:x") == 0, "another provider's calls go through"


def test_all_models_of_a_provider_share_its_breaker() -> None:
    it = Clocked()
    for model in ("a:x", "a:y", "a:z"):
        it.fail(model=model)
    assert it.wait_s("a:w") == 30.0


@pytest.mark.parametrize("answer", [None, WRONG])
def test_any_answer_ends_the_row(answer: ErrorInfo | None) -> None:
    it = Clocked()
    it.fail(2)
    it.call(answer)
    it.fail(2)
    assert it.wait_s() == 0


def test_a_missing_key_says_nothing_of_the_provider() -> None:
    it = Clocked()
    it.fail(2)
    it.call(error_info("E-KEY-MISSING", "model", "no key"))
    it.fail()
    assert it.wait_s() == 30.0


def test_old_failures_do_not_count() -> None:
    it = Clocked()
    it.fail(2)
    it.now_s = 61.0
    it.fail(2)
    assert it.wait_s() == 0


def test_half_open_lets_one_call_through() -> None:
    it = Clocked()
    it.fail(3)
    it.now_s = 30.0
    assert it.wait_s() == 0
    number = it.breakers.leaves("a:x")
    assert it.wait_s() > 0, "one, and no second beside it"
    it.breakers.comes_back("a:x", number, None, it.now_s, RULES)
    assert it.wait_s() == 0
    it.fail(2)
    assert it.wait_s() == 0, "and it is as if nothing had been"


def test_a_failed_trial_doubles_the_cool_down_up_to_its_cap() -> None:
    it = Clocked()
    it.fail(3)
    waits = []
    for _ in range(5):
        waits.append(it.wait_s())
        it.now_s += waits[-1]
        assert it.wait_s() == 0
        it.fail()
    assert waits == [30.0, 60.0, 100.0, 100.0, 100.0]


def test_a_trial_that_nobody_waits_for_gives_its_place_back() -> None:
    it = Clocked()
    it.fail(3)
    it.now_s = 31.0
    number = it.breakers.leaves("a:x")
    assert it.wait_s() > 0
    it.breakers.given_up("a:x", number)
    assert it.wait_s() == 0


def test_calls_that_left_before_it_opened_change_nothing() -> None:
    it = Clocked()
    numbers = [it.breakers.leaves("a:x") for _ in range(6)]
    for number in numbers:
        it.breakers.comes_back("a:x", number, BUSY, it.now_s, RULES)
    assert it.wait_s() == 30.0, "six failures at once are one reason to open"


def test_it_can_be_switched_off() -> None:
    it = Clocked(BreakerRules(failures=0))
    it.fail(100)
    assert it.wait_s() == 0
    assert it.breakers.remembered == 0


def test_a_fallback_of_another_provider_is_taken() -> None:
    it = Clocked()
    it.fail(3)
    way = it.breakers.pick(("a:x", "a:y", "b:z"), {}, it.now_s, RULES)
    assert (way.model, way.wait_s) == ("b:z", 0)
    assert way.because.startswith("E-MODEL-BREAKER: a fails again and again")
    it.fail(3, model="b:z")
    way = it.breakers.pick(("a:x", "a:y", "b:z"), {}, it.now_s, RULES)
    assert way.model == "a:x" and way.wait_s == 30.0


def test_what_is_missing_is_passed_over() -> None:
    breakers = Breakers()
    way = breakers.pick(("a:x", "b:z"), {"a:x": "E-MODEL-NAME: no"}, 0.0, RULES)
    assert (way.model, way.because) == ("b:z", "E-MODEL-NAME: no")


def test_memory_is_bounded() -> None:
    it = Clocked()
    for number in range(3 * PROVIDERS_MAX):
        it.fail(3, model=f"p{number}:x")
    assert it.breakers.remembered == PROVIDERS_MAX
    assert it.wait_s(f"p{3 * PROVIDERS_MAX - 1}:x") == 30.0


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_it_always_closes_again(seed: int) -> None:
    """No history of calls leaves a breaker that holds everybody up for longer than its cap."""
    always_closes_again(seed, Breakers())


def always_closes_again(seed: int, breakers: Breakers) -> None:
    dice, it = Random(seed), Clocked(RULES, breakers)
    open_: list[int] = []
    for _ in range(300):
        it.now_s += dice.choice((0.0, 1.0, 20.0, 90.0))
        match dice.randrange(4):
            case 0 if it.wait_s() == 0:
                open_.append(it.breakers.leaves("a:x"))
            case 1 if open_:
                number = open_.pop(dice.randrange(len(open_)))
                error = dice.choice((BUSY, BUSY, None, WRONG))
                it.breakers.comes_back("a:x", number, error, it.now_s, RULES)
                it.breakers.given_up("a:x", number)
            case 2 if open_:
                it.breakers.given_up("a:x", open_.pop())
        assert it.wait_s() <= RULES.cool_cap_s
    for number in open_:
        it.breakers.given_up("a:x", number)
    it.now_s += RULES.cool_cap_s
    assert it.wait_s() == 0, "somebody may try"


def test_a_breaker_that_never_closes_is_caught() -> None:
    def all_seeds() -> None:
        for seed in range(50):
            always_closes_again(seed, NeverCloses())

    with pytest.raises(AssertionError):
        all_seeds()


# In sessions


class Moody:
    """Finds scripted models; those of a provider in `broken` are overloaded."""

    def __init__(self, script: Script, requests: list[ModelRequest], broken: set[str]) -> None:
        self._script = script
        self._requests = requests
        self._broken = broken

    def get(self, name: str) -> tuple[Model, str]:
        provider = name.partition(":")[0]
        return MoodyModel(self._script, self._requests, lambda: provider in self._broken), name


class MoodyModel(Scripted):
    def __init__(
        self, script: Script, requests: list[ModelRequest], fails: Callable[[], bool]
    ) -> None:
        super().__init__(script)
        self._requests = requests
        self._fails = fails

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        self._requests.append(request)
        if self._fails():
            raise ModelFailed(BUSY)
        async for piece in super().stream(request):
            yield piece


def agent(*fallbacks: str, attempts: int = 9, limits: Limits | None = None) -> Agent:
    retry = RetryPolicy(attempts=attempts, base_s=0.1, cap_s=1.0)
    limits = limits or Limits(wall_s=None)
    return Agent("agent", "a:big", retry=retry, fallbacks=fallbacks, limits=limits)


def prepare(stage: Stage, made: Agent) -> set[str]:
    """Set the stage; return the providers that are broken, `a` to begin with."""
    broken = {"a"}
    stage.models = lambda script, requests: Moody(script, requests, broken)
    stage.bounds = replace(stage.bounds, breaker=RULES)
    stage.plays(Reply(text="hello"))
    stage.agent = made
    return broken


def identical(stage: Stage, name: str = "s") -> None:
    report = asyncio.run(replay(stage.world.events(name)))
    assert report.identical, str(report)


def notes(stage: Stage, name: str = "s") -> list[str]:
    return [p.text for p in stage.payloads(e.NoteRecorded, name)]


def test_a_session_waits_and_spends_no_attempt() -> None:
    async def scene(stage: Stage) -> None:
        broken = prepare(stage, agent())
        await stage.say(await stage.start(), "go")
        await stage.until(lambda _: notes(stage))
        broken.clear()
        await stage.still()
        assert status(stage.state()) == "idle"

    stage = play(scene)
    assert [p.attempt for p in stage.payloads(e.ModelRequested)] == [1, 2, 3, 4]
    (note,) = notes(stage)
    assert note.startswith("E-MODEL-BREAKER: a fails again and again (E-MODEL-OVERLOADED)")
    assert told(note) is not None
    codes = [row.code for row in rows_of("s", stage.world.events("s"))]
    assert codes == ["E-MODEL-OVERLOADED"] * 3 + ["E-MODEL-BREAKER"]
    identical(stage)


def test_the_failures_of_all_sessions_count_and_one_of_them_tries() -> None:
    async def scene(stage: Stage) -> None:
        broken = prepare(stage, agent())
        process = await stage.start()
        names = [f"s{n}" for n in range(8)]
        for name in names:
            await stage.say(process, "go", name=name)
        await stage.until(lambda _: all(notes(stage, name) for name in names), "s0")
        asked = len(stage.requests)
        await stage.passes(35.0)
        assert len(stage.requests) <= asked + 1, "one call tries for all"
        broken.clear()
        for name in names:
            await stage.still(name)
            assert status(stage.state(name)) == "idle"

    stage = play(scene)
    for n in range(8):
        identical(stage, f"s{n}")


def test_a_fallback_of_another_provider_is_called_at_once() -> None:
    async def scene(stage: Stage) -> None:
        prepare(stage, agent("b:small"))
        process = await stage.start()
        await stage.say(process, "go")
        await stage.still()
        await stage.say(process, "go", name="other")
        await stage.still("other")

    stage = play(scene)
    first = stage.payloads(e.ModelRequested)
    assert [p.model for p in first] == ["a:big"] * 3 + ["b:small"]
    (request,) = stage.payloads(e.ModelRequested, "other")
    assert request.model == "b:small"
    assert request.because.startswith("E-MODEL-BREAKER: a ")
    assert not notes(stage, "other")
    identical(stage)
    identical(stage, "other")


@staged
async def test_mail_still_wakes_a_session_that_waits(stage: Stage) -> None:
    prepare(stage, agent())
    process = await stage.start()
    await stage.say(process, "go")
    await stage.happens(lambda: notes(stage))
    began = stage.loop.time()
    await stage.with_session(process, lambda s: s.interrupt())
    await stage.happens(lambda: stage.state().turn is None)
    assert stage.loop.time() - began < 1
    assert stage.state().last_status == "cancelled"


@staged
async def test_the_turns_time_holds_while_it_waits(stage: Stage) -> None:
    prepare(stage, agent(limits=Limits(wall_s=10.0)))
    process = await stage.start()
    await stage.say(process, "go")
    await stage.until(lambda s: s.turns and s.turn is None)
    assert status(stage.state()) == "budget"
    assert stage.state().updated_at_us - stage.state().created_at_us < 11_000_000


@staged
async def test_a_new_process_begins_with_closed_breakers(stage: Stage) -> None:
    broken = prepare(stage, agent())
    first = await stage.start()
    await stage.say(first, "go")
    await stage.happens(lambda: notes(stage))
    stage.kill(first)
    broken.clear()
    began = stage.loop.time()
    await stage.start()
    await stage.happens(lambda: stage.state().turn is None)
    assert stage.loop.time() - began < 20
    assert breaker.provider_of("a:b:c") == "a"
