"""The figures as Markdown, and their way into the documents."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.peers import tables
from bench.peers.figures import Figures
from bench.peers.process import ROOT
from bench.peers.systems import BASE, SYSTEMS, System
from bench.peers.tables import Found

BEGIN: Final = "<!-- bench-peers:begin -->"
END: Final = "<!-- bench-peers:end -->"
_CUT: Final = (
    "\\* not done in time (20 s; 12 s of 2,000 sessions) and not tried again: steps of its "
    "second half. – of a session count: not done, and its steps run ahead of the disk, so they "
    "cannot be counted; else: not measured, see below."
)


def full(figures: Figures) -> str:
    """Return all tables, for docs/performance.md."""
    found = Found(figures)
    blocks = (
        _run(figures),
        _table(
            ["system", *(f"steps/s, {_sessions(n)}" for n in found.sizes), "step p50 / p99 ms",
             "RSS MB", "SIGKILL to next step ms", "of it after imports", "finished steps again"],
            [_speed(found, system) for system in found.systems],
        ),
        _CUT,
        f"How many times better Perdure on SQLite did than each: {_SPREAD}. Below 1 it did worse.",
        _table(
            ["system", *(f"steps/s, {_sessions(n)}" for n in found.sizes), "step p50", "step p99",
             "RSS", "SIGKILL to next step", "bytes on disk", "bytes written"],
            [_ratios(found, system) for system in found.systems if system.name != BASE],
        ),
        "One long session, written by one process:",
        _table(
            ["system",
             *(f"{n:,} steps: {what}" for n in found.lengths for what in ("disk", "written")),
             "disk / payload", "a step, first to last twentieth, ms"],
            [[system.label, *tables.growth_row(found, system)] for system in found.systems],
        ),
        "What each does for a step, as it was run:",
        _table(
            ["system", "versions", "what it does"],
            [[s.label, _versions(figures, s), s.does] for s in found.systems],
        ),
        _skipped(figures),
    )  # fmt: skip
    return "\n\n".join(block for block in blocks if block)


_SPREAD: Final = "the median over the rounds and their range"


def short(figures: Figures) -> str:
    """Return one table, for README.md."""
    found = Found(figures)
    longest = [f"disk, {n:,} steps" for n in found.lengths[-1:]]
    heads = ["system", *(f"steps/s, {_sessions(n)}" for n in found.sizes[:2]), "step p50"]
    rows = [_short_row(found, system) for system in found.systems]
    note = f"Behind each figure: × how many times better Perdure on SQLite did, {_SPREAD}."
    table = _table([*heads, *longest, "SIGKILL to next step"], rows)
    return "\n\n".join((_run(figures), note, table, *([_CUT] if "\\*" in table else [])))


def _short_row(found: Found, system: System) -> list[str]:
    one = found.sizes[0] if found.sizes else 1
    rows, kills = found.speeds(system, one), found.kills(system)
    growth = found.growth(system, found.lengths[-1]) if found.lengths else None
    p50 = tables.middle(rows, lambda e: e.p50_ms)
    kill = tables.middle(kills, lambda e: e.next_ms)
    cells = [
        *(
            (tables.rate(found, system, n), tables.speed_ratio(found, system, n))
            for n in found.sizes[:2]
        ),
        (f"{p50} ms", tables.step_ratio(found, system, lambda e: e.p50_ms, one)),
    ]
    if found.lengths:
        size = tables.size(growth.disk) if growth else tables.NOTHING
        cells.append((size, tables.growth_ratio(found, system, lambda e: float(e.disk))))
    cells.append((f"{kill} ms", tables.kill_ratio(found, system)))
    own = system.name == BASE
    return [
        f"**{system.label}**" if own else system.label,
        *(figure if own or ratio == tables.NOTHING else f"{figure} × {ratio}"
          for figure, ratio in cells),
    ]  # fmt: skip


def _run(figures: Figures) -> str:
    control = figures.control
    return (
        f"{figures.date}, {figures.cores} cores, {figures.system}, Python {figures.python}; "
        f"load {figures.load_before:.1f} before and {figures.load_after:.1f} after; "
        f"niceness {figures.niceness}; "
        f"{figures.rounds} rounds in {figures.minutes:.0f} minutes, every system in each. "
        f"The disk beside it, appends of 4 KiB with `fdatasync`: "
        f"{tables.number(control.p50_ms)} ms (p50), {tables.number(control.p99_ms)} ms (p99)."
    )


def _speed(found: Found, system: System) -> list[str]:
    ones = found.speeds(system, found.sizes[0]) if found.sizes else []
    many = found.speeds(system, found.sizes[1]) if len(found.sizes) > 1 else []
    kills = found.kills(system)
    again = sorted({each.again for each in kills})
    p50, p99 = (tables.middle(ones, lambda e, n=n: getattr(e, n)) for n in ("p50_ms", "p99_ms"))
    return [
        system.label,
        *(tables.rate(found, system, n) for n in found.sizes),
        f"{p50} / {p99}",
        tables.middle(many, lambda e: e.rss / 1e6),
        tables.middle(kills, lambda e: e.next_ms),
        tables.middle(kills, lambda e: e.resume_ms),
        "..".join(str(n) for n in (again[:1] + again[1:][-1:])) if again else tables.NOTHING,
    ]


def _ratios(found: Found, system: System) -> list[str]:
    one = found.sizes[0] if found.sizes else 1
    many = found.sizes[1] if len(found.sizes) > 1 else one
    return [
        system.label,
        *(tables.speed_ratio(found, system, n) for n in found.sizes),
        tables.step_ratio(found, system, lambda e: e.p50_ms, one),
        tables.step_ratio(found, system, lambda e: e.p99_ms, one),
        tables.step_ratio(found, system, lambda e: float(e.rss), many),
        tables.kill_ratio(found, system),
        tables.growth_ratio(found, system, lambda e: float(e.disk)),
        tables.growth_ratio(found, system, lambda e: float(e.written)),
    ]


def _versions(figures: Figures, system: System) -> str:
    known = figures.versions.get(system.name, {})
    return ", ".join(f"{name} {version}" for name, version in known.items())


def _skipped(figures: Figures) -> str:
    labels = {system.name: system.label for system in SYSTEMS}
    lines = [f"- {labels.get(e.system, e.system)}, {e.what}: {e.why}" for e in figures.skipped]
    return "\n".join(["Not measured in this run:", "", *lines]) if lines else ""


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count:,} sessions"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(figures: Figures, root: Path = ROOT) -> None:
    """Put the tables between the markers of the documents. Raises `ValueError` without them."""
    for name, text in (("README.md", short(figures)), ("docs/performance.md", full(figures))):
        path = root / name
        path.write_text(between(path.read_text(encoding="utf-8"), text), encoding="utf-8")


def between(document: str, text: str) -> str:
    """Return the document with this text between its markers. Raises `ValueError` without them."""
    pattern = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", re.DOTALL)
    if not pattern.search(document):
        raise ValueError(f"no {BEGIN} and {END} in it")
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", document, count=1)
