"""What waits for people, over all sessions, as a list and as JSON."""

import json as plain_json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from perdure.cli.again import open_question
from perdure.cli.asked import asked_in
from perdure.cli.asking import rule_of
from perdure.cli.lines import imported
from perdure.cli.opened import Opened
from perdure.cli.screen import Screen
from perdure.cli.text import clean, duration, one_line, plural, width_of, wrap
from perdure.cli.wire import Asked, plain
from perdure.core.codec import arguments_of
from perdure.core.errors import InvalidRequest
from perdure.core.state import State
from perdure.engine.session import Session
from perdure.engine.tool_errors import CHOICES
from perdure.ports.store import SessionRow

SCOPES: Final = ("once", "session", "rule")
_INDENT: Final = 8
_NO_RESULT: Final = (
    "It left, and no result came back. Nobody knows whether it happened, so it is not called again"
    " by itself."
)


@dataclass(frozen=True)
class Open:
    """One question of one session. `above` are the sessions it is a subagent of, from the top."""

    session: Session
    state: State
    asked: Asked
    above: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What stands for this question on the command line."""
        return f"{self.state.id}:{self.asked.action_id}"


async def everywhere(place: Opened) -> list[Open]:
    """Return what waits in all sessions, those of a tree together."""
    rows = await place.runtime.sessions()
    above = {row.id: _above(rows, row) for row in rows}
    order = {row.id: at for at, row in enumerate(rows)}

    def tree(row: SessionRow) -> tuple[int, tuple[str, ...]]:
        path = (*above[row.id], row.id)
        return order.get(path[0], 0), path

    found: list[Open] = []
    for row in sorted(rows, key=tree):
        if row.waiting:
            session = await place.session(row.id)
            state = await session.state()
            found += [Open(session, state, asked, above[row.id]) for asked in asked_in(state)]
    return found


def _above(rows: Sequence[SessionRow], row: SessionRow) -> tuple[str, ...]:
    parents = {each.id: each.parent for each in rows}
    path: list[str] = []
    name = row.parent
    while name and name not in path:
        path.insert(0, name)
        name = parents.get(name, "")
    return tuple(path)


def as_json(each: Open, now_us: int) -> dict[str, Any]:
    """Return a question with all that is known about it."""
    asked = each.asked
    at_us = each.state.actions[asked.action_id].asked_at_us
    expires = asked.expires_at_us
    return {
        "session": each.state.id,
        "agent": each.state.spec.name,
        "above": list(each.above),
        "imported": each.state.imported,
        "imported_by": each.state.imported_by,
        **plain(asked),
        "tool": asked.call.tool,
        "rule": rule_of(asked),
        "said": asked.said,
        "asked_at_us": at_us,
        "age_s": max(0, now_us - at_us) / 1_000_000,
        "expires_in_s": None if expires is None else (expires - now_us) / 1_000_000,
        "scopes": list(SCOPES) if asked.kind == "approve" else [],
        "decide_with": _way(each),
    }


def show(screen: Screen, waiting: Sequence[Open], now_us: int) -> None:
    """Print what waits."""
    if screen.json:
        screen.line(plain_json.dumps([as_json(each, now_us) for each in waiting]))
        return
    if not waiting:
        screen.line("Nothing waits for anybody.")
        return
    screen.line(f"  {plural(len(waiting), 'question')} for you")
    before = ""
    for each in waiting:
        if each.state.id != before:
            before = each.state.id
            path = " › ".join((*each.above, before))
            screen.line()
            screen.line("  " + screen.bold(path) + screen.dim(f"  {each.state.spec.name}"))
            if each.state.imported:
                screen.line("    " + screen.style(imported(each.state), "yellow"))
        _question(screen, each, now_us)


def _question(screen: Screen, each: Open, now_us: int) -> None:
    asked = each.asked
    action = each.state.actions[asked.action_id]
    sign = screen.style("    ⏸ ", "yellow") + screen.bold(one_line(asked.call.tool))
    facts = [each.name, f"{duration(now_us - action.asked_at_us)} ago"]
    if action.expires_at_us is not None:
        left = action.expires_at_us - now_us
        facts.append(f"expires in {duration(left)}" if left > 0 else "about to expire")
    screen.line(sign + screen.dim("   " + " · ".join(facts)))
    for name, value in _arguments(asked):
        _wrapped(screen, f"{one_line(name)}: ", value)
    if asked.kind == "resolve":
        _wrapped(screen, "asks  ", open_question(asked.question))
        if not asked.question.endswith(CHOICES):
            _wrapped(screen, "why   ", _NO_RESULT, dim=True)
    if rule := rule_of(asked):
        _wrapped(screen, "rule  ", rule, dim=True)
    if asked.reason:
        _wrapped(screen, "why   ", asked.reason, dim=True)
    if asked.said:
        _wrapped(screen, "said  ", f"“{asked.said}”", dim=True)
    screen.line(" " * _INDENT + _way(each))


def _way(each: Open) -> str:
    """Return what to type about a question."""
    if each.asked.kind == "approve":
        return f"perdure approve {each.name} --allow [--for session|rule] | --deny | --edit JSON"
    if each.asked.kind == "answer":
        return f"answered by: perdure answer {each.state.id}:{each.asked.call.id} …"
    return f"perdure resume {each.state.id} --as done --result JSON | --as failed | --rerun"


def _wrapped(screen: Screen, label: str, text: str, *, dim: bool = False) -> None:
    """Print all of a text, however long it is."""
    room = max(20, screen.width - _INDENT - width_of(label))
    lines = wrap(clean(text), room)
    for at, line in enumerate(lines):
        shown = (label if at == 0 else " " * width_of(label)) + line
        screen.line(" " * _INDENT + (screen.dim(shown) if dim else shown))


def _arguments(asked: Asked) -> list[tuple[str, str]]:
    try:
        given = arguments_of(asked.call.arguments)
    except InvalidRequest:
        return [("arguments", asked.call.arguments)]
    return [
        (name, value if isinstance(value, str) else plain_json.dumps(value, ensure_ascii=False))
        for name, value in given.items()
    ]
