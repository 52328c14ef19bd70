"""What many sessions need: arithmetic on what a step was measured to cost, and nothing else."""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import msgspec

from bench.nodes.figures import Cell, Figures

FULL: Final = 0.6  # how busy a core may be, on average
RINGS: Final = 100  # a second, at most, of each node
LOOKS: Final = 50  # a second, at most, at a node where there is always news
_RATES: Final = (100, 1_000, 10_000, 100_000)
_SESSIONS: Final = (10_000, 100_000, 1_000_000)
_PRIMARY_CORES: Final = (8, 32, 96)


class Costs(msgspec.Struct, frozen=True):
    """Of a step: microseconds of a core, bytes, commits. `wal_cold`: right after a checkpoint."""

    database_us: float
    node_us: float
    wal: float
    wal_cold: float
    commits: float
    disk: float


class Basis(msgspec.Struct, frozen=True):
    """`busy`: of nodes that have all they can do; `calm`: of nodes with little at a time, where
    each step is nearly a commit of its own. `look_us`: of a look of one node, by how many it hears.
    """

    busy: Costs
    calm: Costs
    idle_disk: float
    idle_events: int
    connections: int
    look_us: Sequence[tuple[int, float]]
    rung_us: float
    heard_us: float

    def looking(self, nodes: int) -> float:
        """Return the cores of the database that so many nodes take by looking."""
        (few, cheap), (many, dear) = self.look_us[0], self.look_us[-1]
        slope = (dear - cheap) / max(1, many - few)
        return nodes * LOOKS * (cheap + max(0.0, slope) * max(0, nodes - few)) / 1e6

    def ringing(self, nodes: int, commits: float) -> float:
        """Return the cores of the database for hints: of each node, to each node."""
        rings = min(nodes * RINGS, commits)
        return rings * (self.rung_us + nodes * self.heard_us) / 1e6

    def all(self, cost: Costs, rate: float) -> float:
        """Return all cores of the database, each wholly busy."""
        nodes = count_nodes(cost, rate)
        hints = self.looking(nodes) + self.ringing(nodes, rate * cost.commits)
        return rate * cost.database_us / 1e6 + hints


def costs(figures: Figures) -> Basis:
    """Take the dearest of the cells, by the medians over the rounds."""
    warm = [cell for cell in figures.cells if not cell.after_checkpoint]
    cold = [cell for cell in figures.cells if cell.after_checkpoint]
    busy, calm = ([c for c in warm if bool(c.load.pause_ms) == paced] for paced in (False, True))
    idle = figures.idle
    return Basis(
        _costs(busy, cold), _costs(calm, cold), idle.bytes_per_session, idle.events_per_session,
        round(max((cell.connections for cell in warm), default=0)),
        [(look.nodes, look.database_us) for look in idle.looks], idle.hints.rung_us,
        idle.hints.heard_us,
    )  # fmt: skip


def _costs(warm: Sequence[Cell], cold: Sequence[Cell]) -> Costs:
    wal = _worst(warm, lambda c: c.per_step.wal_bytes)
    return Costs(
        _worst(warm, lambda c: c.per_step.database_us),
        _worst(warm, lambda c: c.per_step.node_us),
        wal,
        max(wal, _worst(cold, lambda c: c.per_step.wal_bytes)),
        _worst(warm, lambda c: c.per_step.commits),
        _worst(warm, lambda c: c.disk_bytes),
    )


def _worst(cells: Sequence[Cell], of: Callable[[Cell], float]) -> float:
    by: dict[object, list[float]] = {}
    for cell in cells:
        by.setdefault(cell.load, []).append(of(cell))
    return max((median(each) for each in by.values()), default=0.0)


def sizing(basis: Basis) -> str:
    """Return the tables, for docs/sizing.md."""
    idle = f"on disk, {basis.idle_events} events and a cached state each"
    means = (
        f"With these, a core {FULL:.0%} busy on average, and {basis.connections} connections of a "
        "node:"
    )
    return "\n\n".join((
        _table(_COSTS, [_cost("busy", basis.busy), _cost("calm", basis.calm)]),
        means,
        _table(_NEEDS, [_need(basis, rate) for rate in _RATES]),
        "Where the processors of one primary end, by the same arithmetic:",
        _table(("cores of the database", "steps/s"), [_end(basis, n) for n in _PRIMARY_CORES]),
        "Disk:",
        _table(("sessions", idle, "and for every 20 steps more of each"),
               [_kept(basis, count) for count in _SESSIONS]),
    ))  # fmt: skip


_COSTS: Final = (
    "a step at nodes that are", "database CPU", "node CPU", "WAL", "WAL after a checkpoint",
    "commits", "on disk",
)  # fmt: skip
_NEEDS: Final = (
    "steps/s", "node processes", "database cores for steps", "for nodes that look",
    "for hints",
    "WAL MB/s", "WAL MB/s after a checkpoint", "commits/s", "GB/day on disk", "connections",
)  # fmt: skip


def _cost(name: str, cost: Costs) -> list[str]:
    return [
        name, f"{cost.database_us:,.0f} µs", f"{cost.node_us:,.0f} µs", f"{cost.wal:,.0f} B",
        f"{cost.wal_cold:,.0f} B", f"{cost.commits:.3f}", f"{cost.disk:,.0f} B",
    ]  # fmt: skip


def count_nodes(cost: Costs, rate: float) -> int:
    """Return how many processes make so many steps a second."""
    # Two at least: one may fail.
    return max(2, math.ceil(rate * cost.node_us / 1e6 / FULL))


def _need(basis: Basis, rate: int) -> list[str]:
    busy, calm = basis.busy, basis.calm
    nodes = [count_nodes(cost, rate) for cost in (busy, calm)]
    looks = [basis.looking(count) / FULL for count in nodes]
    rings = [
        basis.ringing(count, rate * cost.commits) / FULL
        for count, cost in zip(nodes, (busy, calm), strict=True)
    ]
    return [
        f"{rate:,}",
        _span(*nodes, form=",.0f"),
        _span(*(rate * c.database_us / 1e6 / FULL for c in (busy, calm)), form=",.1f"),
        _span(*looks, form=",.1f"),
        _span(*rings, form=",.1f"),
        _span(*(rate * c.wal / 1e6 for c in (busy, calm)), form=",.1f"),
        _span(*(rate * c.wal_cold / 1e6 for c in (busy, calm)), form=",.1f"),
        _span(*(rate * c.commits for c in (busy, calm)), form=",.0f"),
        _span(*(rate * c.disk * 86_400 / 1e9 for c in (busy, calm)), form=",.0f"),
        _span(*(count * basis.connections for count in nodes), form=",.0f"),
    ]


def _end(basis: Basis, cores: int) -> list[str]:
    rates = []
    for cost in (basis.busy, basis.calm):
        rate = 0
        while basis.all(cost, rate) < cores * FULL:
            rate += 100
        rates.append(rate)
    return [f"{cores}", _span(*rates, form=",.0f")]


def _kept(basis: Basis, count: int) -> list[str]:
    step = max(basis.busy.disk, basis.calm.disk)
    return [
        f"{count:,}", f"{count * basis.idle_disk / 1e9:,.1f} GB",
        f"{count * 20 * step / 1e9:,.1f} GB",
    ]  # fmt: skip


def _span(one: float, other: float, *, form: str) -> str:
    low, high = format(min(one, other), form), format(max(one, other), form)
    return low if low == high else f"{low} to {high}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
