"""`perdure admin purge`: sessions deleted for good, by name or by the person that is in them."""

import json as plain_json
from collections.abc import Sequence
from typing import Final

from perdure.cli.desk import Desk, at_desk
from perdure.cli.ids import matching
from perdure.cli.screen import Screen
from perdure.cli.text import clip, one_line, plural
from perdure.core.errors import InvalidRequest, NotFound, SessionBusy
from perdure.engine.deleting import tree_to_delete
from perdure.engine.kin import tree_of
from perdure.engine.persons import parts_of
from perdure.ports.store import SessionRow
from perdure.stores.projects import DEFAULT

_CONFLICT: Final = 7
_REACH: Final = (
    "Not reached: backups; events that forks share; documents, such as files that were uploaded;",
    "payloads in the store of blobs, which others may mean, too (perdure admin gc); logs of",
    "servers, and what providers keep.",
)


def purge(typed: Sequence[str], person: str, project: str, *, yes: bool, json: bool) -> int:
    """Delete sessions and their subagents, with their workspaces and logs."""
    if bool(typed) == bool(person):
        raise InvalidRequest(
            "E-USAGE", "Name sessions, or a person. Nothing was deleted.",
            "perdure admin purge SESSION…, or perdure admin purge --person NAME",
        )  # fmt: skip

    async def use(desk: Desk) -> int:
        screen = Screen(json=json)
        found = await _found(desk, typed, person, project)
        rows = list({row.id: row for _, tree in found for row in tree}.values())
        names = [row.id for row in rows]
        if not yes:
            elsewhere = f" --project {project}" * (project != DEFAULT)
            what = f"--person {person}" if person else " ".join(tree[-1].id for _, tree in found)
            left = _asked(screen, found, names, f"perdure admin purge {what}{elsewhere} --yes")
            if left is not None:
                return left
        gone, busy = await _delete(desk, found, project)
        if json:
            more = {"busy": busy} if busy else {}
            screen.line(plain_json.dumps({"deleted": gone, "project": project, **more}))
            return _CONFLICT if busy else 0
        screen.line(f"Deleted for good: {', '.join(gone) or 'nothing'}.")
        for line in _REACH:
            screen.line("  " + screen.dim(line))
        if busy:
            screen.line(f"Still there, being worked on: {', '.join(busy)}.")
            screen.line("  next  perdure stop ID --cancel, then the same command again")
        return _CONFLICT if busy else 0

    return at_desk(use)


_Found = list[tuple[str, list[SessionRow]]]


async def _found(desk: Desk, typed: Sequence[str], person: str, project: str) -> _Found:
    """Return what is meant: why, and each tree in the order in which it is deleted."""
    store = desk.stores.of(project)
    rows = await store.sessions()
    if typed:
        names = [matching(rows, each) for each in typed]
        return [("", await tree_to_delete(store, name)) for name in dict.fromkeys(names)]
    found: _Found = []
    roots: dict[str, list[str]] = {}
    by_id = {row.id: row for row in rows}
    for part in await parts_of(store, person):
        row = part.row
        while row.parent in by_id:  # a subagent goes with the session that it works for
            row = by_id[row.parent]
        where = f" from event {part.first} on" if part.first else " in its inbox"
        roots.setdefault(row.id, []).append(f"{part.row.id}: {plural(part.times, 'time')}{where}")
    for root, whys in roots.items():
        found.append(("; ".join(whys), tree_of(rows, root)[::-1]))
    if not found:
        raise NotFound(
            "E-PERSON-NONE", f"No session of {project} names {person}. Nothing was deleted.",
            "perdure show ID --events says by whom each thing was done.",
        )  # fmt: skip
    return found


async def _delete(desk: Desk, found: _Found, project: str) -> tuple[list[str], list[str]]:
    """Delete each tree; return what is gone, and what others work on. One alone must go: raises
    `SessionBusy`.
    """
    store = desk.stores.of(project)
    gone: list[str] = []
    busy: list[str] = []
    for _, tree in found:
        for row in tree:
            if row.id in gone:
                continue
            try:
                await store.delete_session(row.id)
            except SessionBusy:
                if len(found) == 1:
                    raise
                busy.append(row.id)
                break
            desk.forget(row.id, project)
            gone.append(row.id)
    return gone, busy


def _asked(screen: Screen, found: _Found, names: Sequence[str], command: str) -> int | None:
    if screen.json:
        shown = [{"session": tree[-1].id, "why": why, "with": [r.id for r in tree[:-1]]}
                 for why, tree in found]  # fmt: skip
        screen.line(plain_json.dumps({"deleted": [], "would_delete": shown}))
        return 4
    for why, tree in found:
        row = tree[-1]
        more = f" and {plural(len(tree) - 1, 'subagent')}" if len(tree) > 1 else ""
        screen.line(f"  {row.id}{more}   {row.agent}   {clip(one_line(why or row.last), 60)}")
    for line in _REACH:
        screen.line("  " + screen.dim(line))
    one = len(names) == 1
    what = names[0] if one else plural(len(names), "session")
    return screen.agreed(f"Delete {what} for good?", command)
