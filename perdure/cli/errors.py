"""`perdure errors`: what went wrong over all sessions, by cause; and moving on those that wait."""

import json as plain_json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from perdure.cli.background import code_of, drive
from perdure.cli.failing import fields_of, in_words
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.text import arguments, clean, clip, duration, one_line, pad, plural, wrap
from perdure.cli.wire import plain
from perdure.core.codec import encode
from perdure.core.errors import ErrorInfo, InvalidRequest, NotFound, PerdureError
from perdure.engine.redrive import (
    ErrorGroup,
    Occurrence,
    Planned,
    Redriven,
    grouped,
    occurrences,
    plan_redrive,
    redrive,
    whole_error,
)
from perdure.ports.store import Store
from perdure.stores.system import SystemClock

SHOWN: Final = 20


@dataclass(frozen=True)
class Wish:
    """What was typed behind `errors`."""

    what: str = ""
    fingerprint: str = ""
    rate: float = 1.0
    adopt: bool = False


def errors(wish: Wish, *, yes: bool, json: bool) -> int:
    """Carry out the verb."""
    if wish.what not in ("", "show", "redrive"):
        raise InvalidRequest(
            "E-USAGE", f"{wish.what!r} is nothing that can be done with errors.",
            f"perdure errors show {wish.what}",
        )  # fmt: skip
    if wish.what and not wish.fingerprint:
        raise InvalidRequest("E-USAGE", "Which error?", f"perdure errors {wish.what} FINGERPRINT")
    if not wish.rate > 0:
        raise InvalidRequest("E-REDRIVE-RATE", f"{wish.rate:g} sessions a second is no rate.")
    screen = Screen(json=json)
    if wish.what == "show":
        return opened(lambda place: _show(screen, place, wish.fingerprint))
    if wish.what == "redrive":
        return _redrive(screen, wish, yes=yes)
    return opened(lambda place: _list(screen, place))


async def _store(place: Opened) -> Store:
    return (await place.runtime.engine()).kit.store


async def _list(screen: Screen, place: Opened) -> int:
    groups = await grouped(await _store(place))
    if screen.json:
        screen.line(encode(groups).decode())
        return 0
    if not groups:
        screen.line("No session has met an error.")
        return 0
    now_us = SystemClock().now_us()
    head = f"    {pad('cause', 14)}{pad('code', 22)}{pad('where', 24)}"
    screen.line(screen.dim(head + f"{'times':>6} {'sessions':>9} {'waiting':>8} {'last':>8}"))
    for group in groups:
        sign = screen.style("✗", "red") if group.waiting else screen.dim("●")
        where = one_line(group.subject or group.origin)
        line = f"{pad(group.fingerprint, 14)}{pad(clip(group.code, 21), 22)}"
        line += (
            f"{pad(clip(where, 23), 24)}{group.count:>6} {group.sessions:>9} {group.waiting:>8} "
        )
        screen.line(f"  {sign} {line}{duration(now_us - group.last_at_us):>8}")
        screen.line("      " + screen.dim(clip(one_line(group.message), screen.width - 6)))
    first = groups[0]
    steps = [f"perdure errors show {first.fingerprint}"]
    if first.waiting:
        steps.append(f"perdure errors redrive {first.fingerprint}")
    screen.line()
    screen.line("  " + screen.dim("next  ") + screen.dim(" · ").join(steps))
    return 0


