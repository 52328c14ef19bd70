"""`perdure admin migrate`: the versions of the store's tables."""

import asyncio
import json as plain_json
from pathlib import Path

from perdure.app import migrations_of
from perdure.cli.desk import shown_url, store_here
from perdure.cli.screen import Screen
from perdure.cli.text import plural
from perdure.config import load_project


def migrate(url: str, *, plan: bool, yes: bool, json: bool) -> int:
    """Show what would be done to the tables, or do it."""
    return asyncio.run(_migrate(url, Screen(json=json), plan=plan, yes=yes))


async def _migrate(url: str, screen: Screen, *, plan: bool, yes: bool) -> int:
    project = load_project(Path.cwd())
    url = url or store_here(project)
    tables = migrations_of(url)
    current, known = await tables.current(), await tables.known()
    missing = await tables.pending()
    steps = [{"version": s.version, "checksum": s.checksum, "sql": s.sql} for s in missing]
    fields = {"store": shown_url(url), "current": current, "known": known, "pending": steps}
    if not screen.json:
        _show(screen, shown_url(url), current, known)
        for step in missing if plan else ():
            screen.line()
            screen.line(f"-- version {step.version}, SHA-256 {step.checksum}")
            screen.line(step.sql.rstrip())
    if plan or not missing:
        if screen.json:
            screen.line(plain_json.dumps({**fields, "applied": 0}))
        return 0
    if not yes:
        if screen.json:
            screen.line(plain_json.dumps({**fields, "applied": 0}))
            return 4
        left = screen.agreed(
            f"Take {plural(len(missing), 'step')}? There is no way back but a backup.",
            "perdure admin migrate --yes",
        )
        if left is not None:
            return left
    applied = await tables.apply()
    if screen.json:
        screen.line(plain_json.dumps({**fields, "applied": applied}))
    else:
        screen.line(f"{plural(applied, 'step')} taken: the tables are of version {known} now.")
    return 0


def _show(screen: Screen, shown: str, current: int, known: int) -> None:
    is_now = f"the tables are of version {current}" if current else "there are no tables yet"
    screen.line(f"{shown}: {is_now}; this perdure knows version {known}.")
    if current >= known:
        screen.line("  Nothing is to be done.")
