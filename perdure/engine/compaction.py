"""Performing COMPACT and REPAIR: a transcript that a model cannot read, made readable."""

from typing import Final

from msgspec.structs import replace

from perdure.core import budget, compacting, events as e
from perdure.core.compacting import Elide, Goal, Summarise
from perdure.core.content import Text, ToolCall, UserItem, as_content
from perdure.core.context import Transcript, plain
from perdure.core.errors import ErrorInfo, error_info
from perdure.core.events import Payload
from perdure.core.secrets import scrub
from perdure.engine.breaker import Way
from perdure.engine.endings import end_turn
from perdure.engine.model_calls import call_model, call_prefix, leave, requested, stream
from perdure.engine.work import Work
from perdure.ports.model import ModelRequest

# A summary fails by these for a reason that the next model call would meet just the same.
_NOT_THE_SUMMARY: Final = (
    "E-KEY-MISSING",
    "E-MODEL-AUTH",
    "E-MODEL-UNKNOWN",
    "E-MODEL-UNREACHABLE",
)
_WHY_CHARS: Final = 500


async def compact(work: Work) -> None:
    """Make the transcript shorter: by eliding old results, else by a summary of what is old.

    Where nothing can be made shorter the model is called as it is, or the turn fails if that has
    just been refused.
    """
    read = await work.journal.transcript()
    goal = compacting.goal_of(work.state, compacting.size(read.items))
    match compacting.plan(read, goal):
        case Elide() as way:
            work.journal.append(_elided(read, way))
        case Summarise() as way:
            await _summarise(work, read, goal, way)
        case None if work.state.turn is not None and work.state.turn.remedy == "compact":
            await end_turn(work, "failed", _full())
        case None:
            await call_model(work)


async def repair(work: Work) -> None:
    """Make the transcript plain, or end the turn where it is plain already."""
    read = await work.journal.transcript()
    refused = read.refused or error_info("E-MODEL-REJECT", "model", "The request was rejected.")
    if all(plain(item) == item for item in read.items):
        await end_turn(work, "failed", refused)
        return
    why = scrub(refused.message)[:_WHY_CHARS]
    work.journal.append(e.ContextRepaired(read.seqs[-1], why))


async def _summarise(work: Work, read: Transcript, goal: Goal, way: Summarise) -> None:
    """Have the summary written. Its reply and what it replaces reach the disk together."""
    gone = read.items[: way.cut]
    text = compacting.told(gone, compacting.size(read.items) // 2)
    items = (UserItem(as_content(text)),)
    called = await leave(work, lambda at: _reserved(work, items, at))
    turn = work.state.turn
    if called is None or turn is None or turn.model is None:
        return
    model, name = called
    request = ModelRequest(
        model=name,
        instructions=compacting.INSTRUCTIONS,
        items=items,
        max_output_tokens=turn.model.max_output_tokens,
        call_prefix=call_prefix(work.state, turn.number),
        first_call=turn.next_call,
        attempt=turn.failures + 1,
    )
    await stream(work, model, request, after=lambda reply: _ends(reply, read, goal, way))


async def _reserved(work: Work, items: tuple[UserItem, ...], at: Way) -> bool:
    """Book the call for a summary; see `model_calls`."""
    bound = budget.request_bound(compacting.INSTRUCTIONS, (), items)
    price = budget.price_of(work.kit.prices, at.model)
    room = work.ledger.reserve(work.state.id, bound, price, at.model)
    if room is None:
        return False
    if isinstance(room, ErrorInfo):
        await end_turn(work, "budget", room)
        return True
    booked = requested(work, (), budget.shortened(room, compacting.SUMMARY_TOKENS, price), at)
    work.journal.append(replace(booked, purpose="compact"))
    return True


def _ends(
    reply: e.ModelResponded, read: Transcript, goal: Goal, way: Summarise
) -> tuple[Payload, ...]:
    """Return a summary's reply with the compaction it leads to.

    A summary that nobody could write must not keep the session from going on: then results are
    elided as far as it goes, or what is old is left out with a few words.
    """
    if reply.status == "ok":
        said = tuple([item for item in reply.items if not isinstance(item, ToolCall)])
        reply = replace(reply, items=said)  # it was told to call nothing, and nothing is called
        words = "".join(item.text for item in reply.items if isinstance(item, Text))
        return (reply, *_replaced(way, compacting.written(words, read, way), read))
    if reply.retry_at_us is not None or reply.remedy == "fallback":
        return (reply,)
    if reply.error is not None and reply.error.code in _NOT_THE_SUMMARY:
        return (replace(reply, remedy=""),)
    reply = replace(reply, remedy="compact")
    harder = compacting.elision(read, goal)
    if harder is not None:
        return (reply, _elided(read, harder))
    return (reply, *_replaced(way, compacting.written("", read, way), read))


def _replaced(way: Summarise, summary: str, read: Transcript) -> tuple[Payload, ...]:
    done = e.ContextCompacted(way.upto, summary, items=way.cut)
    return (_elided(read, Elide(read.seqs[-1], way.most)), done) if way.most else (done,)


def _elided(read: Transcript, way: Elide) -> e.ContextCompacted:
    count = compacting.shortened(read, way)
    return e.ContextCompacted(way.upto, elided=way.most, items=count)


def _full() -> ErrorInfo:
    return error_info(
        "E-CONTEXT-FULL",
        "runtime",
        "The conversation is longer than the model can read, and nothing in it can be made "
        "shorter. Nothing was lost: all of it is in the journal.",
        hint="perdure rewind ID --to SEQ    (or perdure resume ID with a model that reads more)",
    )