async def _group(place: Opened, typed: str) -> ErrorGroup:
    """Return the group whose fingerprint begins like that. Raises `NotFound`, `InvalidRequest`."""
    groups = await grouped(await _store(place))
    found = [group for group in groups if typed and group.fingerprint.startswith(typed)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(group.fingerprint for group in found)
        raise InvalidRequest("E-USAGE", f"{typed} is the beginning of {names}.", "Type more.")
    raise NotFound("E-ERROR-UNKNOWN", f"No session has met an error {typed}.", "perdure errors")


async def _show(screen: Screen, place: Opened, typed: str) -> int:
    store = await _store(place)
    group = await _group(place, typed)
    found = await occurrences(store, group.fingerprint)
    whole = await whole_error(store, found[0].row)
    if screen.json:
        fields = {"group": plain(group), "occurrences": plain(found), "error": plain(whole)}
        screen.line(plain_json.dumps(fields))
        return 0
    screen.line()
    if whole is not None:
        _whole(screen, group, whole, found[0].row.session)
    _fact(screen, "first", _when(group.first_at_us))
    _fact(screen, "last", _when(group.last_at_us))
    _fact(screen, "times", f"{group.count} in {plural(group.sessions, 'session')}")
    screen.line()
    for each in found[:SHOWN]:
        _occurrence(screen, each)
    if len(found) > SHOWN:
        screen.line(screen.dim(f"    and {len(found) - SHOWN} more: --json shows them all"))
    if group.waiting:
        screen.line()
        step = f"perdure errors redrive {group.fingerprint}"
        screen.line("  " + screen.dim("next  ") + step)
    return 0


def _whole(screen: Screen, group: ErrorGroup, whole: ErrorInfo, session: str) -> None:
    fields: dict[str, Any] = fields_of(whole, session)
    fields["where"] = whole.origin or group.origin
    for line in in_words(screen, fields).splitlines():
        screen.line("  " + line)
    if group.subject:
        _fact(screen, "of", one_line(group.subject))
    if whole.detail:
        _fact(screen, "as it came", "")
        for line in wrap(clean(whole.detail), screen.width - 6):
            screen.line("    " + screen.dim("│ ") + line)


def _occurrence(screen: Screen, each: Occurrence) -> None:
    sign = screen.style("✗", "red") if each.waits else screen.dim("●")
    row = each.row
    stands = "waits" if each.waits else f"has moved on ({each.status})"
    text = f"{row.session}   {stands} · {plural(row.count, 'time')} · last at event {row.seq}"
    screen.line(
        f"  {sign} {one_line(text)}   " + screen.dim(f"perdure show {row.session}:{row.seq}")
    )


def _fact(screen: Screen, label: str, text: str) -> None:
    screen.line("  " + screen.dim(pad(label, 12)) + text)


def _when(at_us: int) -> str:
    when = datetime.fromtimestamp(at_us / 1_000_000, UTC).astimezone()
    return when.isoformat(" ", "seconds")


def _redrive(screen: Screen, wish: Wish, *, yes: bool) -> int:
    group, plans = opened(lambda place: _plan(place, wish.fingerprint))
    going = [plan for plan in plans if plan.go]
    if not (screen.json and yes):
        _announce(screen, group, plans, wish)
    if not going:
        return 0 if not plans else 4
    if not yes:
        command = f"perdure errors redrive {group.fingerprint} --yes"
        question = f"Resume {plural(len(going), 'session')}?"
        status = 4 if screen.json else screen.agreed(question, command)
        if status is not None:
            return status
    only = {plan.session for plan in going}
    return opened(lambda place: _resume(screen, place, group.fingerprint, only, wish))


async def _plan(place: Opened, typed: str) -> tuple[ErrorGroup, list[Planned]]:
    group = await _group(place, typed)
    plans = await plan_redrive(await _store(place), group.fingerprint)
    return group, [await _with_code(place, plan) for plan in plans]


async def _with_code(place: Opened, plan: Planned) -> Planned:
    """Leave out what nobody could work on here."""
    if plan.go:
        try:
            await code_of(place, await (await place.runtime.session(plan.session)).state())
        except NotFound as error:
            return Planned(plan.session, plan.seq, plan.status, go=False, will=error.message)
    return plan


def _announce(screen: Screen, group: ErrorGroup, plans: list[Planned], wish: Wish) -> None:
    if screen.json:
        fields = {"fingerprint": group.fingerprint, "done": False, "plan": plain(plans)}
        screen.line(plain_json.dumps(fields))
        return
    screen.line()
    title = f"▸ {group.code} {one_line(group.subject)}"
    rate = f"{wish.rate:g} a second" if wish.rate >= 1 else f"one in {1 / wish.rate:g} s"
    waits = f"{plural(len(plans), 'session')} waiting · {rate}"
    screen.line("  " + screen.bold(title.rstrip()) + "  " + screen.dim(waits))
    screen.line()
    if not plans:
        screen.line("  No session stands there any more: nothing is to be done.")
    for plan in plans[:SHOWN]:
        sign = screen.style("↻", "cyan") if plan.go else screen.dim("–")
        text = f"{one_line(plan.session)}   {one_line(plan.will)}"
        if not plan.go and any(call.verdict == "decide" for call in plan.calls):
            text += f"   perdure resume {one_line(plan.session)}"
        screen.line(f"  {sign} {clip(text, screen.width - 4)}")
        for call in plan.calls:
            what = one_line(
                f"{call.tool}({arguments(call.arguments)})   {call.verdict}: {call.why}"
            )
            screen.line("      " + screen.dim(clip(what, screen.width - 6)))
    if len(plans) > SHOWN:
        screen.line(screen.dim(f"    and {len(plans) - SHOWN} more: --json shows them all"))
    screen.line()


async def _resume(
    screen: Screen, place: Opened, fingerprint: str, only: set[str], wish: Wish
) -> int:
    """Resume the sessions, each with a worker of its own."""
    engine = await place.runtime.engine()
    by = f"{whoami()} with errors redrive"
    done = redrive(engine, fingerprint, rate_per_s=wish.rate, only=only, by=by)
    async for each in done:
        why = each.why
        if each.outcome != "skipped":
            why = await _driven(place, each, adopt=wish.adopt)
        _told(screen, each, why)
    return 0


async def _driven(place: Opened, each: Redriven, *, adopt: bool) -> str:
    state = await (await place.runtime.session(each.plan.session)).state()
    try:
        await drive(place, state, adopt=adopt)
    except PerdureError as error:
        return f"it does not go on by itself: {error.message}"
    return each.why


def _told(screen: Screen, each: Redriven, why: str) -> None:
    name = each.plan.session
    if screen.json:
        fields = {"session": name, "outcome": each.outcome, "why": why, "will": each.plan.will}
        screen.line(plain_json.dumps(fields))
        return
    sign = screen.dim("–") if each.outcome == "skipped" else screen.style("✓", "green")
    more = f": {why}" if why else ""
    screen.line(f"  {sign} {one_line(name)}   {one_line(each.outcome + more)}   "
                + screen.dim(f"perdure show {name}"))  # fmt: skip
