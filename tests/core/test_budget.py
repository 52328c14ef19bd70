"""Money and tokens: the worst case is reserved, so no limit is ever passed."""

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from perdure.core import budget, events as e
from perdure.core.agent import Limits
from perdure.core.budget import Price, Reservation, Room
from perdure.core.codec import encode
from perdure.core.content import Text, Usage
from perdure.core.context import Transcript
from perdure.core.errors import ErrorInfo
from perdure.core.evolve import fold
from tests.core.values import SPEC, journal

DOLLARS = st.integers(0, 400_000).map(lambda n: n / 1000)
PRICES = st.builds(Price, DOLLARS, DOLLARS, st.none() | DOLLARS)


def room(limits: Limits, tokens: int = 0, micro_usd: int = 0) -> list[Room]:
    """Return what `limits` leave after so much was spent."""
    left = None if limits.tokens is None else limits.tokens - tokens
    micro_left = None if limits.usd is None else int(limits.usd * 1_000_000) - micro_usd
    return [Room("", False, limits, left, micro_left)]


@given(
    st.integers(0, 10**7), st.integers(0, 10**8), st.integers(0, 10**6), PRICES,
    st.none() | st.integers(0, 10**7), st.none() | st.floats(0, 100),
)  # fmt: skip
@settings(max_examples=500, deadline=None)
def test_what_is_reserved_fits_under_every_limit(
    tokens: int, micro_usd: int, bound: int, price: Price, limit: int | None, usd: float | None
) -> None:
    rooms = room(Limits(tokens=limit, usd=usd), tokens, micro_usd)
    reserved = budget.reserve(SPEC, rooms, bound, price)
    if isinstance(reserved, ErrorInfo):
        assert reserved.kind == "budget"
        assert limit is not None or usd is not None
        return
    assert budget.MIN_OUTPUT_TOKENS <= reserved.max_output_tokens <= SPEC.max_output_tokens
    assert reserved.tokens == bound + reserved.max_output_tokens
    if limit is not None:
        assert tokens + reserved.tokens <= limit
    if usd is not None:
        assert reserved.micro_usd is not None
        assert micro_usd + reserved.micro_usd <= int(usd * 1_000_000)


@given(st.integers(0, 10**6), st.integers(0, 8192), st.integers(0, 10**6), PRICES)
def test_no_reply_within_its_reservation_costs_more(
    read: int, wrote: int, cached: int, price: Price
) -> None:
    cheap = replace(price, cached=min(price.input, price.cached or 0.0))
    worst = budget.cost_of(Usage(input_tokens=read, output_tokens=8192), cheap)
    real = budget.cost_of(
        Usage(input_tokens=read, output_tokens=wrote, cached_tokens=min(cached, read)), cheap
    )
    assert real is not None
    assert worst is not None
    assert real <= worst


def test_a_limit_in_money_needs_a_price() -> None:
    refused = budget.reserve(SPEC, room(Limits(usd=1.0)), 100, None)
    assert isinstance(refused, ErrorInfo)
    assert refused.code == "E-PRICE-UNKNOWN"


def test_without_a_price_tokens_are_still_counted() -> None:
    reserved = budget.reserve(SPEC, room(Limits(tokens=10_000)), 100, None)
    assert isinstance(reserved, Reservation)
    assert reserved.micro_usd is None


@pytest.mark.parametrize(
    ("model", "found"), [("a:big", 1.0), ("a:big-2", 2.0), ("a:x", 3.0), ("b:x", None)]
)
def test_the_closest_price_counts(model: str, found: float | None) -> None:
    prices = {"a:big": Price(1.0, 1.0), "a:big*": Price(2.0, 1.0), "a:*": Price(3.0, 1.0)}
    price = budget.price_of(prices, model)
    assert (price and price.input) == found


@given(st.lists(st.text(max_size=50), max_size=5), st.integers(0, 10**5))
def test_a_tokenizer_never_finds_more_than_there_are_bytes(words: list[str], counted: int) -> None:
    inputs = [e.InputAccepted("message", (Text(w),), str(i)) for i, w in enumerate(words)]
    state = fold(journal(*inputs))
    transcript = Transcript()
    for item in inputs:
        transcript.items.append(item)  # type: ignore[arg-type]  # only its bytes are counted here
    assert budget.input_bound(state, transcript) >= sum(len(encode(i)) for i in inputs)
    known = replace(state, last_tokens=counted, last_tokens_seq=1)
    transcript.fresh_bytes = 7
    assert budget.input_bound(known, transcript) == counted + 7


def test_another_definition_is_counted_anew() -> None:
    reply = e.ModelResponded("ok", (Text("x"),), usage=Usage(100, 10))
    turn = (e.InputAccepted("message", (Text("go"),), "k"), e.TurnStarted(2))
    said = journal(*turn, e.ModelRequested("scripted:play"), reply)
    assert fold(said).last_tokens_seq == len(said)
    moved = e.SessionUpdated(agent=replace(SPEC, instructions="More. " * 1000))
    state = fold(journal(*turn, e.ModelRequested("scripted:play"), reply, moved))
    assert state.last_tokens_seq == 0
    assert budget.input_bound(state, Transcript(said)) > 6000
