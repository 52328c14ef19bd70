"""Comparisons as plain text, in two columns."""

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final

from perdure.core.content import (
    ContextItem,
    ModelItem,
    Reasoning,
    Text,
    ToolCall,
    UserItem,
    text_of,
)
from perdure.core.state import Spent
from perdure.engine.compare import Changed, Comparison, Side
from perdure.engine.counterfactual import Rerun
from perdure.ports.sandbox import Change

_GAP: Final = " │ "
_LINES: Final = 12  # of one item; what is longer is cut
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~"}


def comparison_text(found: Comparison, width: int = 100) -> str:
    """Return a comparison as text of at most `width` columns."""
    lines = [
        *_row(_title(found.a), _title(found.b), width),
        "",
        f"{found.shared_events} events and {found.shared_items} items of the transcript in common",
        "",
        *_transcripts(found.a.transcript, found.b.transcript, found.shared_items, width),
        *_section("definition", _named(found.definition)),
        *_section("state", _named(found.values)),
        *_section("files", _files(found)),
        *_spent(found.a.spent, found.b.spent, width),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def rerun_text(found: Rerun, width: int = 100) -> str:
    """Return a counterfactual replay as text of at most `width` columns."""
    same = len(found.recorded) if found.differs_at is None else found.differs_at
    lines = [
        *_row("recorded", "now", width),
        "",
        f"{same} items of the transcript in common",
        "",
        *_transcripts(found.recorded, found.rerun, same, width),
    ]
    if found.stopped is not None:
        asked = found.stopped
        lines += [
            "",
            f"Stopped at {asked.tool}({clean(asked.arguments)}): no recorded {asked.what}.",
        ]
    lines += [f"Stub for {s.tool}({clean(s.arguments)})" for s in found.stubs]
    lines += [f"Not given again: {text}" for text in found.skipped]
    lines += _spent(found.spent_recorded, found.spent, width)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def clean(text: str) -> str:
    """Return `text` without characters that a terminal would act on."""
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text)


def item_text(item: ContextItem) -> str:
    """Return what an item says, for people."""
    if isinstance(item, UserItem):
        return f"> {text_of(item.content)}"
    if not isinstance(item, ModelItem):
        return f"= {'(error) ' if item.is_error else ''}{item.text}"
    return "\n".join(_parts(item)) or "(empty reply)"


def _parts(item: ModelItem) -> Iterator[str]:
    for part in item.items:
        if isinstance(part, Text):
            yield part.text
        elif isinstance(part, ToolCall):
            yield f"{part.tool}({part.arguments})"
        elif isinstance(part, Reasoning):
            yield f"({part.text})"
        else:
            yield f"[{part.kind}]"


def _title(side: Side) -> str:
    return f"{side.session} at {side.at}: {side.agent} {side.version}, {side.model}, {side.status}"


def _transcripts(
    a: Sequence[ContextItem], b: Sequence[ContextItem], shared: int, width: int
) -> Iterator[str]:
    for mine, other in zip_longest(a[shared:], b[shared:]):
        yield from _row(
            item_text(mine) if mine is not None else "",
            item_text(other) if other is not None else "",
            width,
        )


def _row(a: str, b: str, width: int) -> Iterator[str]:
    column = max(10, (width - len(_GAP)) // 2)
    for mine, other in zip_longest(_wrapped(a, column), _wrapped(b, column), fillvalue=""):
        yield f"{mine:<{column}}{_GAP}{other}"


def _wrapped(text: str, column: int) -> list[str]:
    lines: list[str] = []
    for line in clean(text).splitlines():
        lines += textwrap.wrap(line, column) or [""]
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"]


def _section(name: str, lines: Iterable[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return ["", name, *found] if found else []


def _named(changes: Iterable[Changed]) -> Iterator[str]:
    for each in changes:
        yield clean(f"{each.name}: {_shown(each.a)} → {_shown(each.b)}")


def _shown(value: Any) -> str:
    if value is None:
        return "(none)"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:59] + "…"


def _files(found: Comparison) -> Iterator[str]:
    if found.files is None:
        yield "not compared: no snapshot to compare, or nobody here can read it"
        return
    for change in found.files:
        yield clean(f"{_SIGNS.get(change.kind, '?')} {change.path}{_size(change)}")


def _size(change: Change) -> str:
    if change.before is None or change.after is None:
        return ""
    return f"  ({len(change.before)} → {len(change.after)} bytes)"


def _spent(a: Spent, b: Spent, width: int) -> list[str]:
    return ["", "spent", *_row(_spent_text(a), _spent_text(b), width)]


def _spent_text(spent: Spent) -> str:
    text = (
        f"{spent.micro_usd / 1_000_000:.4f} USD, {spent.tokens} tokens, {spent.steps} model calls"
    )
    return f"{text}, {spent.tool_calls} tool calls"
