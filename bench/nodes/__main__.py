"""`python -m bench.nodes`: nodes on one PostgreSQL. See docs/performance.md and docs/sizing.md."""

import argparse
import asyncio
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
import psycopg

from bench.measure import Control, spread, wake_promptly
from bench.nodes import report
from bench.nodes.figures import Cell, Figures, Load
from bench.nodes.idle import idle
from bench.nodes.scale import cell
from bench.nodes.sizing import costs, sizing
from perdure.testing.postgres import PostgresServer

_RESULTS: Final = Path(__file__).parents[1] / "results"
_SHOWN: Final = Path(__file__).parent / "shown.json"  # what the documents show; kept with them
_LATEST: Final = _RESULTS / "nodes-latest.json"
_NODES: Final = (1, 2, 4)
_MANY: Final = 100_000
# Checkpoints are made where the measurement says so, and nowhere else.
_SETTINGS: Final = {"checkpoint_timeout": "1h", "max_wal_size": "20GB"}


def main() -> None:
    """Measure, print the tables, write the JSON; with --write also the documents."""
    options = _options()
    out = options.out or (_SHOWN if options.write else _LATEST)
    if options.again:
        figures = msgspec.json.decode(out.read_bytes(), type=Figures)
    else:
        figures = _measured(options)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    print(report.full(figures), sizing(costs(figures)), sep="\n\n")
    if options.write:
        report.write(figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.nodes", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the documents")
    parser.add_argument("--again", action="store_true", help="measure nothing: take what --out has")
    parser.add_argument("--quick", action="store_true", help="small loads: does it run at all?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON file")
    parser.add_argument("--place", type=Path, metavar="DIR", help="measure the disk that DIR is on")
    return parser.parse_args()


def _measured(options: argparse.Namespace) -> Figures:
    _RESULTS.mkdir(exist_ok=True)
    rounds = 1 if options.quick else options.rounds
    prompt = wake_promptly()
    before, begun = os.getloadavg()[0], time.monotonic()
    # Beside the results, because the system's own place for such files may be in memory.
    folder = Path(tempfile.mkdtemp(dir=options.place or _RESULTS))
    (folder / "postgres").mkdir()
    control = Control(folder)
    try:
        with PostgresServer(folder / "postgres", settings=_SETTINGS) as server:
            version = _version(server)
            try:
                cells = _cells(server, control, rounds, quick=options.quick)
                _say("idle sessions")
                many = 1_000 if options.quick else _MANY
                resting = asyncio.run(idle(server, many, 1 if options.quick else 8, control))
            except Exception:
                sys.stderr.write(server.log.read_text()[-4000:])
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Figures(
        dt.datetime.now(tz=dt.UTC).date().isoformat(), os.cpu_count() or 0,
        platform.python_version(), version, f"{platform.system()} {platform.machine()}", before,
        os.getloadavg()[0], prompt, rounds, (time.monotonic() - begun) / 60,
        spread(control.seconds), cells, resting,
    )  # fmt: skip


def _cells(server: PostgresServer, control: Control, rounds: int, *, quick: bool) -> list[Cell]:
    nodes = _NODES[:2] if quick else _NODES
    each, paced, waves = (8, 4, 1) if quick else (200, 40, 3)
    loads = [Load(n, each, waves) for n in nodes]
    loads += [Load(n, paced * n, waves, 50.0) for n in nodes]
    found = []
    for turn in range(rounds):
        shift = turn * len(loads) // rounds  # nobody always follows the same neighbour
        for number, load in enumerate(loads[shift:] + loads[:shift]):
            _say(f"round {turn + 1}: {load.nodes} nodes, calls of {load.pause_ms:g} ms")
            found.append(cell(server, f"b{turn}n{number}", load, turn, control))
        last = Load(nodes[-1], each, waves)
        found.append(cell(server, f"b{turn}cold", last, turn, control, checkpoints=True))
    return found


def _version(server: PostgresServer) -> str:
    with psycopg.connect(server.conninfo()) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return str(row[0]) if row else ""


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
