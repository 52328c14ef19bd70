"""Seeds that found something once. They cost little and are run for ever."""

import logging

import pytest

from perdure.testing.sim import KINDS
from perdure.testing.simulation import simulate

FOUND = (
    ("trees", 27, "a full disk answered a call in its child's place"),
    ("trees", 48, "a seed was not the same run every time"),
    ("trees", 132, "a letter for a child whose errand was over was nobody's work"),
    ("trees", 143, "a replay waited for a clock that had been set back"),
    ("trees", 287, "a guest's error ended the errand of the tree's new owner"),
    ("trees", 15, "a child lost its place among those at work while the disk was full"),
    ("trees", 243, "a child that was woken before it had an event was a root by itself"),
    ("trees", 151, "a replay took a recovery that opens the sandbox for another process"),
    ("trees", 3904, "a replay went on with the work of a process that had ended"),
    ("branches", 0, "a replay that let go of work waited for ever"),
    ("trees", 293, "children that a dead process left behind did not count"),
    ("budgets", 265, "a letter was taken while its tree's owner was letting go"),
    ("budgets", 1285, "a process did not end while it was stopping subagents"),
    ("budgets", 3094, "a replay knew of no recovery that a change and a pause came in between"),
    ("waits", 1833, "a replay knew of no recovery that a pause came in between"),
    ("budgets", 1333, "a session was held by whoever had failed to let go of it"),
)


@pytest.mark.parametrize(("kind", "seed", "story"), FOUND)
def test_it_does_not_come_back(kind: str, seed: int, story: str) -> None:
    logging.disable(logging.CRITICAL)
    try:
        assert not simulate(seed, kind=KINDS[kind]).violations, story
    finally:
        logging.disable(logging.NOTSET)
