"""Calls that are left to a client: put as an open question, answered by whoever has the call id.

Nothing is started for such a call. The engine writes down that it is open, and rests; any process
may answer it, days later too.
"""

from collections.abc import Mapping
from typing import Any

from perdure.core import events as e
from perdure.core.agent import ToolSpec
from perdure.core.errors import error_info
from perdure.core.forms import problems
from perdure.core.state import CallState
from perdure.engine.saying import said_with
from perdure.engine.work import Work


async def hand_over(
    work: Work, spec: ToolSpec, call: CallState, arguments: Mapping[str, Any]
) -> None:
    """Put a call to the clients, or tell the model what is wrong with its arguments."""
    if work.stopping:
        return
    wrong = problems(bytes(spec.input_schema), dict(arguments))
    if wrong:
        text = f"{spec.name}: {'; '.join(wrong)}. Nobody was asked."
        info = error_info("E-TOOL-ARGUMENTS", "tool", text, subject=spec.name)
        finished = e.ToolFinished(call.call.id, "error", f"{info.code}: {text}", info)
        work.journal.append(finished)
        return
    question = f"{spec.name}({call.call.arguments})"
    said = await said_with(work, call.call.id)
    action_id = f"a{work.state.next_action}"
    work.journal.append(
        e.ActionRequested(action_id, "answer", call.call.id, question, call.digest, said=said)
    )
