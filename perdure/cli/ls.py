"""`perdure ls`: the sessions, what each is about and whether it needs somebody."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from perdure.cli.ids import all_rows_of, rows_of, shown
from perdure.cli.screen import Screen
from perdure.cli.text import clip, count, duration, one_line, pad, plural, usd
from perdure.config import load_project
from perdure.core.codec import encode
from perdure.engine.kin import with_waiting
from perdure.ports.store import SessionRow
from perdure.stores.system import SystemClock

SHOWN: Final = 30
_SIGNS: Final = {
    "running": ("▶", "cyan"),
    "waiting": ("⏸", "yellow"),
    "paused": ("⏸", "dim"),
    "sleeping": ("◔", "cyan"),
    "failed": ("✗", "red"),
    "budget": ("✗", "red"),
    "parked": ("✗", "red"),
}


def ls(
    *, waiting: bool, failed: bool, agent: str, everything: bool, projects: bool, json: bool
) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    project = load_project(Path.cwd())
    kept = asyncio.run(all_rows_of(project) if projects else rows_of(project))
    rows = [_named(row) for row in with_waiting(kept)]
    wanted = ("waiting",) * waiting + ("failed", "budget", "parked") * failed
    found = [
        row
        for row in rows
        if (not wanted or row.status in wanted) and (not agent or row.agent == agent)
    ]
    if json:
        screen.line(encode(found).decode())
        return 0
    if not found:
        _nothing(screen, rows)
        return 0
    newest = found if everything else found[:SHOWN]
    _table(screen, nested(newest))
    if len(found) > len(newest):
        screen.line(screen.dim(f"  and {len(found) - len(newest)} older: perdure ls --all"))
    return 0


def _named(row: SessionRow) -> SessionRow:
    """Return the row under the name that verbs take: `PROJECT/ID` outside the default project."""
    return replace(row, id=shown(row.id), parent=shown(row.parent))


def nested(rows: Sequence[SessionRow]) -> list[tuple[int, SessionRow]]:
    """Return the rows in their order, subagents under the session they work for, with the depth."""
    below: dict[str, list[SessionRow]] = {}
    there = {row.id for row in rows}
    for row in rows:
        below.setdefault(row.parent if row.parent in there else "", []).append(row)
    found: list[tuple[int, SessionRow]] = []
    waiting = [(0, row) for row in reversed(below.get("", []))]
    while waiting:
        depth, row = waiting.pop()
        found.append((depth, row))
        waiting += [(depth + 1, each) for each in reversed(below.get(row.id, []))]
    return found


def _nothing(screen: Screen, rows: Sequence[SessionRow]) -> None:
    if rows:
        screen.line(f"None of {plural(len(rows), 'session')} is like that.")
    else:
        screen.line('No sessions here yet. Try: perdure demo, or perdure run AGENT "…"')


def _table(screen: Screen, lines: Sequence[tuple[int, SessionRow]]) -> None:
    rows = [row for _, row in lines]
    now_us = SystemClock().now_us()
    ids = max(7, *(len(row.id) + 2 * depth for depth, row in lines))
    agents = max(5, *(len(row.agent) for row in rows))
    ids, agents = min(ids, 28), min(agents, 16)
    numbers = 32
    last = max(12, screen.width - 4 - ids - 2 - agents - 2 - 2 - numbers)
    head = f"{pad('session', ids)}  {pad('agent', agents)}  {pad('last', last)}"
    head += f"  {'steps':>5} {'tokens':>7} {'cost':>8} {'age':>7}"
    screen.line(screen.dim("    " + head))
    for depth, row in lines:
        sign, style = _SIGNS.get(row.status, ("●", "dim"))
        what = one_line(row.error + "  " + row.last if row.error else row.last)
        if row.status == "sleeping" and row.wake_at_us:
            what = f"wakes in {duration(row.wake_at_us - now_us)}  {what}"
        cost = usd(row.micro_usd) if row.micro_usd else "?" if row.unpriced else "-"
        name = "  " * (depth - 1) + "└ " * bool(depth) + one_line(row.id)
        line = f"{pad(clip(name, ids), ids)}  {pad(clip(row.agent, agents), agents)}  "
        line += pad(clip(what, last), last)
        line += f"  {row.steps:>5} {count(row.tokens):>7} {cost:>8} "
        line += f"{duration(now_us - row.updated_at_us) if row.updated_at_us else '-':>7}"
        screen.line("  " + screen.style(sign, style) + " " + line)
