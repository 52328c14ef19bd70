"""`perdure approve`: what waits for people, and their decisions."""

import json as plain_json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from perdure.cli.asked import asked_in
from perdure.cli.asking import question
from perdure.cli.background import drive
from perdure.cli.granted import in_words, until_of
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.text import one_line
from perdure.cli.waiting import SCOPES, Open, everywhere, show
from perdure.cli.wire import Asked, plain
from perdure.core.codec import arguments_of
from perdure.core.errors import Conflict, InvalidRequest, NotFound, PerdureError
from perdure.core.events import ActionResolved, Event
from perdure.engine.answers import ensure_open
from perdure.engine.grants import Scope
from perdure.engine.session import Session
from perdure.stores.system import SystemClock


@dataclass(frozen=True)
class Choice:
    """What was decided on the command line, if anything. `scope` is what is allowed: the call
    (once), or calls like it.
    """

    allow: bool = False
    deny: bool = False
    reason: str = ""
    edit: str = ""
    scope: str = ""
    when: str = ""
    until: str = ""

    @property
    def made(self) -> bool:
        """Whether there is a decision."""
        return self.allow or self.deny or bool(self.edit)

    def check(self) -> None:
        """Raise `InvalidRequest` for options that do not go together."""
        if self.deny and (self.allow or self.edit):
            raise InvalidRequest("E-USAGE", "Both allowed and denied: take one.")
        if self.reason and not self.deny:
            raise InvalidRequest("E-USAGE", "--reason belongs to --deny.")
        if self.scope and self.scope not in SCOPES:
            raise InvalidRequest("E-USAGE", f"--for is one of {', '.join(SCOPES)}.")
        if self.scope and not (self.allow or self.edit):
            raise InvalidRequest("E-USAGE", "--for belongs to --allow.")
        if (self.when or self.until) and self.scope not in ("session", "rule"):
            raise InvalidRequest("E-USAGE", "--when and --until belong to --for session|rule.")


def approve(ids: Sequence[str], choice: Choice, *, json: bool) -> int:
    """Carry out the verb: without a decision list, with one decide what `ids` name."""
    choice.check()
    return opened(lambda place: _approve(place, ids, choice, json=json))


async def _approve(place: Opened, ids: Sequence[str], choice: Choice, *, json: bool) -> int:
    screen = Screen(json=json)
    now_us = SystemClock().now_us()
    until_us = until_of(choice.until, now_us)
    waiting = [each for typed in ids for each in await _named(place, typed, choice)]
    if not ids:
        waiting = await everywhere(place)
    if not choice.made:
        show(screen, waiting, now_us)
        return 0
    _check(ids, waiting, choice)
    lost = 0
    for each in waiting:
        try:
            _told(screen, each, await _decide(each, choice, until_us))
        except Conflict as error:
            lost = error.exit_code
            _too_late(screen, each, error)
    await _go_on(screen, place, waiting)
    return lost


def _check(ids: Sequence[str], waiting: Sequence[Open], choice: Choice) -> None:
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
            f"perdure approve {waiting[0].name} --edit …",
        )  # fmt: skip


async def _named(place: Opened, typed: str, choice: Choice) -> list[Open]:
    """Return what `ID` or `ID:ACTION` stands for.

    A decision on an action that is not open any more is posted all the same: its refusal is
    recorded, and who was first is said.
    """
    name, colon, action = typed.rpartition(":")
    if not (colon and action.startswith("a") and action[1:].isdigit()):
        name, action = typed, ""
    session = await place.session(name)
    state = await session.state()
    found = [Open(session, state, a) for a in asked_in(state) if a.kind == "approve"]
    named = [each for each in found if not action or each.asked.action_id == action]
    if named:
        return named
    if action and choice.made:
        await _refused(session, action, choice)
    ensure_open(state)
    if action:
        raise NotFound(
            "E-ACTION-UNKNOWN", f"{session.id} has no approval {action} open.",
            f"perdure show {session.id}",
        )  # fmt: skip
    return []


async def _refused(session: Session, action: str, choice: Choice) -> None:
    """Decide on what is not open. Raises `Conflict` with who was first, unless it never was."""
    try:
        if choice.deny:
            await session.deny(action, by=whoami(), reason=choice.reason)
        else:
            await session.allow(action, by=whoami())
    except InvalidRequest as error:
        if error.code != "E-ACTION-UNKNOWN":
            raise


_SCOPES: Final[Mapping[str, Scope]] = {
    "": "once",
    "once": "once",
    "session": "session",
    "rule": "rule",
}


async def _decide(each: Open, choice: Choice, until_us: int | None) -> Event:
    name = each.asked.action_id
    if choice.deny:
        return await each.session.deny(name, by=whoami(), reason=choice.reason)
    if choice.edit:
        arguments_of(choice.edit)
    return await each.session.allow(
        name,
        by=whoami(),
        seen=each.asked.digest,
        arguments=choice.edit or None,
        scope=_SCOPES[choice.scope],
        when=choice.when,
        until_us=until_us,
    )


def _told(screen: Screen, each: Open, event: Event) -> None:
    decided = event.payload
    assert isinstance(decided, ActionResolved)
    if screen.json:
        known = {"session": each.state.id, "action": each.asked.action_id, "taken": True}
        screen.line(plain_json.dumps(known | {"event": plain(event)}))
        return
    ok = decided.decision == "allow"
    word = screen.style("  ✓ allowed  ", "green") if ok else screen.style("  ✗ denied  ", "yellow")
    screen.line(word + question(_as_decided(each.asked, decided)))
    if decided.grant is not None:
        words = in_words(decided.grant, [each.state.id])
        screen.line(screen.style("    from now on  ", "yellow") + words)
        screen.line(screen.dim(f"    take it back: perdure approve --revoke {decided.grant.name}"))


def _as_decided(asked: Asked, decided: ActionResolved) -> Asked:
    """What was asked, with the arguments that a person put in the place of the model's."""
    if decided.arguments is None:
        return asked
    call = msgspec.structs.replace(asked.call, arguments=decided.arguments)
    return msgspec.structs.replace(asked, call=call)


def _too_late(screen: Screen, each: Open, error: Conflict) -> None:
    """Say who was faster. The journal keeps that this came too late."""
    if screen.json:
        known = {"session": each.state.id, "action": each.asked.action_id, "taken": False}
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        screen.line(plain_json.dumps(known | {"error": told}))
        return
    screen.line(screen.style("  ✗ too late: ", "yellow") + question(each.asked))
    screen.line(f"    {error.code}  {one_line(error.message)}")


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
