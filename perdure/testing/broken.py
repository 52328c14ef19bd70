"""Every way in which the engine and its stores are broken on purpose, and how it must show.

A proof is worth as much as what it would have caught: each of these must be caught by the
simulation, within `SEEDS_MAX` seeds, and by one of the invariants that are named for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from perdure.engine.driver import Driver
from perdure.engine.journal import Journal
from perdure.testing import broken_engines as engines, broken_posts as stores
from perdure.testing.simulation import Build, Report, simulate

SEEDS_MAX: Final = 200


@dataclass(frozen=True)
class Variant:
    """A broken build, and the invariants of which at least one must see it."""

    build: Build
    seen_by: tuple[str, ...]


def _journal(journal: type[Journal], *seen_by: str) -> Variant:
    return Variant(Build(engine=engines.with_journal(journal)), seen_by)


def _driver(driver: type[Driver], *seen_by: str) -> Variant:
    return Variant(Build(engine=engines.with_driver(driver)), seen_by)


VARIANTS: Final[Mapping[str, Variant]] = {
    "started after the effect": _journal(engines.StartsLate, "write-ahead"),
    "effect before it is durable": _journal(engines.NeverWaits, "write-ahead"),
    "shown before it is durable": _journal(engines.TellsEarly, "acknowledged before durable"),
    "acknowledged before it is durable": Variant(
        Build(store=stores.AcknowledgesEarly), ("acknowledged",)
    ),
    "once run again after a crash": _driver(engines.RunsAgain, "once"),
    "letters lost": Variant(Build(store=stores.LosesLetters), ("acknowledged", "liveness")),
    "letters accepted twice": Variant(Build(store=stores.AcceptsTwice), ("acknowledged",)),
    "letters taken twice": _journal(engines.ForgetsWhatItTook, "acknowledged"),
    "calls left dangling": _journal(engines.LeavesDangling, "transcript"),
    "steer between call and result": _journal(engines.SteersAtOnce, "transcript"),
    "torn stream spliced": _journal(engines.SplicesTorn, "transcript"),
    "old epoch accepted": Variant(Build(memory=stores.UncheckedDisk), ("chain", "journal")),
    "no snapshot before": _journal(engines.NoSnapshotBefore, "workspace"),
    "no rollback": Variant(Build(environments=stores.NoRollback), ("workspace",)),
    "approval used again": _journal(engines.ApprovesAgain, "decisions"),
    "approval for other arguments": _driver(engines.ChangesArguments, "permission"),
    "asks nobody": _journal(engines.AsksNobody, "permission"),
    "recoveries counted afterwards": _driver(engines.CountsAfterwards, "poison"),
    "retries without bound": _journal(engines.RetriesForEver, "retries"),
    "budget looked at afterwards": _journal(engines.ChecksAfterwards, "prefixes"),
    "lost calls cost nothing": _journal(engines.LostCallsAreFree, "prefixes"),
    "follower skips": Variant(
        Build(store=stores.SkipsOnReread), ("follower", "liveness", "journal")
    ),
    "interrupted call runs on": _driver(engines.LeavesRunning, "still running", "workspace"),
    "fresh key on each attempt": _driver(engines.FreshKeys, "once"),
}


def catch(name: str, seeds_max: int = SEEDS_MAX) -> Report | None:
    """Run a variant until it is seen; None when it was not."""
    variant = VARIANTS[name]
    for seed in range(seeds_max):
        report = simulate(seed, "memory", variant.build)
        if any(violation.partition(":")[0] in variant.seen_by for violation in report.violations):
            return report
    return None
