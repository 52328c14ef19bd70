"""`perdure run`: give an agent something to do, and look on."""

import asyncio
import json as plain_json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import msgspec

from perdure.cli.attend import Attendant, Ending, tail_of
from perdure.cli.elsewhere import check_project, known_there, ref_there
from perdure.cli.failing import print_error
from perdure.cli.ids import matching, resolve, rows_of
from perdure.cli.me import fresh_key, whoami
from perdure.cli.onlooker import Manner, Onlooker, status_of_session
from perdure.cli.places import Places, Ref
from perdure.cli.screen import Screen
from perdure.cli.wire import Letter, Order
from perdure.config import Project, load_project
from perdure.core.content import as_content
from perdure.core.errors import InvalidRequest
from perdure.core.inbox import Say
from perdure.stores.system import RandomIds

TEXT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Wish:
    """What was typed behind `run`."""

    agent: str
    text: str = ""
    workspace: str = ""
    in_place: bool = False
    model: str = ""
    session: str = ""
    limits: tuple[str, ...] | list[str] = ()
    adopt: bool = False
    unsandboxed: bool = False


def run(wish: Wish, *, yes: bool, json: bool, detach: bool, no_wait: bool) -> int:
    """Carry out the verb; return the exit status."""
    screen = Screen(json=json)
    project = load_project(Path.cwd())
    check_project(
        project, workspace=wish.workspace, in_place=wish.in_place, unsandboxed=wish.unsandboxed
    )
    places = Places(project)
    places.prepare()
    ref, create = _there(wish, project) if project.remote else _ref(wish, project, places)
    text = _text(wish.text, new=create)
    letters = (message(text),) if text else ()
    order = order_of(ref, project, letters, create=create, adopt=wish.adopt)
    if create:
        order = msgspec.structs.replace(order, workspace=_workspace(wish))
    manner = Manner(yes=yes, detach=detach, no_wait=no_wait, greet=True)
    return look_on(screen, places, ref, order, manner)


def look_on(screen: Screen, places: Places, ref: Ref, order: Order, manner: Manner) -> int:
    """See `order` through on `screen`; return the exit status."""
    places.prepare()  # a session that began elsewhere, at a server, has left nothing here
    onlooker = Onlooker(screen, ref.session, manner)
    attendant = Attendant(order, Path(ref.directory), places, onlooker)
    onlooker.attendant = attendant
    onlooker.remember = lambda: places.remember(ref)
    ending = attendant.attend()
    status = finish(screen, ref.session, ending, onlooker)
    if screen.verbose:
        screen.error(f"What its workers and tools printed: {places.log(ref.session)}")
        screen.error(tail_of(places.log(ref.session)))
    return status


def finish(screen: Screen, session: str, ending: Ending, onlooker: Onlooker) -> int:
    """Say how it ended; return the exit status."""
    if ending.trouble is not None:
        trouble = ending.trouble
        fields = {"code": trouble.code, "message": trouble.message, "hint": trouble.hint}
        onlooker.end_line()
        print_error(screen, fields | {"session": session})
        return trouble.status
    onlooker.left(ending.why)
    status = 130
    if ending.why == "still":
        status = status_of_session(ending.still)
    elif ending.why == "detached" and onlooker.manner.detach:
        status = 0
    if screen.json:
        word = ending.still.status if ending.still else ending.why
        screen.line(plain_json.dumps({"session": session, "status": word, "exit": status}))
    return status


def order_of(
    ref: Ref, project: Project, letters: tuple[Letter, ...], *, create: bool, adopt: bool
) -> Order:
    """Return the order for a worker on the session that `ref` tells about."""
    return Order(
        session=ref.session,
        agent=ref.agent,
        project=str(project.root),
        model=ref.model,
        in_place=ref.in_place,
        unsandboxed=ref.unsandboxed,
        limits=ref.limits,
        create=create,
        adopt=adopt,
        letters=letters,
    )


def message(text: str) -> Letter:
    """Return a message to the session, under a key of its own."""
    return Letter(fresh_key(), Say("message", as_content(text), whoami()))


def _ref(wish: Wish, project: Project, places: Places) -> tuple[Ref, bool]:
    """Return how the session's agent is found, and whether the session may be made."""
    named = wish.agent if wish.agent.startswith("@") or places.ref(wish.agent) else ""
    session = resolve(project, named or wish.session) if named or "@" in wish.session else ""
    session = session or wish.session
    known = places.ref(session) if session else None
    if known is not None:
        return _on_top(known, wish, named), False
    ref = Ref(
        session=session or RandomIds().session(),
        agent=wish.agent,
        directory=str(_directory(project)),
        model=wish.model,
        in_place=wish.in_place,
        unsandboxed=wish.unsandboxed,
        limits=tuple(wish.limits),
    )
    if named:
        raise InvalidRequest(
            "E-USAGE", f"Nobody knows here which agent works on {session}.",
            f'perdure run AGENT "…" --session {session}',
        )  # fmt: skip
    return ref, True


def _there(wish: Wish, project: Project) -> tuple[Ref, bool]:
    """Return the session on the server, and whether it may be made."""
    rows = asyncio.run(rows_of(project))
    named = known_there(rows, wish.agent)
    if named is None and wish.agent.startswith("@"):
        named = known_there(rows, matching(rows, wish.agent))
    session = matching(rows, wish.session) if "@" in wish.session else wish.session
    if named is not None:
        return ref_there(named.id, named.agent), False
    ref = ref_there(session or RandomIds().session(), wish.agent)
    changed = msgspec.structs.replace(ref, model=wish.model, limits=tuple(wish.limits))
    return changed, known_there(rows, session) is None


def _on_top(known: Ref, wish: Wish, named: str) -> Ref:
    """Keep what was said when the session began, except for what is said now."""
    if wish.workspace:
        raise InvalidRequest(
            "E-USAGE", f"Session {known.session} has its workspace already.",
            "Leave --workspace out, or begin a new session.",
        )  # fmt: skip
    changes: dict[str, object] = {}
    if not named and wish.agent != known.agent:
        changes |= {"agent": wish.agent, "directory": str(Path.cwd())}
    if wish.model:
        changes["model"] = wish.model
    if wish.limits:
        changes["limits"] = tuple(wish.limits)
    return msgspec.structs.replace(known, **changes)


def _directory(project: Project) -> Path:
    """Where workers run: in the project, so that what an agent calls `./x` does not move."""
    return project.root if project.file else Path.cwd()


def _workspace(wish: Wish) -> str:
    """Return the directory that a workspace begins with. Raises `InvalidRequest`."""
    if not wish.workspace:
        if wish.in_place:
            raise InvalidRequest(
                "E-USAGE", "--in-place needs the directory.", "--workspace DIR --in-place"
            )
        return ""
    path = Path(wish.workspace).expanduser()
    if not path.is_dir():
        raise InvalidRequest("E-USAGE", f"There is no directory {path}.")
    return str(path.resolve())


def _text(text: str, *, new: bool) -> str:
    """Return what to do; from standard input for -, or where a session is to begin and it is a
    pipe or a file. Raises `InvalidRequest` when a session would begin with nothing to do.
    """
    if text == "-" or (new and not text and _is_given(sys.stdin)):
        text = sys.stdin.read(TEXT_BYTES).strip()
    if new and not text:
        raise InvalidRequest(
            "E-USAGE",
            "Nothing was said that is to be done, so no session was begun.",
            'perdure run AGENT "what to do"',
        )
    return text


def _is_given(stream: TextIO) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
