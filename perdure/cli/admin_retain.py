"""`perdure admin retain`: what has been kept for long enough, as `[retention]` says."""

import json as plain_json

from perdure.cli.desk import Desk, at_desk
from perdure.cli.screen import Screen
from perdure.cli.text import clip, one_line, pad, plural
from perdure.core.errors import InvalidRequest, NotFound, SessionBusy
from perdure.engine.retention import Expired, expired

_DAY_US = 24 * 3600 * 1_000_000
_SHOWN = 50


def retain(*, yes: bool, json: bool) -> int:
    """Show what would be deleted in all projects; with `yes`, delete it."""

    async def use(desk: Desk) -> int:
        screen = Screen(json=json)
        if not desk.project.settings.retention.is_set:
            raise InvalidRequest(
                "E-RETENTION-NONE",
                "No rule says how long sessions are kept: they are kept for ever.",
                "[retention] closed_after_days = 90    in perdure.toml",
            )
        found = await _expired(desk)
        gone: list[str] = []
        if yes:
            for where, each in found:
                gone += await _delete(desk, where, each)
        if json:
            plain = [
                {"project": p, "session": e.session, "with": [row.id for row in e.rows[1:]],
                 "idle_days": round(e.idle_us / _DAY_US, 2)} for p, e in found
            ]  # fmt: skip
            screen.line(plain_json.dumps({"expired": plain, "deleted": gone, "done": yes}))
        else:
            _show(screen, found, gone if yes else None)
        return 0

    return at_desk(use)


async def _expired(desk: Desk) -> list[tuple[str, Expired]]:
    rows = await desk.stores.base.sessions()
    found: list[tuple[str, Expired]] = []
    for project in sorted({desk.stores.parted(row.id)[0] for row in rows}):
        store = desk.stores.of(project)
        settings, now_us = desk.project.settings.retention, desk.clock.now_us()
        of_project = await store.sessions()
        mailboxes = await store.mailboxes()
        found += [(project, each) for each in expired(of_project, settings, now_us, mailboxes)]
    return found


async def _delete(desk: Desk, project: str, each: Expired) -> list[str]:
    """Delete a session with its subagents, those first; one that is being worked on stays."""
    store, gone = desk.stores.of(project), []
    for row in reversed(each.rows):
        try:
            await store.delete_session(row.id)
        except (SessionBusy, NotFound):
            break
        desk.forget(row.id, project)
        gone.append(row.id)
    return gone


def _show(screen: Screen, found: list[tuple[str, Expired]], gone: list[str] | None) -> None:
    for project, each in found[:_SHOWN]:
        row = each.rows[0]
        more = f" and {plural(len(each.rows) - 1, 'subagent')}" if len(each.rows) > 1 else ""
        words = [pad(f"{each.idle_us // _DAY_US} days", 10), pad(row.status, 8), pad(project, 12)]
        screen.line("  ".join([*words, clip(one_line(row.id + more), 60)]))
    if len(found) > _SHOWN:
        screen.line(f"  … and {len(found) - _SHOWN} more")
    if not found:
        screen.line("Nothing has been kept for longer than [retention] says.")
    elif gone is not None:
        screen.line(f"{plural(len(gone), 'session')} deleted for good.")
        screen.line("  " + screen.dim("Payloads that nothing names any more: perdure admin gc"))
    else:
        screen.line(f"{plural(len(found), 'session')} would be deleted. Nothing was.")
        screen.line("  next  perdure admin retain --yes")
