"""`perdure admin backup` and `restore`: a store's content in one file, and back."""

import asyncio
import json as plain_json
import secrets
from importlib.metadata import version
from pathlib import Path

import msgspec

from perdure.cli.admin_move import Place, counted, progress, said, show
from perdure.cli.desk import check_there, opened_at, shown_url, store_here, whole_url
from perdure.cli.screen import Screen
from perdure.config import load_project
from perdure.stores.carrying.archive import FORMAT, Archive, ArchiveWriter, Header
from perdure.stores.carrying.checking import check_archive
from perdure.stores.carrying.moving import restore as carry
from perdure.stores.carrying.reading import Reading
from perdure.stores.system import SystemClock


def backup(file: str, url: str, blobs: str, *, check: bool, yes: bool, json: bool) -> int:
    """Write a backup, or check one."""
    screen = Screen(json=json)
    if check:
        return _check(Path(file), screen)
    url = whole_url(url or store_here(load_project(Path.cwd()), "A backup"))
    check_there(url)
    return asyncio.run(_backup(Path(file), Place(url, blobs), screen, replace=yes))


def restore(file: str, url: str, blobs: str, *, yes: bool, json: bool) -> int:
    """Bring a backup into an empty store. Typed again after a kill, it goes on where it was."""
    screen = Screen(json=json)
    archive = Archive(Path(file))
    to = Place(whole_url(url), blobs)
    if not yes:
        more = f" --blobs {blobs}" * bool(blobs)
        command = f"perdure admin restore {file} --to {shown_url(to.url)}{more} --yes"
        left = screen.agreed(f"Restore {file} into {shown_url(to.url)}?", command)
        if left is not None:
            return left
    return asyncio.run(_restore(archive, to, screen))


async def _backup(path: Path, place: Place, screen: Screen, *, replace: bool) -> int:
    header = Header(
        FORMAT, f"bak_{secrets.token_hex(12)}", SystemClock().now_us(), version("perdure"),
        shown_url(place.url),
    )  # fmt: skip
    told = progress(screen)
    with ArchiveWriter(path, header, replace=replace) as archive:
        store, work = await opened_at(*place)
        try:
            reading = Reading(store)
            async for entry in reading.entries():
                archive.add(entry)
                if told is not None:
                    told(reading.summary)
        finally:
            await store.close()
        archive.finish(reading.summary)
    counts = msgspec.structs.asdict(reading.summary)
    if screen.json:
        named = {"file": str(path), "id": header.id, "bytes": archive.bytes}
        screen.line(plain_json.dumps({**named, **counts, "not_in_it": [str(work), "vault key"]}))
        return 0
    screen.line(f"{path}: {counted(reading.summary)}; {archive.bytes} bytes.")
    screen.line("  Each session is as it was at one moment; they are not all of the same moment.")
    screen.line(f"  Not in it: workspaces and snapshots ({work}), and the vault's key.")
    screen.line("  " + screen.dim(f"next  perdure admin backup --check {path}"))
    return 0


def _check(path: Path, screen: Screen) -> int:
    archive = Archive(path)
    summary = check_archive(archive)
    if screen.json:
        header = msgspec.structs.asdict(archive.header)
        screen.line(plain_json.dumps({**header, **msgspec.structs.asdict(summary), "whole": True}))
        return 0
    screen.line(f"{path} is whole: {counted(summary)}.")
    screen.line("  Every chain of hashes and every payload was checked.")
    return 0


async def _restore(archive: Archive, to: Place, screen: Screen) -> int:
    target, _ = await opened_at(*to, half=True)
    try:
        name = f"backup {archive.header.id}"
        outcome = await carry(archive.entries(), target, name, progress(screen))
    finally:
        await target.close()
    if screen.json:
        screen.line(plain_json.dumps({"to": shown_url(to.url), **said(outcome)}))
        return 0
    show(screen, outcome, f"Restored {archive.path} into {shown_url(to.url)}")
    screen.line(
        "  Each session's chain of hashes was read again there. Do not let this copy and the"
    )
    screen.line("  original both go on with the same outside world.")
    return 0
