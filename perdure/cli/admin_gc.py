"""`perdure admin gc`: blobs and snapshots that nothing refers to any more."""

import asyncio
import json as plain_json
from pathlib import Path

from perdure.cli.desk import Desk, at_desk
from perdure.cli.screen import Screen
from perdure.cli.text import plural
from perdure.environments.snapshots import Snapshots, Swept
from perdure.serving.collecting import Collected, Collector
from perdure.stores.carrying.reading import carriable


def gc(hours: float, *, dry: bool, json: bool) -> int:
    """Collect what nothing refers to any more, or show how much it is."""

    async def use(desk: Desk) -> int:
        screen = Screen(json=json)
        store = carriable(desk.stores.base)
        grace_s = hours * 3600
        found = await Collector(store, desk.clock, grace_s=grace_s).run(dry=dry)
        before_us = desk.clock.now_us() - int(grace_s * 1_000_000)
        others = await store.neighbours()
        swept = Swept(0, 0)
        for place in _places(desk.work) if not others else ():
            snapshots = await asyncio.to_thread(Snapshots, place)
            here = await asyncio.to_thread(snapshots.sweep, found.live, before_us, dry=dry)
            swept = Swept(swept.packs + here.packs, swept.stored_bytes + here.stored_bytes)
        if json:
            screen.line(
                plain_json.dumps({
                    "blobs": found.blobs, "blob_bytes": found.stored_bytes,
                    "shared_snapshots": found.snapshots, "packs": swept.packs,
                    "pack_bytes": swept.stored_bytes, "dry_run": dry, "busy": others,
                })
            )  # fmt: skip
        else:
            _print(screen, found, swept, dry=dry, hours=hours)
            if others:
                left = "Snapshots on this machine were left alone: others have the store open."
                screen.line(screen.dim(f"  {left}"))
        return 0

    return at_desk(use)


def _print(screen: Screen, found: Collected, swept: Swept, *, dry: bool, hours: float) -> None:
    what = (
        f"{plural(found.blobs, 'blob')}, {_size(found.stored_bytes)}",
        plural(found.snapshots, "shared snapshot"),
        f"{plural(swept.packs, 'pack')} here, {_size(swept.stored_bytes)}",
    )
    screen.line(f"{'Would remove' if dry else 'Removed'} {'; '.join(what)}.")
    read = f"{plural(found.seen_sessions, 'session')}, {plural(found.seen_blobs, 'blob')}"
    spared = f"What is younger than {hours:g} hours was spared."
    screen.line(screen.dim(f"  Read: {read}. {spared}"))


def _places(work: Path) -> list[Path]:
    """Return where snapshots lie on this machine, those of all projects."""
    folders = [work / "snapshots", *sorted(work.glob("projects/*/snapshots"))]
    return [folder for folder in folders if folder.is_dir()]


def _size(count: int) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 10_000:
            return f"{count:.0f} {unit}"
        count = count // 1000
    return f"{count} GB"
