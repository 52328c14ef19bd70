"""`perdure admin move`: everything from one store into another one."""

import asyncio
import json as plain_json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from perdure.cli.desk import check_there, opened_at, shown_url
from perdure.cli.screen import Screen
from perdure.cli.text import plural
from perdure.core.errors import InvalidRequest
from perdure.stores.carrying.entries import Summary
from perdure.stores.carrying.moving import Outcome, Told, move as carry

_EVERY = 1000


class Place(NamedTuple):
    """A store, and where its payloads are if not beside or in it."""

    url: str
    blobs: str = ""


def move(from_: Place, to: Place, *, yes: bool, json: bool) -> int:
    """Move everything. Typed again after a kill, it goes on where it was."""
    screen = Screen(json=json)
    source, target = shown_url(from_.url), shown_url(to.url)
    if source == target:
        raise InvalidRequest("E-MOVE-SAME", "Source and target are the same. Nothing was moved.")
    check_there(from_.url)
    if not yes:
        blobs = f" --from-blobs {from_.blobs}" * bool(from_.blobs)
        blobs += f" --to-blobs {to.blobs}" * bool(to.blobs)
        command = f"perdure admin move --from {source} --to {target}{blobs} --yes"
        left = screen.agreed(f"Move everything of {source}?", command)
        if left is not None:
            return left
    return asyncio.run(_move(from_, to, screen))


async def _move(from_: Place, to: Place, screen: Screen) -> int:
    source, source_work = await opened_at(*from_)
    try:
        target, target_work = await opened_at(*to, half=True)
        try:
            outcome = await carry(source, target, shown_url(from_.url), progress(screen))
        finally:
            await target.close()
    finally:
        await source.close()
    if screen.json:
        fields = {"from": shown_url(from_.url), "to": shown_url(to.url), **said(outcome)}
        screen.line(plain_json.dumps({**fields, "not_moved": [str(source_work)]}))
        return 0
    show(screen, outcome, f"Moved from {shown_url(from_.url)} to {shown_url(to.url)}")
    screen.line("  Each session's chain of hashes was read again at the target: it ends as at the")
    screen.line("  source. The source is as it was; let nothing use it any more.")
    stays(screen, source_work, to.url, target_work)
    return 0


def progress(screen: Screen) -> Told | None:
    """Return what shows how far it is, where somebody watches."""
    if not screen.tty:
        return None
    shown = [0]

    def told(summary: Summary) -> None:
        if summary.events >= shown[0] + _EVERY:
            shown[0] = summary.events
            screen.write(f"\r  {summary.sessions} sessions, {summary.events} events …")

    return told


def said(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for programs."""
    counts = msgspec.structs.asdict(outcome.summary)
    return {**counts, "written": outcome.written, "verified": outcome.verified}


def show(screen: Screen, outcome: Outcome, what: str) -> None:
    """Print what there is now."""
    if screen.tty:
        screen.write("\r" + " " * 60 + "\r")
    screen.line(f"{what}:")
    screen.line(f"  {counted(outcome.summary)}")
    was_there = outcome.summary.events - outcome.written
    if was_there:
        screen.line(f"  {plural(was_there, 'event')} of that had come before.")


def counted(summary: Summary) -> str:
    """Return in words how much that is."""
    parts = (
        (summary.sessions, "session"), (summary.events, "event"), (summary.letters, "letter"),
        (summary.documents, "document"), (summary.blobs, "payload"),
    )  # fmt: skip
    return ", ".join(plural(count, name) for count, name in parts)


def stays(screen: Screen, source: Path, to: str, target: Path) -> None:
    """Say what is in no store, and so did not come along."""
    screen.line(f"  Not moved: workspaces and their snapshots on this machine, in {source},")
    screen.line("  nor the vault's key: secrets came sealed, and open with the key they had.")
    if source.is_dir() and to.startswith("sqlite:///"):
        screen.line(f"  next  cp -a {source}/. {target}    so that sessions find their files")
    elif source.is_dir():
        screen.line("  A session that needs its old workspace is parked there, with the reason.")
