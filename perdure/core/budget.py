"""Money and tokens: reserve the worst case before a call, settle what it really cost.

A provider bills a token for at least one byte of what it reads, so the bytes of a request are a
bound on its tokens that no tokenizer can break. The bound is used only for what is new since
the provider last counted; the rest is known exactly.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import msgspec
from msgspec.structs import replace

from perdure.core.agent import AgentSpec, Limits
from perdure.core.codec import encode
from perdure.core.content import Usage
from perdure.core.context import Transcript
from perdure.core.errors import ErrorInfo, error_info
from perdure.core.state import State
from perdure.core.step import limit_reached

MIN_OUTPUT_TOKENS = 64  # a reply shorter than this is not worth a call
_HIDDEN_TOKENS = 1024  # what a provider may put before our words: its own prompt about tools


class Price(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """US dollars for a million tokens, which is also micro-dollars for one."""

    input: float
    output: float
    cached: float | None = None


Prices = Mapping[str, Price]  # by model, `provider:model`; globs are allowed


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """The worst case of one model call, and how long its reply may be so that it stays one."""

    max_output_tokens: int
    tokens: int
    micro_usd: int | None


def price_of(prices: Prices, model: str) -> Price | None:
    """Return the price of `model`: an exact name first, then the longest glob that fits."""
    if model in prices:
        return prices[model]
    fitting = [name for name in prices if fnmatchcase(model, name)]
    return prices[max(fitting, key=len)] if fitting else None


def cost_of(usage: Usage, price: Price | None) -> int | None:
    """Return what `usage` costs in micro-dollars, rounded up; None where no price is known."""
    if price is None:
        return None
    cached = price.input if price.cached is None else price.cached
    fresh = usage.input_tokens - usage.cached_tokens
    return math.ceil(
        fresh * price.input + usage.cached_tokens * cached + usage.output_tokens * price.output
    )


def input_bound(state: State, transcript: Transcript) -> int:
    """Return the number of input tokens that the next call cannot exceed."""
    if state.last_tokens_seq:
        return state.last_tokens + transcript.fresh_bytes
    spec = state.spec
    fixed = len(encode(spec.instructions)) + sum(len(encode(t)) for t in spec.tools)
    return (
        _HIDDEN_TOKENS
        + fixed
        + sum(len(encode(item)) for item in transcript.items)
        + 32 * len(transcript.items)
    )


def reserve(
    state: State, limits: Limits, bound: int, price: Price | None
) -> Reservation | ErrorInfo:
    """Return the reservation for a call that reads at most `bound` tokens, or why none is left."""
    output = state.spec.max_output_tokens
    if limits.tokens is not None:
        output = min(output, limits.tokens - state.spent.tokens - bound)
        if output < MIN_OUTPUT_TOKENS:
            left = max(0, limits.tokens - state.spent.tokens)
            return _too_little("tokens", f"{limits.tokens} tokens", f"{left} tokens", f"{bound}")
    if limits.usd is not None:
        if price is None:
            return _unpriced(state.spec)
        left_usd = int(limits.usd * 1_000_000) - state.spent.micro_usd
        affordable = left_usd - math.ceil(bound * price.input)
        if price.output > 0:
            output = min(output, math.floor(affordable / price.output))
        if affordable < 0 or output < MIN_OUTPUT_TOKENS:
            left_text = f"{max(0, left_usd) / 1_000_000:.4f} USD"
            return _too_little("usd", f"{limits.usd} USD", left_text, f"{bound} tokens of input")
    worst = cost_of(Usage(input_tokens=bound, output_tokens=output), price)
    return Reservation(output, bound + output, worst)


def _too_little(which: str, limit: str, left: str, need: str) -> ErrorInfo:
    error = limit_reached(which, f"{limit} for this session")
    more = f" {left} are left; the next call may need {need} and a reply."
    return replace(error, message=error.message + more)


def _unpriced(spec: AgentSpec) -> ErrorInfo:
    return error_info(
        "E-PRICE-UNKNOWN",
        "budget",
        f"The session has a limit in USD, but no price is known for {spec.model}. "
        "Nothing was called and nothing was spent.",
        subject=spec.model,
        hint=f'Add to perdure.toml:  [prices."{spec.model}"]  input = …  output = …',
    )
