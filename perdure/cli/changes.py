"""What an agent changed in its workspace, as a diff.

Snapshots are compared, not the live directory: the diff is what the journal vouches for, and can be
seen while the agent works.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.cli.elsewhere import engine_of
from perdure.cli.opened import Opened
from perdure.cli.screen import Screen
from perdure.cli.text import clean
from perdure.core.errors import InvalidRequest
from perdure.core.events import (
    EnvironmentOpened,
    EnvironmentRestored,
    EnvironmentSnapshotted,
    SessionForked,
)
from perdure.engine.session import Session
from perdure.ports.sandbox import Change


class Changes(msgspec.Struct, frozen=True):
    """What differs between a workspace's first snapshot and a later one."""

    changes: tuple[Change, ...]
    workspace: str
    first: str
    last: str


async def changes_of(place: Opened, session: Session, at: int | None = None) -> Changes:
    """Compare the first snapshot with the last one. Raises `InvalidRequest` (E-WORKSPACE-NONE)."""
    first = workspace = ""
    async for event in session.events(until=at):
        match event.payload:
            case SessionForked():
                workspace = ""  # that was the origin's
            case EnvironmentOpened(workspace=path):
                workspace = path
            case EnvironmentSnapshotted(snapshot=snapshot) | EnvironmentRestored(snapshot=snapshot):
                first = first or snapshot
            case _:
                pass
    last = (await session.state(at)).snapshot or first
    if not first:
        raise InvalidRequest(
            "E-WORKSPACE-NONE",
            f"{session.id} has touched no workspace, so there is nothing to compare.",
        )
    found = await between(place, first, last, (session.id,))
    return Changes(found, workspace, first, last)


async def between(
    place: Opened, first: str, last: str, sessions: Sequence[str]
) -> tuple[Change, ...]:
    """Return what differs between two snapshots, which those sessions made, by path."""
    if place.project.remote:
        return await (await engine_of(place.runtime)).changes(first, last, sessions)
    found = await place.runtime.changes(first, last)
    return tuple(sorted(found, key=lambda change: change.path))


async def print_diff(screen: Screen, place: Opened, session: Session, at: int | None) -> int:
    """Print what the agent changed, as a unified diff."""
    found = await changes_of(place, session, at)
    if screen.json:
        screen.line(msgspec.json.encode([_summary(c) for c in found.changes]).decode())
        return 0
    for change in found.changes:
        for line in diff_of(change):
            screen.line(_coloured(screen, line))
    if not found.changes:
        screen.error("Nothing is changed.")
    return 0


def diff_of(change: Change) -> list[str]:
    """Return one path's unified diff; of what is no text only that it differs."""
    path = clean(change.path)
    old = f"a/{path}" if change.kind != "added" else "/dev/null"
    new = f"b/{path}" if change.kind != "removed" else "/dev/null"
    before, after = _lines(change, change.before, "added"), _lines(change, change.after, "removed")
    if before is None or after is None:
        return [f"Binary files {old} and {new} differ"]
    lines = list(difflib.unified_diff(before, after, old, new, lineterm=""))
    if not lines:
        return [f"--- {old}", f"+++ {new}"]
    return [clean(line) for line in lines]


def _lines(change: Change, data: bytes | None, nothing: str) -> list[str] | None:
    if data is None:
        return [] if change.kind == nothing else None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    lines = text.split("\n")
    if lines[-1]:
        return [*lines[:-1], lines[-1] + "\n\\ No newline at end of file"]
    return lines[:-1]


def _coloured(screen: Screen, line: str) -> str:
    if line.startswith(("---", "+++")):
        return screen.bold(line)
    if line.startswith("@@"):
        return screen.style(line, "cyan")
    if line.startswith("+"):
        return screen.style(line, "green")
    return screen.style(line, "red") if line.startswith("-") else line


def _summary(change: Change) -> dict[str, Any]:
    return {"path": change.path, "kind": change.kind, "diff": "\n".join(diff_of(change))}
