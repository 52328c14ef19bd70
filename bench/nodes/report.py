"""The figures as Markdown, and their way into the documents."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from bench.nodes.figures import Cell, Figures, Load
from bench.nodes.sizing import costs, sizing

ROOT: Final = Path(__file__).parents[2]
_MARKS: Final = ("<!-- bench-nodes:begin -->", "<!-- bench-nodes:end -->")


def full(figures: Figures) -> str:
    """Return all tables, for docs/performance.md."""
    cells = [cell for cell in figures.cells if not cell.after_checkpoint]
    blocks = (
        _run(figures),
        "The median of the rounds, and behind rates and times their range.",
        _table(_SCALE, [_row(same) for same in _alike(cells)]),
        "What it costs, each the median of the rounds:",
        _table(_COSTS, [_cost(same) for same in _alike(figures.cells)]),
        _updates(cells),
        _table(_IDLE, [
            [call.what, f"{call.few.p50_ms:.2f} / {call.few.p99_ms:.2f}",
             f"{call.many.p50_ms:.2f} / {call.many.p99_ms:.2f}", f"{call.ratio:.2f}"]
            for call in figures.idle.calls
        ]).replace("FEW", f"{figures.idle.few:,}").replace("MANY", f"{figures.idle.many:,}"),
        _plans(figures),
        _rest(figures),
    )  # fmt: skip
    return "\n\n".join(blocks)


_SCALE: Final = (
    "nodes", "sessions", "model and tool", "steps/s", "step p50 ms", "step p99 ms",
)  # fmt: skip
_COSTS: Final = (
    "nodes", "load", "database CPU/step", "node CPU/step", "WAL/step", "commits/step",
    "on disk/step", "opening a session: database CPU", "WAL",
)  # fmt: skip
_IDLE: Final = (
    "call", "p50 / p99 ms, FEW idle sessions", "p50 / p99 ms, MANY idle sessions",
    "ratio of the medians",
)  # fmt: skip


def _run(figures: Figures) -> str:
    return (
        f"{figures.date}: **all nodes, the database and this benchmark share {figures.cores} "
        f"cores**, {figures.system}, Python {figures.python}, PostgreSQL {figures.postgres} over a "
        f"unix socket, with `fsync` and `synchronous_commit` on; load "
        f"{figures.load_before:.1f} before and {figures.load_after:.1f} after, other work "
        f"included; {figures.rounds} rounds in {figures.minutes:.0f} minutes. The disk beside it, "
        f"appends of 4 KiB with `fdatasync` between the waves: {figures.control.p50_ms:.2f} ms "
        f"(p50), {figures.control.p99_ms:.2f} ms (p99)."
    )


def _alike(cells: Sequence[Cell]) -> list[list[Cell]]:
    found: dict[tuple[Load, bool], list[Cell]] = {}
    for cell in sorted(cells, key=lambda c: (c.after_checkpoint, c.load.pause_ms, c.load.nodes)):
        found.setdefault((cell.load, cell.after_checkpoint), []).append(cell)
    return list(found.values())


def _what(load: Load) -> str:
    return f"{load.pause_ms:g} ms each" if load.pause_ms else "at once"


def _row(cells: list[Cell]) -> list[str]:
    load = cells[0].load
    return [
        str(load.nodes), str(load.sessions), _what(load),
        _ranged(cells, lambda c: c.steps_per_second, ",.0f"),
        _ranged(cells, lambda c: c.step.p50_ms, ".1f"),
        _ranged(cells, lambda c: c.step.p99_ms, ".1f"),
    ]  # fmt: skip


def _cost(cells: list[Cell]) -> list[str]:
    load, first = cells[0].load, cells[0]
    name = _what(load) + (", after a checkpoint" if first.after_checkpoint else "")
    return [
        str(load.nodes), name,
        _ranged(cells, lambda c: c.per_step.database_us, ",.0f") + " µs",
        _middle(cells, lambda c: c.per_step.node_us) + " µs",
        _middle(cells, lambda c: c.per_step.wal_bytes) + " B",
        f"{median(c.per_step.commits for c in cells):.3f}",
        _middle(cells, lambda c: c.disk_bytes) + " B",
        _middle(cells, lambda c: c.per_opening.database_us) + " µs",
        _middle(cells, lambda c: c.per_opening.wal_bytes) + " B",
    ]  # fmt: skip


def _updates(cells: Sequence[Cell]) -> str:
    updates, hot = sum(c.updates for c in cells), sum(c.hot for c in cells)
    cold = median(c.cold_per_session for c in cells)
    return (
        f"`sessions` had {updates:,} updates; {100 * hot / max(1, updates):.1f} % of them were "
        "HOT: a new version on the same page, and no index touched. "
        f"{cold:.1f} were not in the life that a session has here, however many steps it takes: "
        "two claims, two releases, where it begins and where it ends to be busy make six, and "
        "the rest are lines that outgrew their page once."
    )


def _rest(figures: Figures) -> str:
    looks = " and ".join(
        f"{look.database_us:,.0f} µs with {look.nodes:,} nodes" for look in figures.idle.looks
    )
    return (
        "A claim of a session that nobody has touched since the last checkpoint adds "
        f"{figures.idle.touched_wal:,.0f} B to the log: pages as a whole, each once until the next "
        "checkpoint. A node that looks whether anything changed and who has mail, which it does at "
        f"most 50 times a second, costs the database {looks}. A hint "
        f"(NOTIFY) costs it {figures.idle.hints.rung_us:,.0f} µs, and "
        f"{figures.idle.hints.heard_us:,.1f} µs for each node that hears it."
    )


def _plans(figures: Figures) -> str:
    if not figures.idle.scans:
        return (
            "No plan of theirs reads a whole table of sessions, events, letters or states "
            "(`EXPLAIN`, looked at in the same run)."
        )
    return "\n".join(
        ["Plans that read a whole table:", "", *(f"- {s}" for s in figures.idle.scans)]
    )


def _ranged(cells: Sequence[Cell], of: Callable[[Cell], float], form: str) -> str:
    values = sorted(of(cell) for cell in cells)
    middle = format(median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({format(values[0], form)} to {format(values[-1], form)})"


def _middle(cells: Sequence[Cell], of: Callable[[Cell], float]) -> str:
    return f"{median(of(cell) for cell in cells):,.0f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(figures: Figures, root: Path = ROOT) -> None:
    """Put the tables between the markers of the documents. Raises `ValueError` without them."""
    made = {"docs/performance.md": full(figures), "docs/sizing.md": sizing(costs(figures))}
    texts = {
        name: between((root / name).read_text(encoding="utf-8"), text)
        for name, text in made.items()
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")


def between(document: str, text: str) -> str:
    """Return the document with this text between its markers. Raises `ValueError` without them."""
    begin, end = (re.escape(mark) for mark in _MARKS)
    pattern = re.compile(f"({begin}\n).*?({end})", re.DOTALL)
    if not pattern.search(document):
        raise ValueError(f"no {_MARKS[0]} and {_MARKS[1]} in it")
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", document, count=1)
