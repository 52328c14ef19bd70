"""Performing CALL_MODEL and RECOVER_MODEL: reserve, ask, stream, write down what came."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from msgspec.structs import replace

from perdure.core import budget, events as e
from perdure.core.codec import encode
from perdure.core.content import Usage, UserItem
from perdure.core.context import Transcript
from perdure.core.errors import ErrorInfo, PerdureError, error_info
from perdure.core.events import Payload
from perdure.core.settings import ModelSettings
from perdure.core.state import ModelCall, State
from perdure.engine import retry
from perdure.engine.breaker import Way
from perdure.engine.deltas import StoredDeltas
from perdure.engine.endings import end_turn
from perdure.engine.remedies import Cure, remedy_of
from perdure.engine.ways import watched, way_of
from perdure.engine.work import Work
from perdure.ports.model import (
    Model,
    ModelFailed,
    ModelReply,
    ModelRequest,
    TextDelta,
)

After = Callable[[e.ModelResponded], tuple[Payload, ...]]


async def call_model(work: Work) -> None:
    """Make the model call that is due, or end the turn when a budget forbids it."""
    transcript = await work.journal.transcript()
    called = await leave(work, lambda way: _reserved_call(work, transcript, way))
    if called is not None:
        model, name = called
        await stream(work, model, _request(work, name, _open_call(work).max_output_tokens))


async def leave(work: Work, book: Callable[[Way], Awaitable[bool]]) -> tuple[Model, str] | None:
    """Find the model that is due and write its call down; return it with the provider's own name
    for it, or None where none was called.

    `book` appends the request, or the turn's end; it says False where it must wait for others.
    """
    while True:
        if work.stopping:
            return None
        way = way_of(work)
        if way.wait_s > 0:
            return None  # another session was faster: the driver waits
        try:
            found = work.kit.models.get(way.model)
        except PerdureError as error:
            info = error_info(error.code, "model", error.message, hint=error.hint)
            await end_turn(work, "failed", info)
            return None
        if await book(way):
            break
        await work.ledger.settled()  # others in the tree hold what this call needs
    turn = work.state.turn
    if turn is None or turn.model is None:
        return None
    if work.ledger.limited(work.state.id):
        # A reservation that a crash could lose would let the next call spend the same money.
        await work.journal.durable()
    return found


async def _reserved_call(work: Work, transcript: Transcript, way: Way) -> bool:
    """Write down the call with what it may use, or that the budget forbids it; False where it
    must wait. Between the question and the answer nothing else can happen.
    """
    steers = tuple(q.seq for q in work.state.queue if q.kind == "steer")
    bound = budget.input_bound(work.state, transcript, way.model) + sum(
        len(encode(UserItem(content))) + 32 for content in transcript.waiting(steers)
    )
    price = budget.price_of(work.kit.prices, way.model)
    reserved = work.ledger.reserve(work.state.id, bound, price, way.model)
    if reserved is None:
        return False
    if isinstance(reserved, ErrorInfo):
        await end_turn(work, "budget", reserved)
    else:
        work.journal.append(requested(work, steers, reserved, way))
    return True


async def recover_model(work: Work) -> None:
    """Close a call whose process died: what it cost nobody knows, so its worst case is booked."""
    assert work.state.turn is not None and work.state.turn.model is not None
    call = work.state.turn.model
    status: e.ReplyStatus = "cancelled" if work.state.turn.interrupted else "lost"
    work.journal.append(e.ModelResponded(status, usage=_worst(call), model=call.model))


def requested(
    work: Work, steers: Sequence[int], reserved: budget.Reservation, way: Way
) -> e.ModelRequested:
    """Return the event that books a call."""
    assert work.state.turn is not None
    return e.ModelRequested(
        model=way.model,
        attempt=work.state.turn.failures + 1,
        steers=tuple(steers),
        max_output_tokens=reserved.max_output_tokens,
        reserved_tokens=reserved.tokens,
        reserved_micro_usd=reserved.micro_usd,
        because=way.because,
    )


def _request(work: Work, name: str, max_output_tokens: int) -> ModelRequest:
    spec, turn = work.state.spec, work.state.turn
    assert turn is not None
    return ModelRequest(
        model=name,
        instructions=spec.instructions,
        items=tuple(work.journal.items()),
        tools=spec.tools,
        max_output_tokens=max_output_tokens,
        call_prefix=call_prefix(work.state, turn.number),
        first_call=turn.next_call,
        attempt=turn.failures + 1,
        settings=_settings(spec.settings, turn.next_call),
    )


def _settings(settings: ModelSettings, next_call: int) -> ModelSettings:
    """Return what steers the call that is due: a call that was asked for is asked for once."""
    return replace(settings, tool_choice="") if settings.forced and next_call > 1 else settings


def call_prefix(state: State, turn: int) -> str:
    """Return what the ids of this turn's calls begin with: no id that was undone comes again."""
    return f"t{turn}g{state.generation}." if state.generation else f"t{turn}."


