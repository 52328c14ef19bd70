"""Performing COMPACT and REPAIR: a transcript that a model cannot read, made readable."""

from perdure.core import events as e
from perdure.engine.work import Work

_ELIDED = 400  # characters left of a long tool result


async def compact(work: Work) -> None:
    """Make the transcript shorter."""
    work.journal.append(e.ContextCompacted(work.state.seq, elided=_ELIDED))


async def repair(work: Work) -> None:
    """Make the transcript plain."""
    work.journal.append(e.ContextRepaired(work.state.seq))
