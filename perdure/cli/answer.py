"""`perdure answer`: what waits for a client, and answering it."""

import json as plain_json
import sys
from dataclasses import dataclass
from pathlib import Path

from perdure.cli.asked import asked_in
from perdure.cli.asking import question
from perdure.cli.background import drive
from perdure.cli.filling import fields_of, options_of, read, value_wanted
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.text import clip, duration, one_line, plural, wrap
from perdure.cli.wire import Asked, plain
from perdure.core.errors import InvalidRequest, NotFound, PerdureError
from perdure.core.events import Event
from perdure.core.state import State
from perdure.engine.answers import ensure_open
from perdure.engine.session import Session
from perdure.stores.system import SystemClock

FILE_BYTES = 16 << 20


@dataclass(frozen=True)
class Given:
    """What was typed as the answer; None: nothing."""

    value: str | None = None
    json_value: str | None = None
    file: str | None = None
    failed: str | None = None

    @property
    def made(self) -> bool:
        """Whether there is an answer."""
        return any(each is not None for each in self._all)

    @property
    def _all(self) -> tuple[str | None, ...]:
        return (self.value, self.json_value, self.file, self.failed)

    def check(self) -> None:
        """Raise `InvalidRequest` (E-USAGE) for two answers at once."""
        if sum(each is not None for each in self._all) > 1:
            raise InvalidRequest(
                "E-USAGE", "One answer is possible: VALUE, --json-value, --file or --failed."
            )


def answer(typed: str, given: Given, *, json: bool) -> int:
    """Carry out the verb: without an answer list, with one answer what `typed` names."""
    given.check()
    if given.made and not typed:
        raise InvalidRequest("E-USAGE", "An answer is for one call.", "perdure answer ID VALUE")
    return opened(lambda place: _answer(place, typed, given, json=json))


async def _answer(place: Opened, typed: str, given: Given, *, json: bool) -> int:
    screen = Screen(json=json)
    if not typed:
        _list(screen, [each for row in await place.runtime.sessions() if row.waiting
                       for each in await _open(place, row.id)])  # fmt: skip
        return 0
    name, call_id = _parted(typed)
    session = await place.session(name)
    state = await session.state()
    if not given.made:
        _list(screen, [(s, a) for s, a in await _open(place, session.id)
                       if call_id in ("", a.call.id)])  # fmt: skip
        return 0
    ensure_open(state)
    call_id = call_id or _only(state)
    result = given.failed if given.failed is not None else _result(given, _form(state, call_id))
    failed = given.failed is not None
    event = await session.answer(call_id, result, failed=failed, by=whoami())
    _told(screen, session, call_id, event)
    if event.seq > state.seq:
        await _go_on(screen, place, state)
    return 0


def _parted(typed: str) -> tuple[str, str]:
    name, colon, call_id = typed.rpartition(":")
    return (name, call_id) if colon else (typed, "")


async def _open(place: Opened, name: str) -> list[tuple[State, Asked]]:
    state = await (await place.session(name)).state()
    return [(state, asked) for asked in asked_in(state) if asked.kind == "answer"]


def _only(state: State) -> str:
    """Return the call that waits, where it is the only one."""
    names = [asked.call.id for asked in asked_in(state) if asked.kind == "answer"]
    if not names:
        raise NotFound(
            "E-CALL-UNKNOWN", f"Nothing in {state.id} waits for an answer.",
            f"perdure show {state.id}",
        )  # fmt: skip
    if len(names) > 1:
        raise InvalidRequest(
            "E-USAGE", f"Several calls of {state.id} wait: {', '.join(names)}.",
            f"perdure answer {state.id}:{names[0]} VALUE",
        )  # fmt: skip
    return names[0]


def _form(state: State, call_id: str) -> str:
    found = [asked.form for asked in asked_in(state) if asked.call.id == call_id]
    return found[0] if found else ""


def _result(given: Given, form: str) -> object:
    """Return the answer as the form wants it. Whether it fits is the session's to say."""
    if given.json_value is not None:
        try:
            return plain_json.loads(given.json_value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(
                "E-USAGE",
                f"--json-value is no JSON: {error}.",
                '--json-value \'{"street": "Elm"}\'',
            ) from error
    text = given.value if given.file is None else _content(given.file)
    return read(text or "", form)[0]


def _content(file: str) -> str:
    try:
        if file == "-":
            text = sys.stdin.read(FILE_BYTES)
        else:
            text = Path(file).read_bytes()[:FILE_BYTES].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest("E-USAGE", f"{file} cannot be read: {error}.") from error
    return text.removesuffix("\n")


def _list(screen: Screen, waiting: list[tuple[State, Asked]]) -> None:
    if screen.json:
        screen.line(plain_json.dumps([_as_data(state, asked) for state, asked in waiting]))
        return
    if not waiting:
        screen.line("Nothing waits for an answer.")
        return
    now_us = SystemClock().now_us()
    screen.line(f"  {plural(len(waiting), 'question')} to answer")
    for state, asked in waiting:
        me = f"{state.id}:{asked.call.id}"
        age = duration(now_us - state.actions[asked.action_id].asked_at_us)
        screen.line()
        screen.line(
            screen.style("  ⏸ ", "yellow") + screen.bold(clip(question(asked), screen.width - 4))
        )
        screen.line("      " + screen.dim(f"{me} · {state.spec.name} · {age}"))
        for line in described(asked, screen.width - 6):
            screen.line("      " + line)
        screen.line(
            f"      perdure answer {me} {'--json-value JSON' if fields_of(asked.form) else 'VALUE'}"
        )


def described(asked: Asked, width: int) -> list[str]:
    """Return what may be answered, in lines."""
    fields = fields_of(asked.form)
    lines: list[str] = []
    for field in fields:
        more = "" if field.required else ", may be left out"
        about = f"   {one_line(field.about)}" if field.about else ""
        lines += wrap(f"{one_line(field.name)}: {one_line(field.what)}{more}{about}", width)
    if not fields:
        options = " | ".join(one_line(each) for each in options_of(asked))
        lines += wrap(options, width) if options else []
        wanted = value_wanted(asked.form)
        lines += [f"({one_line(wanted)})"] if wanted not in ("", "text") and not options else []
    return lines


def _as_data(state: State, asked: Asked) -> dict[str, object]:
    """Return an open question as data, its form as JSON Schema."""
    form = plain_json.loads(asked.form) if asked.form else None
    return {
        "session": state.id,
        "agent": state.spec.name,
        "call_id": asked.call.id,
        "action_id": asked.action_id,
        "tool": asked.call.tool,
        "arguments": asked.call.arguments,
        "options": list(options_of(asked)),
        "answer_schema": form,
        "asked_at_us": state.actions[asked.action_id].asked_at_us,
    }


def _told(screen: Screen, session: Session, call_id: str, event: Event) -> None:
    if screen.json:
        fields = {"session": session.id, "call_id": call_id, "taken": True}
        screen.line(plain_json.dumps(fields | {"event": plain(event)}))
        return
    sign = screen.style("  ✓ answered  ", "green")
    screen.line(sign + f"{session.id}:{call_id}" + screen.dim(f"   event {event.seq}"))


async def _go_on(screen: Screen, place: Opened, state: State) -> None:
    """See to it that somebody works on the session."""
    try:
        top = await drive(place, state)
    except PerdureError as error:
        screen.error(f"  {state.id} does not go on by itself: {error.message}  {error.hint}")
    else:
        if not screen.json:
            screen.line(screen.dim(f"    {top} goes on:  perdure show {top}"))
