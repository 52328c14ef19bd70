"""The figures as a table and as JSON, with the targets beside them."""

from collections.abc import Iterator, Sequence

import msgspec

from bench import first_token
from bench.footprint import Memory, Startup
from bench.forks import Forks
from bench.growth import Growth
from bench.resume import Resume
from bench.steps import Cell


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured. Nothing in it names the machine."""

    date: str
    cores: int
    python: str
    sqlite: str
    system: str
    load_before: float
    load_after: float
    prompt_wakeups: bool


class Figures(msgspec.Struct, frozen=True):
    """Everything one run found."""

    machine: Machine
    cells: Sequence[Cell]
    growth: Growth
    resume: Sequence[Resume]
    forks: Forks
    startup: Startup
    memory: Memory
    first_token: first_token.Found


class Target(msgspec.Struct, frozen=True):
    """A target of the design beside what was found."""

    what: str
    target: str
    found: str
    met: bool


def markdown(figures: Figures) -> str:
    """Return all figures as Markdown."""
    blocks = (
        _machine(figures.machine),
        _table(_STEPS, [_cell(c) for c in figures.cells]),
        _growth(figures.growth),
        _table(_RESUME, [_resume(r) for r in figures.resume]),
        _table(_FORKS, [_forks(figures.forks)]),
        _table(_STARTUP, [[f"{t:.0f} ms" for t in msgspec.structs.astuple(figures.startup)]]),
        _table(_MEMORY, [_memory(figures.memory)]),
        first_token.table(figures.first_token),
        _table(_TARGETS, [[t.what, t.target, t.found, "yes" if t.met else "**no**"]
                          for t in targets(figures)]),
    )  # fmt: skip
    return "\n\n".join(blocks) + "\n"


_STEPS = (
    "sessions", "tool", "steps/s", "step p50 / p99 ms", "x control", "pace p50 / p99 ms",
    "x control", "control p50 / p99 ms", "fsyncs/step", "written/step", "on disk/step",
)  # fmt: skip
_RESUME = ("events", "newer than the cached state", "next step known", "model called")
_FORKS = (
    "events", "files", "fork at the end", "fork half-way", "its workspace", "its model called",
    "control p50 / p99 ms",
)  # fmt: skip
_STARTUP = (
    "python -c pass", "import perdure", "perdure --help", "process that opens a Runtime",
    "Runtime on a new file", "Runtime on an old file",
)  # fmt: skip
_MEMORY = ("sessions", "after 2 steps", "after 20 steps", "put out of memory")
_TARGETS = ("figure", "target", "found", "met")


def _machine(machine: Machine) -> str:
    wakeups = "short time slices" if machine.prompt_wakeups else "the system's own time slices"
    return (
        f"{machine.date}: {machine.cores} cores, {machine.system}, Python {machine.python}, "
        f"SQLite {machine.sqlite}, {wakeups}, load {machine.load_before:.1f} before and "
        f"{machine.load_after:.1f} after"
    )


def _cell(cell: Cell) -> list[str]:
    return [
        f"{cell.load.sessions:,}",
        cell.load.effect + (f", {cell.load.pause_ms:g} ms each" if cell.load.pause_ms else ""),
        f"{cell.steps_per_second:,.0f}",
        f"{cell.step.p50_ms:.2f} / {cell.step.p99_ms:.2f}",
        f"{cell.step_ratio:.1f}",
        f"{cell.pace.p50_ms:.2f} / {cell.pace.p99_ms:.2f}",
        f"{cell.pace_ratio:.1f}",
        f"{cell.control.p50_ms:.2f} / {cell.control.p99_ms:.2f}",
        f"{cell.fsyncs_per_step:.3f}",
        f"{cell.written_bytes:,.0f} B",
        f"{cell.disk_bytes:,.0f} B",
    ]


def _growth(growth: Growth) -> str:
    return (
        f"One session of {growth.steps:,} steps: {growth.bytes_ratio:.2f} bytes on disk per byte "
        f"of payload; the last twentieth takes {growth.time_ratio:.2f} times as long as the first; "
        f"{growth.steps_per_second:,.0f} steps/s."
    )


def _resume(resume: Resume) -> list[str]:
    return [
        f"{resume.events:,}", f"{resume.tail:,}",
        f"{resume.known_ms:.1f} ms", f"{resume.model_ms:.1f} ms",
    ]  # fmt: skip


def _forks(forks: Forks) -> list[str]:
    times = (forks.end_ms, forks.middle_ms, forks.files_ms, forks.model_ms)
    return [
        f"{forks.events:,}", f"{forks.files:,}", *(f"{t:.0f} ms" for t in times),
        f"{forks.control.p50_ms:.2f} / {forks.control.p99_ms:.2f}",
    ]  # fmt: skip


def _memory(memory: Memory) -> list[str]:
    sizes = (memory.short, memory.long, memory.evicted)
    return [f"{memory.sessions:,}", *(f"{size / 1000:.1f} kB" for size in sizes)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def targets(figures: Figures) -> list[Target]:
    """Return the design's targets with what was found; those of cells left out are left out."""
    return [*_step_targets(figures.cells), *_other_targets(figures)]


def _step_targets(cells: Sequence[Cell]) -> Iterator[Target]:
    by = {(c.load.effect, c.load.sessions): c for c in cells if not c.load.pause_ms}
    for effect, most in (("bare", 2.5), ("read", 5.0), ("once", 7.0)):
        if one := by.get((effect, 1)):
            yield _most(f"step p50, 1 session, {effect}", one.step_ratio, most, "x control")
    for cell in cells:
        if cell.load.pause_ms:
            what = f"step p50, 1 session, {cell.load.effect}, calls of {cell.load.pause_ms:g} ms"
            most = 5.0 if cell.load.effect == "read" else 7.0
            yield _most(what, cell.step_ratio, most, "x control")
    if many := by.get(("read", 200)):
        rate = many.steps_per_second
        yield Target("steps/s, 200 sessions, read", ">= 9,000", f"{rate:,.0f}", rate >= 9000)
        yield _most("fsyncs/step, 200 sessions", many.fsyncs_per_step, 0.1, "")
        if more := by.get(("read", 2000)):
            found = more.steps_per_second
            yield Target("steps/s, 2,000 sessions, read", f">= {rate:,.0f} (as at 200)",
                         f"{found:,.0f}", found >= rate)  # fmt: skip


def _other_targets(figures: Figures) -> Iterator[Target]:
    growth = figures.growth
    yield _most(f"bytes / payload, {growth.steps:,} steps", growth.bytes_ratio, 2.0, "")
    yield _most("last steps / first steps", growth.time_ratio, 1.2, "")
    longest = figures.resume[-1]
    yield _most(f"next step known, {longest.events:,} events", longest.known_ms, 30.0, "ms")
    forks = figures.forks
    what = f"{forks.events:,} events, {forks.files:,} files"
    yield _most(f"fork at the end, {what}", forks.end_ms, 1000.0, "ms")
    yield _most(f"fork half-way, {what}", forks.middle_ms, 1000.0, "ms")
    yield _most(f"fork and its workspace, {what}", forks.end_ms + forks.files_ms, 1000.0, "ms")
    yield _most("RAM of a session at rest, 2 steps", figures.memory.short / 1000, 10.0, "kB")


def _most(what: str, found: float, most: float, unit: str) -> Target:
    return Target(what, f"<= {most:g} {unit}".strip(), f"{found:.3g} {unit}".strip(), found <= most)