def _alone(responded: e.ModelResponded) -> tuple[Payload, ...]:
    return (responded,)


async def stream(work: Work, model: Model, request: ModelRequest, *, after: After = _alone) -> None:
    """Stream the reply; whatever happens, exactly one `model.responded` follows, and in the same
    breath what `after` makes of it. Only a reply that is for the session's followers is shown.
    """
    partial: list[str] = []
    session, shown = work.state.id, after is _alone
    stored = StoredDeltas(work.journal, keeps=shown and work.state.spec.deltas == "stored")
    try:
        async with aclosing(watched(work, _open_call(work).model, model.stream(request))) as pieces:
            async for piece in pieces:
                if isinstance(piece, ModelReply):
                    work.journal.append(*stored.rest(), *after(_responded(work, piece)))
                    return
                if isinstance(piece, TextDelta):
                    partial.append(piece.text)
                if shown and not stored.put(piece):
                    work.hub.live(session, piece)
        torn = error_info("E-MODEL-TORN", "model", "The stream ended early.", retryable=True)
        failed = _failed(work, ModelFailed(torn, "".join(partial)))
        work.journal.append(*stored.rest(), *after(failed))
    except ModelFailed as error:
        work.journal.append(*stored.rest(), *after(_failed(work, error)))
    except BaseException:
        if work.interrupting:
            usage = _worst(_open_call(work))
            text = "".join(partial)
            cancelled = e.ModelResponded("cancelled", usage=usage, partial=text)
            work.journal.append(*stored.rest(), cancelled)
        raise


def _responded(work: Work, reply: ModelReply) -> e.ModelResponded:
    name = _open_call(work).model
    price = budget.price_of(work.kit.prices, name)
    usage = replace(reply.usage, cost_micro_usd=budget.cost_of(reply.usage, price))
    return e.ModelResponded(
        "ok",
        items=reply.items,
        raw=reply.raw,
        dialect=reply.dialect,
        provider=reply.provider,
        model=reply.model or name,
        usage=usage,
        finish=reply.finish,
        request_id=reply.request_id,
        dropped=reply.dropped,
    )


def _failed(work: Work, failure: ModelFailed) -> e.ModelResponded:
    turn = work.state.turn
    assert turn is not None
    wait_s = retry.delay_s(
        work.state.spec.retry, turn.failures + 1, failure.info, work.kit.ids.random()
    )
    cure = remedy_of(work.state, failure.info) if wait_s is None else Cure()
    now_us = work.kit.clock.now_us()
    name = _open_call(work).model
    torn = bool(failure.partial)
    usage = failure.usage
    if usage is None:
        usage = _worst(_open_call(work)) if torn else Usage()
    price = budget.price_of(work.kit.prices, name)
    return e.ModelResponded(
        "incomplete" if torn else "error",
        usage=replace(usage, cost_micro_usd=budget.cost_of(usage, price)),
        model=name,
        error=failure.info,
        partial=failure.partial,
        retry_at_us=None if wait_s is None else now_us + int(wait_s * 1_000_000),
        remedy=cure.remedy,
        fallback=cure.fallback,
    )


def _open_call(work: Work) -> ModelCall:
    assert work.state.turn is not None and work.state.turn.model is not None
    return work.state.turn.model


def _worst(call: ModelCall) -> Usage:
    """Return the reservation as usage: what a call may have cost that nobody answered for."""
    output = min(call.max_output_tokens, call.reserved_tokens)
    return Usage(
        input_tokens=call.reserved_tokens - output,
        output_tokens=output,
        cost_micro_usd=call.reserved_micro_usd,
        estimated=True,
    )
