"""Simulate, from the command line.

    python -m perdure.testing.sim --seeds 300        run 300 seeds
    python -m perdure.testing.sim --seed 17          run one and tell its story
    python -m perdure.testing.sim --kind branches    with forks and rewinds
    python -m perdure.testing.sim --kind trees       with subagents
    python -m perdure.testing.sim --kind budgets     with limits that are reached
    python -m perdure.testing.sim --kind waits       with approvals, answers, timers and signals
    python -m perdure.testing.sim --store postgres   over a real PostgreSQL
    python -m perdure.testing.sim --kind all         300 seeds, shared out over all kinds

A failure prints its seed and the invariant that does not hold, and exits 1.
"""

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from perdure.core import events as e
from perdure.core.events import Event
from perdure.testing.sim_branches import Branching
from perdure.testing.sim_budgets import Budgets
from perdure.testing.sim_trees import Trees
from perdure.testing.sim_waits import Waits
from perdure.testing.simulation import Report, Simulation, simulate

STORES: Final = ("memory", "sqlite", "postgres")
KINDS: Final[Mapping[str, type[Simulation]]] = {
    "plain": Simulation,
    "branches": Branching,
    "trees": Trees,
    "budgets": Budgets,
    "waits": Waits,
}
CHUNK: Final = 20
SQLITE_EVERY: Final = 8  # of "both": real SQL is slower, and the engine above it is the same


def store_of(seed: int, choice: str) -> str:
    """Return which store a seed runs on when `choice` is memory, sqlite, both, or an address."""
    if choice != "both":
        return choice
    return "sqlite" if seed % SQLITE_EVERY == 0 else "memory"


def run_chunk(seeds: Sequence[int], choice: str, kind: str = "plain") -> list[Report]:
    """Run some seeds in this process. Stories are kept of failures only."""
    logging.disable(logging.CRITICAL)  # the tools here fail by design
    reports = []
    for seed in seeds:
        report = simulate(seed, store_of(seed, choice), kind=KINDS[kind])
        reports.append(report if report.violations else report.without_story())
    return reports


def run_many(seeds: Sequence[int], choice: str, jobs: int, kind: str = "plain") -> Iterator[Report]:
    """Run seeds in `jobs` processes and yield their reports in order."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if jobs <= 1:
        for chunk in chunks:
            yield from run_chunk(chunk, choice, kind)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for reports in pool.map(run_chunk, chunks, [choice] * len(chunks), [kind] * len(chunks)):
            yield from reports


def tell(report: Report) -> str:
    """Return a run as a story for people: what happened, then what was wrong."""
    lines = [f"{at:12.5f}  {text}" for at, text in report.story]
    for name, events in report.journals.items():
        lines += ["", f"{name}:", *(f"  {_line(event)}" for event in events)]
    verdict = report.violations or ["every invariant holds"]
    return "\n".join([*lines, "", *verdict, summary(report)])


def summary(report: Report) -> str:
    """Return one line about a run."""
    return (
        f"seed {report.seed} on {report.store}: {report.events} events, {report.kills} kills, "
        f"{report.steps} callbacks, {len(report.violations)} violations"
    )


def _line(event: Event) -> str:
    detail = str(event.payload)
    if isinstance(event.payload, e.SessionCreated | e.SessionUpdated):
        detail = ""
    return f"{event.seq:4} turn {event.turn} {event.type} {detail[:160]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing.sim")
    parser.add_argument("--seeds", type=int, default=300, metavar="N", help="how many seeds")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first of them")
    parser.add_argument("--seed", type=int, metavar="N", help="run one seed and tell its story")
    parser.add_argument("--store", choices=(*STORES, "both"), default="both")
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="plain", help="what is run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    given = parser.parse_args(arguments)
    if given.store != "postgres":
        return _run(given, given.store)
    from perdure.testing.postgres import PostgresServer

    # It is the simulation that lets processes die, never the machine: nothing needs to be synced.
    with PostgresServer(settings={"fsync": "off"}) as server:
        return _run(given, server.url())


def _run(given: argparse.Namespace, choice: str) -> int:
    if given.seed is not None and given.kind != "all":
        logging.disable(logging.CRITICAL)
        report = simulate(given.seed, store_of(given.seed, choice), kind=KINDS[given.kind])
        print(tell(report))
        return 1 if report.violations else 0
    if given.kind != "all":
        seeds = range(given.first, given.first + given.seeds)
        return _many(seeds, choice, given.jobs, given.kind)
    failed = 0
    for place, kind in enumerate(KINDS):  # the seeds are shared out evenly
        count = (given.seeds + place) // len(KINDS) if given.seed is None else 1
        first = given.first if given.seed is None else given.seed
        print(f"{kind}: ", end="", flush=True)
        failed |= _many(range(first, first + count), choice, given.jobs, kind)
    return failed


def _many(seeds: Sequence[int], choice: str, jobs: int, kind: str) -> int:
    began = time.monotonic()
    failed = events = kills = 0
    for report in run_many(seeds, choice, jobs, kind):
        events += report.events
        kills += report.kills
        if report.violations:
            failed += 1
            print(f"seed {report.seed} ({report.store}): {report.violations[0]}", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{len(seeds)} seeds, {failed} failed; {events} events, {kills} processes killed; "
        f"{len(seeds) / seconds:.0f} runs/s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
