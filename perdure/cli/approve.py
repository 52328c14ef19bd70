"""`perdure approve`: what waits for people, and their decisions."""

import json as plain_json
from collections.abc import Sequence
from dataclasses import dataclass

from perdure.cli.asking import question, rule_of
from perdure.cli.background import drive
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.text import duration, one_line, plural
from perdure.cli.wire import Asked, plain
from perdure.cli.worker import asked_in
from perdure.core.codec import arguments_of
from perdure.core.errors import InvalidRequest, NotFound, PerdureError
from perdure.core.events import ActionResolved, Event
from perdure.core.state import State
from perdure.engine.answers import ensure_open
from perdure.engine.session import Session
from perdure.stores.system import SystemClock


@dataclass(frozen=True)
class Choice:
    """What was decided on the command line, if anything."""

    allow: bool = False
    deny: bool = False
    reason: str = ""
    edit: str = ""

    @property
    def made(self) -> bool:
        """Whether there is a decision."""
        return self.allow or self.deny or bool(self.edit)


@dataclass(frozen=True)
class Open:
    """One question of one session."""

    session: Session
    state: State
    asked: Asked


def approve(ids: Sequence[str], choice: Choice, *, json: bool) -> int:
    """Carry out the verb: without a decision list, with one decide what `ids` name."""
    if choice.deny and (choice.allow or choice.edit):
        raise InvalidRequest("E-USAGE", "Both allowed and denied: take one.")
    if choice.reason and not choice.deny:
        raise InvalidRequest("E-USAGE", "--reason belongs to --deny.")
    return opened(lambda place: _approve(place, ids, choice, json=json))


async def _approve(place: Opened, ids: Sequence[str], choice: Choice, *, json: bool) -> int:
    screen = Screen(json=json)
    waiting = [each for typed in ids for each in await _named(place, typed)]
    if not ids:
        waiting = await _all(place)
    if not choice.made:
        _list(screen, waiting)
        return 0
    if not ids:
        raise InvalidRequest(
            "E-USAGE", "Say which: nothing is decided wholesale.", "perdure approve ID --allow"
        )
    if not waiting:
        raise NotFound(
            "E-ACTION-UNKNOWN",
            f"{', '.join(ids)} has nothing to approve.",
            f"perdure show {ids[0]}",
        )
    if choice.edit and len(waiting) > 1:
        raise InvalidRequest(
            "E-USAGE", "--edit is for one call, and several wait.",
            f"perdure approve {waiting[0].state.id}:{waiting[0].asked.action_id} --edit …",
        )  # fmt: skip
    for each in waiting:
        _told(screen, each, await _decide(each, choice))
    await _go_on(screen, place, waiting)
    return 0


async def _named(place: Opened, typed: str) -> list[Open]:
    """Return what `ID` or `ID:ACTION` stands for."""
    name, colon, action = typed.rpartition(":")
    if not (colon and action.startswith("a") and action[1:].isdigit()):
        name, action = typed, ""
    session = await place.session(name)
    state = await session.state()
    ensure_open(state)
    found = _approvals(session, state)
    if action and not any(each.asked.action_id == action for each in found):
        raise NotFound(
            "E-ACTION-UNKNOWN", f"{session.id} has no approval {action} open.",
            f"perdure show {session.id}",
        )  # fmt: skip
    return [each for each in found if not action or each.asked.action_id == action]


async def _all(place: Opened) -> list[Open]:
    found: list[Open] = []
    for row in await place.runtime.sessions():
        if row.waiting:
            session = await place.session(row.id)
            state = await session.state()
            found += [Open(session, state, asked) for asked in asked_in(state)]
    return found


def _approvals(session: Session, state: State) -> list[Open]:
    return [Open(session, state, a) for a in asked_in(state) if a.kind == "approve"]


def _list(screen: Screen, waiting: Sequence[Open]) -> None:
    if screen.json:
        found = [
            {"session": w.state.id, "agent": w.state.spec.name, **plain(w.asked)} for w in waiting
        ]
        screen.line(plain_json.dumps(found))
        return
    if not waiting:
        screen.line("Nothing waits for anybody.")
        return
    now_us = SystemClock().now_us()
    screen.line(f"  {plural(len(waiting), 'question')} for you")
    for each in waiting:
        action = each.state.actions[each.asked.action_id]
        screen.line()
        sign = screen.style("  ⏸ ", "yellow") + screen.bold(one_line(each.asked.call.tool))
        age = duration(now_us - action.asked_at_us)
        screen.line(
            sign + screen.dim(f"   {each.state.id}:{action.id} · {each.state.spec.name} · {age}")
        )
        for name, value in _arguments(each.asked):
            screen.line(f"      {one_line(name)}: {one_line(value)}")
        if rule := rule_of(each.asked):
            screen.line("      " + screen.dim(f"rule {rule}"))
        left = (action.expires_at_us or 0) - now_us
        if action.expires_at_us is not None:
            screen.line("      " + screen.dim(f"expires in {duration(left)}"))
        me = f"{each.state.id}:{action.id}"
        if each.asked.kind == "approve":
            screen.line(f"      perdure approve {me} --allow | --deny --reason … | --edit JSON")
        elif each.asked.kind == "answer":
            screen.line(f"      perdure answer {each.state.id}:{each.asked.call.id}")
        else:
            ways = "--as done --result JSON | --as failed | --rerun"
            screen.line(f"      perdure resume {each.state.id} {ways}")


def _arguments(asked: Asked) -> list[tuple[str, str]]:
    try:
        given = arguments_of(asked.call.arguments)
    except InvalidRequest:
        return [("arguments", asked.call.arguments)]
    return [
        (name, value if isinstance(value, str) else plain_json.dumps(value, ensure_ascii=False))
        for name, value in given.items()
    ]


async def _decide(each: Open, choice: Choice) -> Event:
    name = each.asked.action_id
    if choice.deny:
        return await each.session.deny(name, by=whoami(), reason=choice.reason)
    edited = None
    if choice.edit:
        arguments_of(choice.edit)
        edited = choice.edit
    return await each.session.allow(name, by=whoami(), seen=each.asked.digest, arguments=edited)


def _told(screen: Screen, each: Open, event: Event) -> None:
    taken = isinstance(event.payload, ActionResolved)
    if screen.json:
        screen.line(
            plain_json.dumps(
                {"session": each.state.id, "action": each.asked.action_id, "taken": taken}
                | {"event": plain(event)}
            )
        )
        return
    if not isinstance(event.payload, ActionResolved):
        screen.line(screen.style("  ✗ too late: ", "yellow") + question(each.asked))
        return
    ok = event.payload.decision == "allow"
    word = screen.style("  ✓ allowed  ", "green") if ok else screen.style("  ✗ denied  ", "yellow")
    screen.line(word + question(each.asked))


async def _go_on(screen: Screen, place: Opened, waiting: Sequence[Open]) -> None:
    """See to it that somebody works on the sessions that were decided about."""
    for name in dict.fromkeys(each.state.id for each in waiting):
        state = next(each.state for each in waiting if each.state.id == name)
        try:
            top = await drive(place, state)
        except PerdureError as error:
            screen.error(f"  {name} does not go on by itself: {error.message}  {error.hint}")
        else:
            if not screen.json:
                screen.line(screen.dim(f"    {top} goes on:  perdure show {top}"))
