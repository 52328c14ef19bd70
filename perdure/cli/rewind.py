"""`perdure rewind`: take a session back, transcript and files together."""

import asyncio
from pathlib import Path

import msgspec

from perdure.cli.attend import Attendant, Ending, Listener
from perdure.cli.background import drive
from perdure.cli.cut import Cut, agreed, changed_files, cut_at, document, planned, show_cut
from perdure.cli.failing import fields_of, print_error, status_of
from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.places import Places, Ref
from perdure.cli.resume import ref_of
from perdure.cli.run import order_of
from perdure.cli.screen import Screen
from perdure.cli.text import plural
from perdure.config import load_project
from perdure.core.errors import InvalidRequest, Unavailable
from perdure.core.events import EnvironmentRestored, Event, TurnEnded
from perdure.core.state import State
from perdure.engine.answers import ensure_open
from perdure.engine.session import Session

PATIENCE_S = 30.0


def rewind(typed: str, to: int, *, yes: bool, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    cut, ref = opened(lambda place: _look(place, typed, to))
    me = cut.now.id
    if not json:
        _announce(screen, cut)
    command = f"perdure rewind {me} --to {to} --yes"
    status = agreed(screen, cut, "Take it back?", command, yes=yes)
    if status is not None:
        return status
    state = opened(lambda place: _rewind(place, cut))
    files = _Files()
    ending = _restore(ref, state, files) if ref is not None and state.restore_due else None
    if ending is not None and not files.restored:
        return _files_left(screen, me, ending)
    if json:
        fields = {"session": me, "to": to, "seq": state.seq, "status": "paused", "done": True}
        document(screen, {**fields, "files": plain_files(files), "preflight": planned(cut)})
        return 0
    screen.line(f"  {screen.bold(me)} is back at event {to}, paused.{files.in_words()}")
    steps = [f"perdure resume {me}", f'perdure run {me} "…"', f"perdure show {me}"]
    screen.line("  " + screen.dim("next  ") + screen.dim(" · ").join(steps))
    return 0


async def _look(place: Opened, typed: str, to: int) -> tuple[Cut, Ref | None]:
    """Look at the moment. Where a worker is needed its agent's code is found before anything is
    done.
    """
    session = await place.session(typed)
    now = await session.state()
    if now.parent:
        raise InvalidRequest(
            "E-REWIND", f"{now.id} is a subagent: only {now.parent} can be taken back.",
            f"perdure fork {now.id} --at {to}    makes a session of its own of it",
        )  # fmt: skip
    ensure_open(now)
    if to == now.seq:
        raise InvalidRequest("E-USAGE", f"{now.id} is at event {to} already.")
    if to < 1:
        raise InvalidRequest("E-USAGE", "Events are counted from 1.")
    cut = await cut_at(place, session, to, same=True)
    works = now.turn is not None or bool(cut.snapshot)
    return cut, ref_of(place, now) if works else None


def _announce(screen: Screen, cut: Cut) -> None:
    me, spec = cut.now.id, cut.now.spec
    screen.line()
    title = f"▸ {me} back to event {cut.plan.at} of {cut.now.seq}"
    screen.line("  " + screen.bold(title) + "  " + screen.dim(f"{spec.name} · {spec.model}"))
    screen.line()
    if cut.now.turn is not None:
        text = "  ! It has a turn open: that is interrupted first."
        screen.line(screen.style(text, "yellow"))
    show_cut(screen, cut, _files_then(cut))
    screen.line(
        f"  {plural(cut.later, 'event')} will count no longer. They stay in the journal, and what "
        "was spent stays spent."
    )
    screen.line()


def _files_then(cut: Cut) -> str:
    state = cut.now
    if cut.changes is not None:
        where = f"{state.source} itself is" if state.spec.environment.in_place else "are"
        return f"{where} taken back; {changed_files(cut.changes)}"
    return "none"


async def _rewind(place: Opened, cut: Cut) -> State:
    """Take the session back through its inbox, whoever owns it; return its state then."""
    session = await place.session(cut.now.id)
    state = await session.state()
    try:
        async with asyncio.timeout(PATIENCE_S):
            if state.turn is not None:
                await session.interrupt(by=whoami())
                await drive(place, state)
                await _turn_over(session, state)
            event = await session.rewind(cut.plan.at, by=whoami())
    except TimeoutError as error:
        raise Unavailable(
            "E-REWIND-LATE",
            f"Whoever works on {session.id} has not taken it back within {PATIENCE_S:g} s.",
            f"perdure show {session.id}, and once more",
        ) from error
    return await session.state(event.seq)


async def _turn_over(session: Session, state: State) -> None:
    async for item in session.follow(state.seq):
        if isinstance(item, Event) and isinstance(item.payload, TurnEnded):
            return


class _Files(Listener):
    """Looks on while a worker brings the files back."""

    def __init__(self) -> None:
        self.restored: EnvironmentRestored | None = None

    def event(self, event: Event) -> None:
        """Take note of what was restored."""
        if isinstance(event.payload, EnvironmentRestored):
            self.restored = event.payload

    def in_words(self) -> str:
        """Return what became of the files, as a sentence."""
        if self.restored is None:
            return ""
        done = plural(self.restored.count, "file") if self.restored.count else "no file"
        kept = self.restored.kept
        left = (
            f"; left alone, because somebody else changed them: {', '.join(kept)}" if kept else ""
        )
        return f" Its files are, too: {done} put back{left}."


def plain_files(files: _Files) -> dict[str, object] | None:
    """Return what became of the files as data."""
    done = files.restored
    return None if done is None else {"restored": done.count, "kept": list(done.kept)}


def _restore(ref: Ref, state: State, files: _Files) -> Ending:
    """Let a worker bring the files back; return when it has."""
    project = load_project(Path.cwd())
    order = order_of(ref, project, (), create=False, adopt=False)
    order = msgspec.structs.replace(order, after=state.seq)
    return Attendant(order, Path(ref.directory), Places(project), files).attend()


def _files_left(screen: Screen, me: str, ending: Ending) -> int:
    """Say that the transcript is back and the files are not yet."""
    fields: dict[str, object] = {"code": "E-REWIND-FILES", "hint": f"perdure resume {me}"}
    status, why = 130, "this command was interrupted"
    if ending.trouble is not None:
        status, why = ending.trouble.status, ending.trouble.message
        fields["hint"] = ending.trouble.hint or fields["hint"]
    elif ending.still is not None and ending.still.error is not None:
        status, why = status_of(ending.still.error), ending.still.error.message
        fields["hint"] = fields_of(ending.still.error, me)["hint"] or fields["hint"]
    message = (
        f"{me} is taken back, but its files are not yet: {why} They will be before it goes on."
    )
    print_error(screen, {**fields, "message": message, "session": me})
    return status
