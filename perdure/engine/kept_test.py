"""A session kept as a test: a short file that replays its journal against the agent of today."""

import re
from collections.abc import Sequence
from typing import Final

from perdure.core import events as e
from perdure.core.errors import InvalidRequest
from perdure.core.events import Event
from perdure.core.evolve import fold

_PLACE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

_TEST: Final = '''"""Session {session} kept as a test: {events} events of agent {agent} {version}.

{summary}

Runs offline: the model's answers and the tools' results are in {journal}. It fails when the agent
would decide differently now: what is allowed, asked and refused, schemas and effects of its tools,
limits and retries. When that is intended, make the file anew:

    perdure replay {session} --save-test {file}
"""

from pathlib import Path

from perdure.regression import check

from {module} import {name}


def test_{slug}() -> None:
    check(Path(__file__).with_name("{journal}"), {name})
'''


def render_test(events: Sequence[Event], *, agent: str, file: str) -> str:
    """Return the text of a test for a recorded session.

    `agent` is where the agent is defined, `module:name`; `file` is the test's own file name, and
    its journal (see `export_session`) belongs beside it, with the ending .jsonl. Raises
    `InvalidRequest` (E-REPLAY-AGENT).
    """
    if not _PLACE.fullmatch(agent):
        raise InvalidRequest(
            "E-REPLAY-AGENT", f"{agent!r} does not say where an agent is defined.", "module:name"
        )
    state = fold(events)
    module, _, name = agent.partition(":")
    slug = re.sub(r"\W+", "_", f"{state.spec.name}_{state.id}").strip("_").lower()
    return _TEST.format(
        session=_safe(state.id),
        events=len(events),
        agent=_safe(state.spec.name),
        version=state.version,
        summary=_summary(events),
        journal=journal_name(file),
        file=_safe(file),
        module=module,
        name=name,
        slug=slug,
    )


def journal_name(file: str) -> str:
    """Return the name of the journal that belongs to a test file."""
    stem = re.sub(r"\.py$", "", file.rpartition("/")[2])
    return _safe(f"{stem}.jsonl")


def _summary(events: Sequence[Event]) -> str:
    """Say in a line what is in it."""
    turns = sum(isinstance(each.payload, e.TurnStarted) for each in events)
    calls = sum(isinstance(each.payload, e.ToolRequested) for each in events)
    decisions = sum(isinstance(each.payload, e.ActionResolved) for each in events)
    return f"{turns} turns, {calls} decisions about tool calls, {decisions} decisions of people."


def _safe(text: str) -> str:
    """Return `text` as it may stand in a docstring and in a string of the generated file."""
    return re.sub(r"[^\w.:/ -]", "_", text)
