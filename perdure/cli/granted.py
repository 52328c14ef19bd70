"""`perdure approve --rules` and `--revoke`: what is allowed beyond single calls."""

import json as plain_json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from perdure.cli.ids import matching
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.text import duration, one_line, plural
from perdure.cli.wire import plain
from perdure.core.errors import InvalidRequest, NotFound
from perdure.core.grants import Grant
from perdure.engine.grants import named, unknown
from perdure.stores.system import SystemClock

_LATER: Final = re.compile(r"(\d+)([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def rules(*, json: bool) -> int:
    """List what is in force: rules, and what sessions were granted."""
    return opened(lambda place: _rules(place, Screen(json=json)))


async def _rules(place: Opened, screen: Screen) -> int:
    found: list[tuple[Grant, list[str]]] = [(rule, []) for rule in await place.runtime.rules()]
    found += (await _held(place)).values()
    now_us = SystemClock().now_us()
    if screen.json:
        shown = [_as_json(grant, where, now_us) for grant, where in found]
        screen.line(plain_json.dumps(shown))
        return 0
    if not found:
        screen.line("Nothing is allowed beyond single calls.")
        return 0
    screen.line(f"  {plural(len(found), 'grant')} in force")
    for grant, where in found:
        screen.line()
        screen.line("  " + screen.bold(one_line(grant.name)) + f"  {in_words(grant, where)}")
        by = f"by {grant.by or 'nobody'}, {duration(now_us - grant.made_at_us)} ago"
        ended = grant.until_us is not None and grant.until_us <= now_us
        screen.line("      " + screen.dim(one_line(by + (" · ended" if ended else ""))))
        screen.line(f"      perdure approve --revoke {grant.name}")
    return 0


def _as_json(grant: Grant, where: Sequence[str], now_us: int) -> dict[str, object]:
    ended = grant.until_us is not None and grant.until_us <= now_us
    known: dict[str, object] = plain(grant)
    defaults = {"when": "", "scope": "session", "agent": "", "until_us": None, "by": ""}
    return {**defaults, **known, "sessions": list(where), "ended": ended}


async def _held(place: Opened) -> dict[str, tuple[Grant, list[str]]]:
    """Return what sessions were granted, by name; a fork may hold what its origin was granted."""
    found: dict[str, tuple[Grant, list[str]]] = {}
    for row in await place.runtime.sessions():
        state = await (await place.runtime.session(row.id)).state()
        for grant in state.grants.values() if not state.closed else ():
            if grant.scope == "session":
                found.setdefault(grant.name, (grant, []))[1].append(row.id)
    return found


def revoke(typed: str, *, json: bool) -> int:
    """Take back a rule, or what sessions were granted."""
    return opened(lambda place: _revoke(place, Screen(json=json), typed))


async def _revoke(place: Opened, screen: Screen, typed: str) -> int:
    name = await _full(place, typed)
    rule = named(await place.runtime.rules(), name)
    grant, where = (await _held(place)).get(name, (rule, []))
    if grant is None:
        raise unknown(name)
    if rule is not None:
        await place.runtime.revoke_rule(name, by=whoami())
    for session in where:
        await (await place.runtime.session(session)).revoke(name, by=whoami())
    if screen.json:
        screen.line(plain_json.dumps({"revoked": name, "sessions": where}))
    else:
        screen.line(f"  ✓ revoked  {in_words(grant, where)}")
        screen.line(screen.dim("    Such calls are asked about again."))
    return 0


async def _full(place: Opened, typed: str) -> str:
    """Return a grant's name where the session in it was abbreviated."""
    session, colon, action = typed.rpartition(":")
    try:
        return matching(await place.runtime.sessions(), session) + colon + action
    except NotFound:
        return typed


def in_words(grant: Grant, where: Sequence[str] = ()) -> str:
    """Return what a grant allows, where and until when."""
    what = f"when {grant.when}" if grant.when else "with ANY arguments"
    if grant.scope == "rule":
        place = f"in all sessions of {grant.agent}" if grant.agent else "in all sessions"
    else:
        place = "in " + (", ".join(where) if where else "this session")
    end = "until it is revoked" if grant.until_us is None else f"until {local(grant.until_us)}"
    return one_line(f"{grant.tool} {what}, {place}, {end}")


def local(at_us: int) -> str:
    """Return a moment in the local time zone, which is named."""
    moment = datetime.fromtimestamp(at_us / 1_000_000, UTC).astimezone()
    return f"{moment:%Y-%m-%d %H:%M %Z}"


def until_of(text: str, now_us: int) -> int | None:
    """Read an end: a date or a time in the local zone, or so many m, h, d or w from now.

    Raises `InvalidRequest` (E-GRANT) for what is neither, and for what is past.
    """
    if not text:
        return None
    now = datetime.fromtimestamp(now_us / 1_000_000, UTC)
    later = _LATER.fullmatch(text.strip())
    try:
        if later is not None:
            moment = now + timedelta(**{_UNITS[later[2]]: int(later[1])})
        else:
            moment = datetime.fromisoformat(text.strip()).astimezone()
        at_us = int(moment.timestamp() * 1_000_000)
    except (ValueError, OverflowError, OSError) as error:
        raise _wrong(f"--until {text!r} is no time") from error
    if at_us <= now_us:
        raise _wrong(f"--until {text} is {local(at_us)}, which is past")
    return at_us


def _wrong(problem: str) -> InvalidRequest:
    return InvalidRequest(
        "E-GRANT", f"{problem}. Nothing was decided.", "--until 2030-12-01, 2030-12-01T18:00 or 7d"
    )
