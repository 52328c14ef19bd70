"""`python -m bench`: measure this machine. See docs/performance.md."""

import argparse
import asyncio
import datetime as dt
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Final

import apsw
import msgspec

from bench import first_token
from bench.footprint import memory, startup
from bench.forks import forks
from bench.growth import growth
from bench.measure import wake_promptly
from bench.report import Figures, Machine, markdown
from bench.resume import resume
from bench.steps import Cell, Load, cell

_RESULTS: Final = Path(__file__).parent / "results"
_LOADS: Final = (
    *(Load(effect, 1, 20, 10, pause_ms=3.0) for effect in ("read", "once")),
    *(
        Load(effect, sessions, waves, counted)
        for sessions, waves, counted in ((1, 40, 10), (16, 15, 3), (200, 5, 1), (2000, 2, 1))
        for effect in ("bare", "read", "once")
    ),
)
_QUICK: Final = tuple(Load(effect, n, 2) for n in (1, 16) for effect in ("bare", "read", "once"))


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = _options()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    prompt = wake_promptly()
    before = os.getloadavg()[0]
    # Beside the results, because the system's own place for such files may be in memory.
    with tempfile.TemporaryDirectory(dir=options.place or options.out.parent) as place:
        figures = _measure(Path(place), quick=options.quick, prompt=prompt, load=before)
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    print(markdown(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="small loads: does it run at all?")
    parser.add_argument("--out", type=Path, default=_RESULTS / "latest.json", metavar="FILE")
    parser.add_argument("--place", type=Path, metavar="DIR", help="measure the disk that DIR is on")
    return parser.parse_args()


def _measure(place: Path, *, quick: bool, prompt: bool, load: float) -> Figures:
    cells = [_told(place, each) for each in (_QUICK if quick else _LOADS)]
    _say("growth")
    grown = growth(place, 100 if quick else 2000, 1 if quick else 3)
    _say("resume")
    sizes = (100, 1000) if quick else (100, 1000, 10_000)
    resumed = [resume(place, size, 2 if quick else 7) for size in sizes]
    _say("forks")
    branched = forks(place, *((200, 100, 1) if quick else (10_000, 7_000, 5)))
    _say("start-up")
    started = startup(place, 1 if quick else 7)
    _say("memory")
    resting = memory(place, 40 if quick else 1000, warm=20 if quick else 600)
    _say("the first token through the server, beside a direct call")
    token = asyncio.run(first_token.measure(place, quick=quick))
    return Figures(
        _machine(prompt=prompt, load=load), cells, grown, resumed, branched, started, resting, token
    )


def _told(place: Path, load: Load) -> Cell:
    _say(f"{load.sessions} sessions, {load.effect}")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return cell(Path(folder), load)


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def _machine(*, prompt: bool, load: float) -> Machine:
    return Machine(
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
        sqlite=apsw.sqlite_lib_version(),
        system=f"{platform.system()} {platform.machine()}",
        load_before=load,
        load_after=os.getloadavg()[0],
        prompt_wakeups=prompt,
    )


if __name__ == "__main__":
    main()
