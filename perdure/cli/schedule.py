"""`perdure schedule`: what agents do by themselves, and when."""

import asyncio
import itertools
import json as plain_json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

from perdure.cli.agents import Overrides, load_agent
from perdure.cli.elsewhere import check_project
from perdure.cli.firing import ref_name
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.places import Places, Ref
from perdure.cli.screen import Screen
from perdure.cli.text import clip, duration, one_line, pad, plural, usd
from perdure.cli.wire import plain
from perdure.cli.worker import runtime_of
from perdure.config import Project, load_project
from perdure.core.content import as_content, text_of
from perdure.core.errors import InvalidRequest
from perdure.core.schedules import Missed, Overlap, Schedule
from perdure.engine.calendar import Terms, following_of, moment_of, plan
from perdure.engine.schedules import Past, session_of
from perdure.stores.system import SystemClock

NEXT: Final = 5
SHOWN: Final = 10
_TEXT_BYTES: Final = 1_000_000
_AT_ONCE: Final = ": that is past, so it fires at once"
_PAST: Final = {
    "skip": ": that is past, so it is missed and left out, unless it was a minute ago at most",
    "last": _AT_ONCE,
    "all": _AT_ONCE,
}


@dataclass(frozen=True)
class Wish:
    """What was typed behind `schedule add`."""

    name: str
    prompt: str
    agent: str
    cron: str = ""
    at: str = ""
    tz: str = "UTC"
    until: str = ""
    session: str = ""
    workspace: str = ""
    missed: str = "last"
    overlap: str = ""


