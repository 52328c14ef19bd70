"""A replay writes the same events again, and says where it would not."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given as drawn, settings, strategies as st
from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import AgentSpec, Limits
from perdure.core.budget import Prices, Reservation, Room, cost_of, input_bound, reserve
from perdure.core.content import Text, Usage
from perdure.core.context import Transcript
from perdure.core.events import Event, Payload
from perdure.core.evolve import evolve, fold
from perdure.engine import given
from perdure.engine.replay import ReplayReport, replay
from perdure.testing.sim_model import PRICE
from perdure.testing.simulation import simulate

PRICES = {"sim:*": PRICE}
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
SLOWLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def journals(seed: int) -> list[list[Event]]:
    """The sessions of a simulated run, with its kills, interrupts, forged decisions and rewinds."""
    return [list(events) for events in simulate(seed, "memory").journals.values() if events]


def again(events: Sequence[Event], prices: Prices | None = None) -> ReplayReport:
    """Replay in a loop of its own: a simulation cannot run inside of one."""
    return asyncio.run(replay(events, prices=prices))


def with_payload(events: Sequence[Event], seq: int, payload: Payload) -> list[Event]:
    """The same journal, but for what one event says."""
    old = events[seq - 1]
    changed = Event(old.seq, old.id, old.at_us, old.turn, payload)
    return [*events[: seq - 1], changed, *events[seq:]]


@SLOWLY
@drawn(SEEDS)
def test_whatever_happened_to_a_session_its_replay_is_identical(seed: int) -> None:
    for events in journals(seed):
        report = again(events, prices=PRICES)
        assert report.identical, f"seed {seed}: {report}"
        assert report.events == len(events)
        assert report.money


@SLOWLY
@drawn(SEEDS)
def test_without_prices_the_recorded_money_is_believed(seed: int) -> None:
    for events in journals(seed):
        report = again(events)
        assert report.identical, f"seed {seed}: {report}"
        assert not report.money


@SLOWLY
@drawn(SEEDS, st.floats(0, 1))
def test_the_beginning_of_a_journal_is_a_journal(seed: int, part: float) -> None:
    for events in journals(seed):
        until = 1 + int(part * (len(events) - 1))
        report = again(events[:until], prices=PRICES)
        assert report.identical, f"seed {seed} until {until}: {report}"


def forged(payload: Payload) -> Iterator[Payload]:
    """What another engine, another definition or a forger might have written in its place."""
    match payload:
        case e.ToolRequested(rule=rule):
            yield replace(payload, rule=f"{rule} or so")
            yield replace(payload, digest="0" * 64)
        case e.ActionRequested(question=question, expires_at_us=until):
            yield replace(payload, question=f"{question}?")
            if until is not None:
                yield replace(payload, expires_at_us=until + 5_000_000)
        case e.ModelRequested(reserved_tokens=reserved, attempt=attempt):
            yield replace(payload, reserved_tokens=reserved + 1)
            yield replace(payload, attempt=attempt + 1)
        case e.ModelResponded(retry_at_us=int() as at):
            yield replace(payload, retry_at_us=at + 200_000_000)
            yield replace(payload, retry_at_us=None)
        case e.ModelResponded(status="lost", usage=usage):
            yield replace(payload, usage=replace(usage, input_tokens=1))
        case e.ToolStarted(snapshot=snapshot):
            yield replace(payload, snapshot=f"{snapshot}1")
        case e.ToolFinished(status="denied" | "cancelled", text=text):
            yield replace(payload, text=f"{text}!")
        case e.ActionResolved(arguments=None):
            yield replace(payload, digest="1" * 64)
        case e.TurnEnded(status="completed"):
            yield replace(payload, status="failed")
        case _:
            pass


@pytest.mark.parametrize("seed", range(25))
def test_a_forged_event_is_named(seed: int) -> None:
    for events in journals(seed):
        for event in events:
            for payload in forged(event.payload):
                report = again(with_payload(events, event.seq, payload), prices=PRICES)
                assert report.divergence is not None, f"{event.seq} {payload}"
                assert report.divergence.seq == event.seq, f"{report}: {payload}"
                assert report.divergence.recorded == payload
                assert event.type in report.divergence.text


@pytest.mark.parametrize("seed", range(25))
def test_a_missing_event_is_missed(seed: int) -> None:
    for events in journals(seed):
        for event in events[:-1]:
            if isinstance(event.payload, e.ActionRequested | e.ToolRequested | e.TurnStarted):
                left = [
                    Event(each.seq - (each.seq > event.seq), each.id, each.at_us, each.turn, p)
                    for each in events
                    if (p := each.payload) is not event.payload
                ]
                assert not again(left, prices=PRICES).identical, f"without {event}"


def test_of_every_type_of_event_it_is_said_who_makes_it() -> None:
    """A new type belongs to what the engine decides anew, or to what a replay takes as given."""
    known = [str(t.__struct_config__.tag) for t in (*given.DECIDED, *given.GIVEN, *given.EITHER)]
    assert sorted(known) == sorted(e.EVENT_TYPES)


def test_a_long_session_is_replayed_in_time_that_grows_with_its_length() -> None:
    """Ten thousand events: what is done for each must not depend on how many came before."""
    report = again(long_session(10_000), PRICES)
    assert report.identical, report
    assert report.events == 10_000


def long_session(events: int) -> list[Event]:
    """A session of short turns, five events each, the first one aside."""
    spec = AgentSpec("long", "sim:long", limits=Limits(steps=3))
    found = [Event(1, "0", 1, 0, e.SessionCreated("long", spec))]
    state = fold(found)
    transcript = Transcript(found)

    def add(turn: int, payload: Payload) -> None:
        nonlocal state
        event = Event(len(found) + 1, f"{len(found):026}", len(found) + 1, turn, payload)
        found.append(event)
        state = evolve(state, event)
        transcript.apply(event)

    for turn in itertools.count(1):
        add(0, e.InputAccepted("message", (Text(f"word {turn}"),)))
        add(turn, e.TurnStarted(len(found)))
        room = Room("", False, state.limits, None, None)
        call = reserve(state.spec, [room], input_bound(state, transcript), PRICE)
        assert isinstance(call, Reservation)
        used = (call.max_output_tokens, call.tokens, call.micro_usd)
        add(turn, e.ModelRequested("sim:long", 1, (), *used))
        usage = Usage(100, 10, cost_micro_usd=cost_of(Usage(100, 10), PRICE))
        add(turn, e.ModelResponded("ok", (Text("yes"),), model="sim:long", usage=usage))
        add(turn, e.TurnEnded("completed"))
        if len(found) >= events:
            return found[:events]
    raise AssertionError("unreachable")
