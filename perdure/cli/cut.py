"""What going on from an earlier moment would mean, said before it is done; and the question."""

import json as plain_json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from perdure.cli.changes import between
from perdure.cli.opened import Opened
from perdure.cli.screen import Screen
from perdure.cli.text import arguments, clip, one_line, pad, plural, usd, wrap
from perdure.cli.wire import plain
from perdure.core.agent import Effect
from perdure.core.content import ToolCall
from perdure.core.events import ModelResponded, ToolFinished, ToolRequested, ToolStarted
from perdure.core.state import State
from perdure.engine.branching import Again, Preflight
from perdure.engine.session import Session
from perdure.ports.sandbox import Change

_LABEL: Final = 18
_FILES_SHOWN: Final = 4
_CALLS_SHOWN: Final = 8
VERDICTS: Final = {
    "again": ("runs again", "cyan"),
    "ask": ("asked anew", "yellow"),
    "decide": ("you decide", "yellow"),
    "told": ("decided", "dim"),
}


class Happened(msgspec.Struct, frozen=True):
    """A call with an effect that was made after the moment: going back does not undo it."""

    seq: int
    call: ToolCall
    status: str = "under way"


class Cut(msgspec.Struct, frozen=True):
    """A moment of a session, the session now, and what lies between their files.

    `snapshot` is what the workspace becomes ("": there is none); `changes` are None where there
    are no files to compare.
    """

    state: State
    now: State
    plan: Preflight
    happened: tuple[Happened, ...]
    snapshot: str
    changes: tuple[Change, ...] | None = None

    @property
    def later(self) -> int:
        """How many events came after the moment."""
        return self.now.seq - self.plan.at


async def cut_at(place: Opened, session: Session, at: int, *, same: bool) -> Cut:
    """Look at event `at` of the session, without touching it. Raises `NotFound`.

    The `same` session has a workspace before it was opened, too: as it was at its beginning.
    """
    now = await session.state()
    plan = await session.preflight(at)
    changes = None
    snapshot = plan.snapshot or (now.first_snapshot if same else "")
    if snapshot:
        changes = await between(place, now.snapshot, snapshot, (session.id,))
    happened = [each async for each in _happened(session, at)]
    open_ = {call.call_id for call in plan.calls}
    rest = tuple(each for each in happened if each.call.id not in open_)
    return Cut(await session.state(at), now, plan, rest, snapshot, changes)


async def _happened(session: Session, at: int) -> AsyncIterator[Happened]:
    """Yield the calls after event `at` whose effects nobody can take back."""
    calls: dict[str, ToolCall] = {}
    once: set[str] = set()
    left: dict[str, Happened] = {}
    async for event in session.events():
        match event.payload:
            case ModelResponded(items=items):
                calls |= {item.id: item for item in items if isinstance(item, ToolCall)}
            case ToolRequested(call_id=name, effect=Effect.ONCE):
                once.add(name)
            case ToolStarted(call_id=name) if event.seq > at and name in once & set(calls):
                left.setdefault(name, Happened(event.seq, calls[name]))
            case ToolFinished(call_id=name, status=status) if name in left:
                left[name] = msgspec.structs.replace(left[name], status=status)
            case _:
                pass
    for each in left.values():
        yield each


def show_cut(screen: Screen, cut: Cut, files: str, model: str = "") -> None:
    """Print what comes from the journal, what becomes of the files, which calls are open."""
    plan = cut.plan
    numbers = dict(plan.from_journal)
    if cut.state.turn is not None and cut.state.turn.model is not None:
        numbers["model calls"] -= 1  # it had not come back yet
    taken = [plural(number, kind[:-1]) for kind, number in numbers.items()]
    free = f" ({usd(plan.spent_micro_usd)} not paid again)" if plan.spent_micro_usd else ""
    _fact(screen, "from the journal", ", ".join(taken) + f"; none of it is done again{free}")
    _fact(screen, "files", files)
    for call in plan.calls:
        label, style = VERDICTS[call.verdict]
        _fact(screen, label, f"{_call(call)}   {call.why}", style)
    if not plan.calls:
        model = model or cut.state.spec.model
        then = f"{model} is called" if plan.turn_open else "nothing until it is given something"
        _fact(screen, "then", f"{then}; no tool call is open at this moment")
    for each in cut.happened[:_CALLS_SHOWN]:
        text = (
            f"{_call(each.call)}   {each.status} at event {each.seq}; a model may ask for it anew"
        )
        _fact(screen, "stays done", text, "yellow")
    if len(cut.happened) > _CALLS_SHOWN:
        _fact(screen, "", f"and {len(cut.happened) - _CALLS_SHOWN} more")
    screen.line()


def changed_files(changes: Sequence[Change]) -> str:
    """Return which files differ: `2 files differ from now: a.py, b.py`."""
    if not changes:
        return "no file differs from now"
    names = ", ".join(one_line(change.path) for change in changes[:_FILES_SHOWN])
    more = " …" if len(changes) > _FILES_SHOWN else ""
    verb = "differs" if len(changes) == 1 else "differ"
    return f"{plural(len(changes), 'file')} {verb} from now: {names}{more}"


def is_unsafe(cut: Cut) -> bool:
    """Whether calls are open that may not simply be run again."""
    return any(call.verdict == "decide" for call in cut.plan.calls)


def agreed(screen: Screen, cut: Cut, question: str, command: str, *, yes: bool) -> int | None:
    """Ask, unless it is agreed already. None: do it; else the status to leave with."""
    if screen.json and not yes:
        document(screen, {"session": cut.now.id, "done": False, "preflight": planned(cut)})
        return 4
    return None if yes else screen.agreed(question, command)


def document(screen: Screen, fields: dict[str, Any]) -> None:
    """Print one JSON document."""
    screen.line(plain_json.dumps(fields))


def planned(cut: Cut) -> dict[str, Any]:
    """Return the preflight as data."""
    changes = cut.changes
    files = None if changes is None else [{"path": c.path, "kind": c.kind} for c in changes]
    found: dict[str, Any] = plain(cut.plan)
    happened = [{"seq": h.seq, **plain(h.call), "status": h.status} for h in cut.happened]
    return {**found, "happened_since": happened, "files": files}


def _call(call: Again | ToolCall) -> str:
    return one_line(f"{call.tool}({arguments(call.arguments)})")


def _fact(screen: Screen, label: str, text: str, style: str = "dim") -> None:
    first, *rest = wrap(text, screen.width - _LABEL - 4)
    name = screen.style(pad(clip(label, _LABEL), _LABEL), style)
    screen.line(f"  {name}  {first}")
    for line in rest:
        screen.line(" " * (_LABEL + 4) + line)
