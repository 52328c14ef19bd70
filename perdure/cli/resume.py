"""`perdure resume`: go on, and decide what became of calls whose outcome nobody knows."""

import json as plain_json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perdure.cli.agents import limited
from perdure.cli.asked import asked_in
from perdure.cli.elsewhere import ref_there
from perdure.cli.me import fresh_key, whoami
from perdure.cli.onlooker import Manner
from perdure.cli.opened import Opened, opened
from perdure.cli.places import Places, Ref
from perdure.cli.run import look_on, order_of
from perdure.cli.screen import Screen
from perdure.cli.wire import Letter
from perdure.config import load_project
from perdure.core.errors import InvalidRequest, NotFound
from perdure.core.events import SessionUpdated
from perdure.core.inbox import Decide, Say, Update
from perdure.core.state import State


@dataclass(frozen=True)
class How:
    """What was typed behind `resume ID`."""

    as_: str = ""
    result: str = ""
    rerun: bool = False
    reason: str = ""
    action: str = ""
    adopt: bool = False
    limits: tuple[str, ...] | list[str] = ()
    agent: str = ""


def resume(typed: str, how: How, *, yes: bool, json: bool, detach: bool, no_wait: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    state, ref = opened(lambda place: _look(place, typed, how))
    letters = (*_decisions(state, how), *_limits(state, how), _go_on())
    if state.id != ref.session:
        letters = _sent_below(screen, state, letters)
        state = opened(lambda place: _state(place, ref.session))
    project = load_project(Path.cwd())
    order = order_of(ref, project, letters, create=False, adopt=how.adopt)
    order = msgspec.structs.replace(order, after=state.seq)
    manner = Manner(yes=yes, detach=detach, no_wait=no_wait, greet=True)
    return look_on(screen, Places(project), ref, order, manner)


async def _look(place: Opened, typed: str, how: How) -> tuple[State, Ref]:
    """Return the session and what drives it: a subagent goes on with the one on top of it."""
    session = await place.session(typed)
    state = await session.state()
    top = state
    while top.parent:
        top = await _state(place, top.parent)
    return state, ref_of(place, top, how.agent)


async def _state(place: Opened, session: str) -> State:
    return await (await place.runtime.session(session)).state()


def _sent_below(screen: Screen, state: State, letters: tuple[Letter, ...]) -> tuple[Letter, ...]:
    """Post the letters to a subagent; return those for the session on top of it."""

    async def send(place: Opened) -> None:
        session = await place.runtime.session(state.id)
        for letter in letters:
            await session.post(letter.post, letter.key)

    opened(send)
    if not screen.json:
        screen.line(f"  {state.id} is a subagent of {state.parent} and goes on with it.")
    return (_go_on(),)


def ref_of(place: Opened, state: State, agent: str = "") -> Ref:
    """Return how the session's agent is found. Raises `NotFound` (E-AGENT-MISSING)."""
    if place.project.remote:
        return ref_there(state.id, agent or state.spec.name)
    ref = place.places.ref(state.id)
    if agent:
        directory = str(place.project.root if place.project.file else Path.cwd())
        known = ref or Ref(state.id, agent, directory)
        return msgspec.structs.replace(known, agent=agent, directory=directory)
    if ref is not None:
        return ref
    name = state.spec.name
    if name in place.project.settings.agents:
        return Ref(state.id, name, str(place.project.root))
    raise NotFound(
        "E-AGENT-MISSING",
        f"Nobody knows here where the code of agent {name} is. {state.id} was not touched.",
        f"perdure resume {state.id} --agent FILE.py",
    )


def _go_on() -> Letter:
    return Letter(fresh_key(), Say("resume", by=whoami()))


def _decisions(state: State, how: How) -> tuple[Letter, ...]:
    """Return the decision on the call whose outcome is unknown, if one was given."""
    decision = "rerun" if how.rerun else how.as_
    if not decision:
        if how.result or how.reason:
            raise InvalidRequest("E-USAGE", "--result and --reason belong to --as.", "--as done")
        return ()
    if decision not in ("done", "failed", "rerun") or (how.rerun and how.as_):
        raise InvalidRequest(
            "E-USAGE", "One of --as done, --as failed, --rerun is possible.",
            f"perdure resume {state.id} --as done --result JSON",
        )  # fmt: skip
    open_ = [a for a in asked_in(state) if a.kind not in ("approve", "answer")]
    named = [a for a in open_ if not how.action or a.action_id == how.action]
    if not named:
        raise NotFound(
            "E-ACTION-UNKNOWN",
            f"{state.id} has no call whose outcome is unknown"
            + (f" under {how.action}." if how.action else "."),
            f"perdure show {state.id}",
        )
    if len(named) > 1:
        names = ", ".join(a.action_id for a in named)
        raise InvalidRequest(
            "E-USAGE", f"Several calls are unknown: {names}.", f"--action {named[0].action_id}"
        )
    result = _result(how.result) if decision == "done" else None
    decide = Decide(
        named[0].action_id,
        decision,  # type: ignore[arg-type]  # checked above
        whoami(),
        how.reason,
        named[0].digest,
        result=result,
    )
    return (Letter(fresh_key(), decide),)


def _result(text: str) -> str:
    """Return what the model reads: JSON as it was given, a JSON string as its text."""
    if not text:
        return "(done)"
    try:
        value = plain_json.loads(text)
    except ValueError as error:
        raise InvalidRequest(
            "E-USAGE", f"--result is not JSON: {error}.", '--result \'{"receipt": "r_81"}\''
        ) from error
    return value if isinstance(value, str) else text


def _limits(state: State, how: How) -> tuple[Letter, ...]:
    if not how.limits:
        return ()
    limits = limited(state.limits, how.limits)
    return (Letter(fresh_key(), Update(SessionUpdated(by=whoami(), limits=limits))),)
