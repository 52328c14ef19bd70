"""One turn of one system: its cells, its death and its growth."""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from bench.measure import Control
from bench.peers.figures import Growth, Kill, Skipped, Speed
from bench.peers.process import Failed, Runner
from bench.peers.servers import Place, place_for
from bench.peers.systems import System
from perdure.testing.postgres import PostgresServer

STEPS: Final = 20
_MODEL_S: Final = 1.5


class Cell(msgspec.Struct, frozen=True):
    """So many sessions at once, again until `least_s` are over, cut after `most_s`."""

    sessions: int
    least_s: float
    most_s: float


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    cells: tuple[Cell, ...]
    kill_at: int
    grow_to: tuple[int, ...]
    grow_s: float


FULL = Plan(
    (Cell(1, 1.0, 6.0), Cell(200, 0.5, 20.0), Cell(2000, 0.0, 12.0)), 500, (500, 2000), 75.0
)
QUICK = Plan((Cell(1, 0.2, 4.0), Cell(8, 0.0, 4.0)), 20, (20, 40), 20.0)


class Bench:
    """What all turns share."""

    def __init__(self, root: Path, plan: Plan, postgres: PostgresServer | None) -> None:
        self._root = root
        self._plan = plan
        self._postgres = postgres
        self._count = 0
        self.control = Control(root)
        self.speeds: list[Speed] = []
        self.kills: list[Kill] = []
        self.growths: list[Growth] = []
        self.skipped: list[Skipped] = []
        self.versions: dict[str, dict[str, str]] = {}
        self._hopeless: set[tuple[str, str]] = set()

    def round(self, turn: int, systems: Sequence[System]) -> None:
        """Measure each cell of all systems, one right after the other, then the next cell.

        Neighbours on the machine come and go within minutes: what is compared lies close together,
        and what all are compared with is measured again in the midst of them.
        """
        for cell in self._plan.cells:
            what = f"{cell.sessions:,} sessions"
            for system in systems:
                self._try(system, what, partial(self._speed, system, turn, cell))
        for system in systems:
            self._try(system, "SIGKILL", partial(self._kill, system, turn))

    def grow(self, systems: Sequence[System]) -> None:
        """Measure long sessions."""
        for steps in self._plan.grow_to:
            for system in (each for each in systems if not each.grows_as):
                self._try(system, f"{steps:,} steps", partial(self._grow, system, steps))

    def _try(self, system: System, what: str, measure: Callable[[], str]) -> None:
        # What could not be opened, or did not get through once, is not waited for again.
        if {(system.name, what), (system.name, "")} & self._hopeless:
            return
        self.control.burst(20)
        try:
            _say(f"{system.label}: {what}: {measure()}")
        except (Failed, OSError, psycopg.Error) as error:
            _say(f"SKIPPED {system.label}: {what}: {error}")
            self.skipped.append(Skipped(system.name, what, str(error)))
            known = system.name in self.versions
            self._hopeless.add((system.name, what if known else ""))

    def _place(self, system: System) -> Place:
        self._count += 1
        return place_for(system, self._root / f"{system.name}-{self._count}", self._postgres)

    def _runner(self, system: System) -> Runner:
        return Runner(system, self._root / f"{system.name}.log")

    def _open(self, runner: Runner, system: System, place: Place, stall: int | None = None) -> None:
        folder = str(place.folder)
        answer = runner.ask("open", folder=folder, url=place.url, stall=stall)
        self.versions[system.name] = answer

    def _speed(self, system: System, turn: int, cell: Cell) -> str:
        place = self._place(system)
        try:
            with self._runner(system) as runner:
                self._open(runner, system, place)
                _run(runner, Cell(1, 0.0, 10.0), STEPS)
                found = _run(runner, cell, STEPS)
        finally:
            place.close()
        found |= {"system": system.name, "turn": turn, "sessions": cell.sessions}
        speed = msgspec.convert(found, Speed)
        self.speeds.append(speed)
        if speed.cut:
            # Once is enough to know: it would take as long in every round.
            self._hopeless.add((system.name, f"{cell.sessions:,} sessions"))
        return f"{speed.rate:,.0f} steps/s{' until it was cut' if speed.cut else ''}"

    def _kill(self, system: System, turn: int) -> str:
        steps = self._plan.kill_at
        place = self._place(system)
        try:
            with self._runner(system) as first:
                self._open(first, system, place, stall=steps)
                first.ask("stall", within_s=self._plan.grow_s, steps=steps)
                # As long as a model takes to answer, so that what runs after a step is done too.
                time.sleep(_MODEL_S)
                killed = time.monotonic()
            with self._runner(system) as second:
                self._open(second, system, place, stall=steps)
                found = second.ask("resume", within_s=self._plan.grow_s, steps=steps)
                kill = Kill(
                    system.name, turn, steps, (found["at"] - killed) * 1000,
                    (found["at"] - second.ready) * 1000, found["again"],
                )  # fmt: skip
        finally:
            place.close()
        self.kills.append(kill)
        return f"next step after {kill.next_ms:,.0f} ms, {kill.again} again"

    def _grow(self, system: System, steps: int) -> str:
        place = self._place(system)
        try:
            with self._runner(system) as runner:
                self._open(runner, system, place)
                place.settle()
                before = place.written()
                found = _run(runner, Cell(1, 0.0, self._plan.grow_s), steps)
                own = runner.ask("close")["written"]
                place.settle()
                written = own + place.written() - before
            growth = Growth(
                system.name, steps, found["steps"], place.disk(), written, found["first_ms"],
                found["last_ms"], found["seconds"],
            )  # fmt: skip
        finally:
            place.close()
        self.growths.append(growth)
        return f"{growth.disk:,} bytes on disk, {growth.written:,} written"


def _run(runner: Runner, cell: Cell, steps: int) -> dict[str, Any]:
    return runner.ask(
        "run", within_s=cell.most_s, sessions=cell.sessions, at_once=cell.sessions, steps=steps,
        least_s=cell.least_s, most_s=cell.most_s,
    )  # fmt: skip


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
