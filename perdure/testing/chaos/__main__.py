"""Chaos, from the command line.

    python -m perdure.testing.chaos                         1,000 takeovers, or 25 minutes
    python -m perdure.testing.chaos --takeovers 20 --seconds 40
    python -m perdure.testing.chaos --store sqlite          kills and stops alone

Prints what came of it, and exits 1 when a promise was broken or a session did not come to rest.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from perdure.testing.chaos.checker import Kind
from perdure.testing.chaos.crew import Options, Report
from perdure.testing.chaos.ground import Ground, PostgresGround, SqliteGround
from perdure.testing.chaos.run import play
from perdure.testing.postgres import PostgresServer

FOLLOWERS: Final[tuple[Kind, ...]] = (
    "follower gap",
    "follower duplicate",
    "follower disorder",
    "follower difference",
    "follower error",
)


def lines_of(report: Report) -> Iterator[str]:
    """Say what came of a run, the figures that are promised to be 0 among it."""
    yield f"takeovers:                {report.takeovers}"
    yield f"stale writes:             {report.count('stale write', 'two owners')}"
    yield f"once-tools run twice:     {report.count('once ran twice')}"
    yield f"acknowledged events lost: {report.count('lost event', 'lost post')}"
    yield f"follower errors:          {report.count(*FOLLOWERS)}"
    yield f"re-dispatches:            {report.count('re-dispatch')}"
    other = report.count("gap", "chain break", "post taken twice", "key changed")
    yield f"other anomalies:          {other}"
    yield f"sessions that hang:       {len(report.stuck)}"
    yield (
        f"of {report.events} events, {report.turns} turns, {report.tools} tool calls, "
        f"{report.seen} events seen by followers, in {report.seconds:.0f} s"
    )
    strikes = ", ".join(f"{kind} {count}" for kind, count in sorted(report.strikes.items()))
    yield f"struck by: {strikes}"
    for anomaly in report.anomalies[:50]:
        yield f"✗ {anomaly.kind}: {anomaly.session}: {anomaly.text}"
    for session in report.stuck:
        yield f"✗ hangs: {session}"
    for failure in report.failed:
        yield f"✗ {failure}"


def faketime() -> str:
    """Return the path of libfaketime's library, or "" where it is not installed."""
    for folder in ("/usr/lib", "/usr/lib64", "/usr/local/lib"):
        for path in Path(folder).glob("**/faketime/libfaketime*.so.1"):
            if path.name == "libfaketimeMT.so.1":
                return str(path)
    return ""


async def _run(ground: Ground, home: Path, options: Options) -> Report:
    return await play(ground, home, options, lambda line: print(line, flush=True))


def main(words: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing.chaos", description=__doc__)
    parser.add_argument("--takeovers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1500.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=48)
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calm", type=float, default=10.0, help="leases that the first tools take")
    parser.add_argument("--failovers", type=int, default=25, help="one in so many strikes; 0: none")
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--variant", default="", help="a store that is wrong on purpose")
    parser.add_argument("--keep", action="store_true", help="keep what was observed")
    given = parser.parse_args(words)
    options = Options(
        given.nodes, given.sessions, given.takeovers, given.seconds, given.lease, given.seed,
        given.calm, given.failovers if given.store == "postgres" else 0, faketime(), given.variant,
    )  # fmt: skip
    home = Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    clocks = "libfaketime" if options.library else "the nodes' own"
    print(f"{given.store}, seed {options.seed}, wrong clocks by {clocks}, in {home}", flush=True)
    try:
        if given.store == "sqlite":
            report = asyncio.run(_run(SqliteGround(home), home, options))
        else:
            with PostgresServer() as server:
                ground = PostgresGround(server, "chaos", options.lease_s)
                report = asyncio.run(_run(ground, home, options))
    finally:
        if not given.keep:
            shutil.rmtree(home, ignore_errors=True)
    for line in lines_of(report):
        print(line)
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
