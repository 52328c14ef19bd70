"""`perdure fork`: a new session that begins at any moment of an old one."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import msgspec

from perdure.cli.agents import Overrides, load_agent
from perdure.cli.cut import (
    Cut,
    agreed,
    changed_files,
    cut_at,
    document,
    is_unsafe,
    planned,
    show_cut,
)
from perdure.cli.elsewhere import engine_of
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.places import Ref
from perdure.cli.screen import Screen
from perdure.cli.show import parsed
from perdure.cli.text import one_line
from perdure.core.agent import AgentSpec
from perdure.core.errors import InvalidRequest
from perdure.core.events import Event, SessionCreated, SessionForked, SessionUpdated
from perdure.engine.answers import last_open
from perdure.engine.branching import before_message
from perdure.engine.session import Session


@dataclass(frozen=True)
class Branch:
    """What was typed behind `fork ID`."""

    at: int | None = None
    model: str = ""
    agent: str = ""
    name: str = ""
    edit: str = ""


def fork(typed: str, branch: Branch, *, yes: bool, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    name, seq = parsed(typed)
    if seq is not None and branch.at not in (None, seq):
        raise InvalidRequest("E-USAGE", f"{typed} and --at {branch.at} name two moments.")
    if branch.at is not None and branch.at < 1:
        raise InvalidRequest("E-USAGE", "Events are counted from 1.", "perdure show ID --events")
    at = branch.at or seq
    cut = opened(lambda place: _look(place, name, at, edit=bool(branch.edit)))
    if not json:
        _announce(screen, cut, branch)
    options = ("model", "agent", "name", "edit")
    given = "".join(f" --{k} {quote(v)}" for k in options if (v := getattr(branch, k)))
    command = f"perdure fork {cut.now.id} --at {cut.plan.at}{given} --yes"
    status = agreed(screen, cut, "Make the fork?", command, yes=yes)
    if status is not None:
        return status
    made = opened(lambda place: _fork(place, cut, branch))
    if json:
        fields = {"session": made, "origin": cut.now.id, "at": cut.plan.at, "status": "paused"}
        document(screen, {**fields, "done": True, "preflight": planned(cut)})
        return 0
    screen.line(f"  {screen.bold(made)} begins at event {cut.plan.at} of {cut.now.id}, paused.")
    steps = [f"perdure resume {made}", f'perdure run {made} "…"', f"perdure show {made}"]
    screen.line("  " + screen.dim("next  ") + screen.dim(" · ").join(steps))
    return 0


async def _look(place: Opened, name: str, at: int | None, *, edit: bool) -> Cut:
    session = await place.session(name)
    state = await session.state()
    seq = at or await last_open(session, state)
    if edit:
        store = (await place.runtime.engine()).kit.store
        seq = await before_message(store, session.id, seq)
    return await cut_at(place, session, seq, same=False)


def _announce(screen: Screen, cut: Cut, branch: Branch) -> None:
    spec = cut.state.spec
    screen.line()
    title = f"▸ a fork of {cut.now.id} at event {cut.plan.at}"
    who = branch.agent or spec.name
    screen.line(
        "  " + screen.bold(title) + "  " + screen.dim(f"{who} · {branch.model or spec.model}")
    )
    if branch.edit:
        screen.line("    its next message  " + one_line(branch.edit))
    screen.line()
    show_cut(screen, cut, _files(cut), branch.model)
    if is_unsafe(cut):
        screen.line(
            screen.style("  ! What you decide is asked when the fork is resumed.", "yellow")
        )
        screen.line()


def _files(cut: Cut) -> str:
    if cut.changes is not None:
        return f"a workspace of its own, as it was then; {changed_files(cut.changes)}"
    if cut.state.source:
        return f"none then: begins with a copy of {cut.state.source} as it is now"
    return "none then"


async def _fork(place: Opened, cut: Cut, branch: Branch) -> str:
    session = await place.session(cut.now.id)
    known = place.places.ref(session.id)
    spec = await _definition(place, session, cut, branch, known)
    name = branch.name or None
    at = cut.plan.at
    if branch.edit:  # the message behind this moment is the one said anew
        at = cut.plan.at + 1
    made = await session.fork(at, name=name, agent=spec, edit=branch.edit or None, by=whoami())
    limits = cut.state.limits
    if spec is not None and not branch.agent and spec.limits != limits:
        await _limit(made, SessionUpdated(by=whoami(), limits=limits))
    directory = str(_directory(place))
    if branch.agent:
        known = Ref(made.id, branch.agent, directory, model=branch.model)
    elif known is not None:
        known = msgspec.structs.replace(
            known, session=made.id, in_place=False, model=branch.model or known.model
        )
    elif branch.model and cut.state.spec.name in place.project.settings.agents:
        known = Ref(made.id, cut.state.spec.name, directory, model=branch.model)
    if known is not None and not place.project.remote:
        place.places.remember(known)
    return made.id


async def _limit(made: Session, update: SessionUpdated) -> None:
    """Put the limits in force that held at that moment, and see them journaled."""
    state = await made.state()
    await made.update(update)
    async for item in made.follow(state.seq):
        if isinstance(item, Event) and isinstance(item.payload, SessionUpdated):
            return


async def _definition(
    place: Opened, session: Session, cut: Cut, branch: Branch, ref: Ref | None
) -> AgentSpec | None:
    """Return the definition that the fork goes on under; None: the one it has."""
    if place.project.remote:
        return await _there(place, session, cut, branch)
    engine = await place.runtime.engine()
    directory = _directory(place) if branch.agent or ref is None else Path(ref.directory)
    with contextlib.chdir(directory):  # as a worker would find it
        if branch.agent:
            agent = load_agent(branch.agent, place.project, Overrides(branch.model))
            engine.kit.models.get(agent.model)
            return await engine.register(agent)
        if not branch.model and not cut.state.spec.environment.in_place:
            return None
        spec = await _pinned(session, cut.plan.at)
        if branch.model:
            engine.kit.models.get(branch.model)
            spec = msgspec.structs.replace(spec, model=branch.model)
        return spec


async def _there(place: Opened, session: Session, cut: Cut, branch: Branch) -> AgentSpec | None:
    """Return the server's definition of an agent, or the session's own with another model."""
    if not branch.agent and not branch.model:
        return None
    if branch.agent:
        spec = await (await engine_of(place.runtime)).definition(branch.agent)
    else:
        spec = await _pinned(session, cut.plan.at)
    return msgspec.structs.replace(spec, model=branch.model) if branch.model else spec


async def _pinned(session: Session, at: int) -> AgentSpec:
    """Return the definition as it was pinned: without limits that were put in force later."""
    found: AgentSpec | None = None
    async for event in session.events(until=at):
        match event.payload:
            case (
                SessionCreated(agent=AgentSpec() as agent)
                | SessionUpdated(agent=AgentSpec() as agent)
                | SessionForked(agent=AgentSpec() as agent)
            ):
                found = agent
            case _:
                pass
    assert found is not None, "a session begins with a definition"
    return found


def _directory(place: Opened) -> Path:
    return place.project.root if place.project.file else Path.cwd()
