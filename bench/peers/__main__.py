"""`python -m bench.peers`: Perdure beside other systems. See docs/performance.md."""

import argparse
import datetime as dt
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from bench.measure import as_nice, spread, wake_promptly
from bench.peers import report
from bench.peers.figures import Figures
from bench.peers.measuring import FULL, QUICK, Bench
from bench.peers.systems import BASE, SYSTEMS, System
from perdure.testing.postgres import PostgresServer, programs

_RESULTS: Final = Path(__file__).parents[1] / "results"
_SHOWN: Final = Path(__file__).parent / "shown.json"  # what the documents show; kept with them
_LATEST: Final = _RESULTS / "peers-latest.json"


def main() -> None:
    """Measure, print the tables, write the JSON; with --write also README.md and docs."""
    options = _options()
    options.out = options.out or (_SHOWN if options.write else _LATEST)
    if options.again:
        figures = msgspec.json.decode(options.out.read_bytes(), type=Figures)
    else:
        figures = _measured(options)
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    print(report.full(figures))
    if options.write:
        report.write(figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the documents")
    parser.add_argument("--again", action="store_true", help="measure nothing: take what --out has")
    parser.add_argument("--quick", action="store_true", help="small loads: does it run at all?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="NAMES", help="systems, separated by commas")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON file")
    parser.add_argument("--place", type=Path, metavar="DIR", help="measure the disk that DIR is on")
    return parser.parse_args()


def _measured(options: argparse.Namespace) -> Figures:
    systems = _chosen(options.only)
    place = options.place or _RESULTS
    for folder in (options.out.parent, place):
        folder.mkdir(parents=True, exist_ok=True)
    prompt = wake_promptly()
    as_nice()
    before, begun = os.getloadavg()[0], time.monotonic()
    # Beside the results, because the system's own place for such files may be in memory.
    with tempfile.TemporaryDirectory(dir=place) as root:
        bench, rounds = _run(Path(root), systems, options)
    return Figures(
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        load_before=before,
        load_after=os.getloadavg()[0],
        prompt_wakeups=prompt,
        niceness=os.nice(0),
        rounds=rounds,
        minutes=(time.monotonic() - begun) / 60,
        versions=bench.versions,
        control=spread(bench.control.seconds),
        speeds=bench.speeds,
        kills=bench.kills,
        growths=bench.growths,
        skipped=bench.skipped,
    )


def _run(root: Path, systems: list[System], options: argparse.Namespace) -> tuple[Bench, int]:
    rounds = 1 if options.quick else options.rounds
    server = _postgres(root, systems)
    try:
        bench = Bench(root, QUICK if options.quick else FULL, server)
        for turn in range(rounds):
            # Each round begins with another, so that nobody always follows the same neighbour.
            shift = turn * len(systems) // rounds
            bench.round(turn, _interleaved(systems[shift:] + systems[:shift]))
        bench.grow(systems)
    finally:
        if server is not None:
            server.close()
            shutil.rmtree(server.root, ignore_errors=True)
    return bench, rounds


def _interleaved(systems: list[System]) -> list[System]:
    """Return them with the one that all are compared with at the start and in the middle."""
    base = [system for system in systems if system.name == BASE]
    others = [system for system in systems if system.name != BASE]
    half = len(others) // 2
    return [*base, *others[:half], *(base if others else []), *others[half:]]


def _postgres(root: Path, systems: list[System]) -> PostgresServer | None:
    if programs() is None or not any(system.server == "postgres" for system in systems):
        return None
    # On the disk that is measured. What came after a commit that was waited for is its default.
    place = root / "postgres"
    place.mkdir()
    server = PostgresServer(place)
    server.start()
    as_nice(server._postmaster)
    return server


def _chosen(names: str) -> list[System]:
    wanted = [name for name in names.split(",") if name]
    unknown = set(wanted) - {system.name for system in SYSTEMS}
    if unknown:
        known = ", ".join(system.name for system in SYSTEMS)
        sys.exit(f"no such system: {', '.join(sorted(unknown))}; there are {known}")
    return [system for system in SYSTEMS if not wanted or system.name in wanted]


if __name__ == "__main__":
    main()
