"""Which model the call that is due may go to, and what its provider's breaker learns of it."""

from collections.abc import AsyncGenerator, AsyncIterator

from perdure.core.errors import PerdureError, error_info
from perdure.engine.breaker import Way
from perdure.engine.remedies import models_due
from perdure.engine.work import Work
from perdure.ports.model import Delta, ModelFailed, ModelReply


def way_of(work: Work) -> Way:
    """Return which model the call that is due may go to now, or how long it must wait."""
    models = models_due(work.state)
    missing = {name: why for name in models if (why := _missing(work, name))}
    kit = work.kit
    return kit.breakers.pick(models, missing, kit.clock.monotonic(), kit.bounds.breaker)


def _missing(work: Work, model: str) -> str:
    """Return why there is no such model here, or nothing where there is."""
    try:
        work.kit.models.get(model)
    except PerdureError as error:
        return f"{error.code}: {error.message}"
    return ""


async def watched(
    work: Work, model: str, pieces: AsyncIterator[Delta | ModelReply]
) -> AsyncGenerator[Delta | ModelReply, None]:
    """Pass the pieces of a reply on, let the breaker of the provider know how the call ends, and
    close the connection when the reader leaves early.
    """
    clock, rules, breakers = work.kit.clock, work.kit.bounds.breaker, work.kit.breakers
    call = breakers.leaves(model)
    replied = False
    try:
        async for piece in pieces:
            if isinstance(piece, ModelReply):
                replied = True
                breakers.comes_back(model, call, None, clock.monotonic(), rules)
            yield piece
        if not replied:
            torn = error_info("E-MODEL-TORN", "model", "It ended early.", retryable=True)
            breakers.comes_back(model, call, torn, clock.monotonic(), rules)
    except ModelFailed as error:
        breakers.comes_back(model, call, error.info, clock.monotonic(), rules)
        raise
    finally:
        breakers.given_up(model, call)  # where nothing was heard of it, it says nothing
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