def add(wish: Wish, *, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    project = load_project(Path.cwd())
    check_project(project, workspace=wish.workspace, in_place=False, unsandboxed=False)
    name = wish.agent if project.remote else load_agent(wish.agent, project, Overrides()).name
    text = sys.stdin.read(_TEXT_BYTES).strip() if wish.prompt == "-" else wish.prompt
    content = as_content(text) if text else ()
    wanted = plan(wish.name, name, content, _workspace(wish.workspace), _terms(wish))
    places = Places(project)
    places.prepare()
    made = asyncio.run(_add(project, wanted))
    directory = project.root if project.file else Path.cwd()
    places.remember(Ref(ref_name(made.name), wish.agent, str(directory)))
    if json:
        screen.line(plain_json.dumps(_fields(made)))
        return 0
    screen.line(f"  {made.name}   {_when(made)}   {name}")
    past = made.next_us is not None and made.next_us <= SystemClock().now_us()
    screen.line(f"  next  {_moment(made, made.next_us)}{_PAST[made.missed] if past else ''}")
    runs = "the server" if project.remote else "`perdure work`"
    screen.line("  " + screen.dim(f"It fires while {runs} runs."))
    return 0


async def _add(project: Project, wanted: Schedule) -> Schedule:
    async with runtime_of(project, clerk=True) as runtime:
        return await (await runtime.engine()).schedules.add(wanted)


def _terms(wish: Wish) -> Terms:
    # What is no policy is refused by the engine, with those that are.
    return {
        "cron": wish.cron,
        "at": _typed(wish.at, "--at"),
        "tz": wish.tz,
        "session": wish.session,
        "missed": cast(Missed, wish.missed),
        "overlap": cast(Overlap, wish.overlap) if wish.overlap else None,
        "until": _typed(wish.until, "--until"),
        "by": whoami(),
    }


def _typed(text: str, option: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError as error:
        raise InvalidRequest(
            "E-USAGE", f"{option} {text!r} is no moment.", f"{option} '2026-12-01 09:00'"
        ) from error


def _workspace(typed: str) -> str:
    if not typed:
        return ""
    path = Path(typed).expanduser()
    if not path.is_dir():
        raise InvalidRequest("E-USAGE", f"There is no directory {path}.")
    return str(path.resolve())


def ls(*, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    return opened(lambda place: _ls(screen, place))


async def _ls(screen: Screen, place: Opened) -> int:
    found = await place.runtime.schedules()
    if screen.json:
        screen.line(plain_json.dumps([_fields(each) for each in found]))
        return 0
    if not found:
        screen.line("No schedules. Try: perdure schedule add NAME \"…\" --agent A --cron '@daily'")
        return 0
    now_us = SystemClock().now_us()
    names = min(28, max(8, *(len(each.name) for each in found)))
    agents = min(16, max(5, *(len(each.agent) for each in found)))
    head = f"    {pad('schedule', names)}  {pad('agent', agents)}  {pad('when', 30)}  next"
    screen.line(screen.dim(head))
    for each in found:
        line = f"{pad(clip(each.name, names), names)}  {pad(clip(each.agent, agents), agents)}  "
        line += f"{pad(clip(_when(each), 30), 30)}  {_stands(each, now_us)}"
        sign = screen.style("✗", "red") if each.error else screen.dim("●")
        screen.line(f"  {sign} {line}")
        for note in _notes(each):
            screen.line("      " + screen.dim(clip(note, screen.width - 6)))
    return 0


def _stands(schedule: Schedule, now_us: int) -> str:
    if schedule.paused:
        return "paused"
    if schedule.due:
        return f"{len(schedule.due)} due now"
    if schedule.next_us is None:
        return "over"
    ahead_us = schedule.next_us - now_us
    return f"in {duration(ahead_us)}" if ahead_us > 0 else "due now"


def _notes(schedule: Schedule) -> Iterator[str]:
    """What did not go as the plan says."""
    if schedule.error:
        yield one_line(schedule.error)
    if schedule.last_skipped_us is not None:
        skipped = _moment(schedule, schedule.last_skipped_us)
        yield f"left out {skipped}: the run before was not over"
    if schedule.last_missed_us is not None:
        yield f"missed {_moment(schedule, schedule.last_missed_us)}: nothing fired it in time"


def show(name: str, *, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    return opened(lambda place: _show(screen, place, name))


async def _show(screen: Screen, place: Opened, name: str) -> int:
    schedules = (await place.runtime.engine()).schedules
    schedule = await schedules.get(name)
    runs = await schedules.history(name)
    following = list(itertools.islice(_following(schedule), NEXT))
    if screen.json:
        fields = _fields(schedule) | {"next": [_iso(schedule, at_us) for at_us in following]}
        screen.line(plain_json.dumps(fields | {"past": [_past(schedule, each) for each in runs]}))
        return 0
    screen.line()
    screen.line(f"  {screen.bold(schedule.name)}   {_when(schedule)}   {schedule.agent}")
    _fact(screen, "says", clip(one_line(text_of(schedule.prompt)), screen.width - 14))
    where = schedule.session or "a new session each time"
    _fact(screen, "in", where + (f", from {schedule.source}" if schedule.source else ""))
    _fact(screen, "missed", f"{schedule.missed}   overlap {schedule.overlap}")
    for note in _notes(schedule):
        _fact(screen, "note", note)
    stands = "paused" if schedule.paused else "over"
    times = [_moment(schedule, at_us) for at_us in following] or [stands]
    for label, text in zip(["next", *[""] * NEXT], times, strict=False):
        _fact(screen, label, text)
    for each in runs[:SHOWN]:
        _run(screen, schedule, each)
    return 0


def _following(schedule: Schedule) -> Iterator[int]:
    """The fire times to come."""
    following, at_us = following_of(schedule), schedule.next_us
    while at_us is not None and not schedule.paused:
        yield at_us
        at_us = following(at_us)


def _run(screen: Screen, schedule: Schedule, past: Past) -> None:
    run, row = past
    status = row.status if row else "gone"
    cost = "" if row is None else usd(row.micro_usd) if row.micro_usd else "?" * bool(row.unpriced)
    by_hand = "   asked for" if run.by_hand else ""
    text = f"{_moment(schedule, run.at_us)}   {pad(status, 8)} {pad(cost, 8)}{by_hand}"
    _fact(screen, "run", f"{text.rstrip()}   " + screen.dim(f"perdure show {run.session}"))


def _fact(screen: Screen, label: str, text: str) -> None:
    screen.line("  " + screen.dim(pad(label, 10)) + text)


def act(what: Literal["pause", "resume", "rm", "now"], name: str, *, json: bool) -> int:
    """Carry out the verb of that name."""
    screen = Screen(json=json)
    return opened(lambda place: _act(screen, place, what, name))


async def _act(screen: Screen, place: Opened, what: str, name: str) -> int:
    schedules = (await place.runtime.engine()).schedules
    fields: dict[str, Any] = {"schedule": name}
    match what:
        case "pause":
            fields |= _fields(await schedules.pause(name))
            said = f"{name} is paused. On again: perdure schedule resume {name}"
        case "resume":
            made = await schedules.resume(name)
            fields |= _fields(made)
            said = f"{name} fires next {_moment(made, made.next_us)}"
        case "rm":
            there = await schedules.get(name)
            await schedules.remove(name)
            fields["dropped"] = [session_of(there, fire) for fire in there.due]
            said = f"{name} is gone; its sessions are as they were.{_dropped(fields['dropped'])}"
        case _:
            fields["session"] = await schedules.run_now(name)
            said = f"{fields['session']}   begins where `perdure work` runs."
            if place.project.remote:
                said = f"{fields['session']}   begins on the server."
    screen.line(plain_json.dumps(fields) if screen.json else f"  {said}")
    return 0


def _dropped(sessions: Sequence[str]) -> str:
    """Say which runs were announced, and will not begin."""
    if not sessions:
        return ""
    which = one_line(", ".join(sessions))
    go = "goes" if len(sessions) == 1 else "go"
    begin = "begins" if len(sessions) == 1 else "begin"
    runs = plural(len(sessions), "announced run")
    return f"\n  {runs} {go} with it and never {begin}: {which}"


def _fields(schedule: Schedule) -> dict[str, Any]:
    fields = {f: plain(getattr(schedule, f)) for f in Schedule.__struct_fields__}
    return {"schedule": schedule.name, "plan": fields}


def _past(schedule: Schedule, past: Past) -> dict[str, Any]:
    fields: dict[str, Any] = plain(past.run)
    return fields | {
        "at": _iso(schedule, past.run.at_us),
        "status": past.row.status if past.row else "",
        "micro_usd": past.row.micro_usd if past.row else 0,
    }


def _when(schedule: Schedule) -> str:
    if schedule.cron:
        return f"{schedule.cron}  {schedule.tz}"
    return f"once, {_moment(schedule, schedule.at_us)}"


def _moment(schedule: Schedule, at_us: int | None) -> str:
    if at_us is None:
        return "never again"
    return f"{moment_of(at_us, schedule.tz):%Y-%m-%d %H:%M:%S} {schedule.tz}"


def _iso(schedule: Schedule, at_us: int) -> str:
    return moment_of(at_us, schedule.tz).isoformat()
