"""Money and tokens: reserve the worst case before a call, settle what it really cost.

A provider bills a token for at least one byte of what it reads, so the bytes of a request are a
bound on its tokens that no tokenizer can break. The bound is used only for what is new since
the provider last counted; the rest is known exactly.
"""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec
from msgspec.structs import replace

from perdure.core.agent import AgentSpec, Limits, ToolSpec
from perdure.core.codec import encode
from perdure.core.content import ContextItem, Usage
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


def input_bound(state: State, transcript: Transcript, model: str = "") -> int:
    """Return the number of input tokens that the next call cannot exceed. `model` is what is
    called, where that is not the agent's own: each counts in its own way.
    """
    own = "" if model == state.spec.model else model
    if state.last_tokens_seq and own == state.last_tokens_model:
        return state.last_tokens + transcript.fresh_bytes
    bound = request_bound(state.spec.instructions, state.spec.tools, transcript.items)
    form = state.spec.settings.format  # a schema is read with the instructions
    return bound + (len(encode(form)) if form else 0)


def request_bound(
    instructions: str, tools: Sequence[ToolSpec], items: Sequence[ContextItem]
) -> int:
    """Return the number of tokens that a provider cannot exceed in reading these."""
    fixed = len(encode(instructions)) + sum(len(encode(t)) for t in tools)
    read = sum(len(encode(item)) for item in items) + 32 * len(items)
    return _HIDDEN_TOKENS + fixed + read


def shortened(room: Reservation, output: int, price: Price | None) -> Reservation:
    """Return the reservation of a call like `room` whose reply has at most `output` tokens."""
    if output >= room.max_output_tokens:
        return room
    bound = room.tokens - room.max_output_tokens
    worst = cost_of(Usage(input_tokens=bound, output_tokens=output), price)
    return Reservation(output, bound + output, worst)


class Room(msgspec.Struct, frozen=True):
    """What one session's limits leave for a call, its own or one of a session below it.

    `session` is empty where the caller itself is meant; `tree` says that the limits are shared
    with subagents. What is None is not limited.
    """

    session: str
    tree: bool
    limits: Limits
    tokens_left: int | None
    micro_left: int | None


def reserve(
    spec: AgentSpec, rooms: Sequence[Room], bound: int, price: Price | None
) -> Reservation | ErrorInfo:
    """Return the reservation for a call that reads at most `bound` tokens, or why none is left.

    It must fit into every one of `rooms`.
    """
    output = spec.max_output_tokens
    for room in rooms:
        if room.tokens_left is not None:
            output = min(output, room.tokens_left - bound)
            if output < MIN_OUTPUT_TOKENS:
                left = f"{max(0, room.tokens_left)} tokens"
                return _too_little("tokens", room, left, f"{bound}")
    for room in rooms:
        if room.micro_left is None:
            continue
        if price is None:
            return _unpriced(spec)
        affordable = room.micro_left - math.ceil(bound * price.input)
        if price.output > 0:
            output = min(output, math.floor(affordable / price.output))
        if affordable < 0 or output < MIN_OUTPUT_TOKENS:
            left = f"{max(0, room.micro_left) / 1_000_000:.4f} USD"
            return _too_little("usd", room, left, f"{bound} tokens of input")
    worst = cost_of(Usage(input_tokens=bound, output_tokens=output), price)
    return Reservation(output, bound + output, worst)


def shared_limit(which: str, what: str, session: str, *, tree: bool) -> ErrorInfo:
    """Return the error of a limit that `session` ("": the caller) shares with its subagents."""
    whose = f"session {session}" if session else "this session"
    error = limit_reached(which, f"{what} for {whose}{' and its subagents' if tree else ''}")
    if not session:
        return error
    hint = error.hint.replace("resume ID", f"resume {session}")
    return replace(error, hint=hint)


def _too_little(which: str, room: Room, left: str, need: str) -> ErrorInfo:
    limit = f"{room.limits.tokens} tokens" if which == "tokens" else f"{room.limits.usd} USD"
    error = shared_limit(which, limit, room.session, tree=room.tree)
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
