"""What is asked about a conversation without answering in it: how long it is, and how to say it
shorter.
"""

from typing import Any, Final

from starlette.responses import JSONResponse, Response

from perdure.core import compacting, events as e
from perdure.core.agent import AgentSpec, Compaction
from perdure.core.content import ContextItem, ModelItem, Text, Usage
from perdure.core.errors import (
    BudgetReached,
    Conflict,
    ErrorInfo,
    InvalidRequest,
    PerdureError,
    Unavailable,
)
from perdure.core.state import State
from perdure.doors.http import Call
from perdure.doors.openai import inputs, outputs
from perdure.doors.openai.problems import Wording
from perdure.doors.openai.responses.making import Maker, conversation_id
from perdure.doors.openai.tools import declared
from perdure.doors.openai.turns.items import usage_json
from perdure.engine.session import Session
from perdure.ports.model import ModelRequest
from perdure.wire.history import estimate

Json = dict[str, Any]
_NAME: Final = "openai-compaction"
# What another request may cure, and the same one never will.
_THEIRS: Final = frozenset((
    "E-MODEL-NAME", "E-MODEL-UNKNOWN", "E-MODEL-REJECT", "E-MODEL-REFUSED",
    "E-CONTEXT-OVERFLOW", "E-CONTEXT-FULL",
))  # fmt: skip


async def input_tokens(call: Call) -> Response:
    """POST /responses/input_tokens: an estimate, four characters a token."""
    body = await call.json()
    given = inputs.as_list(body.get("input") or [])
    instructions, given = inputs.with_instructions(given, str(body.get("instructions") or ""))
    items, _ = await _read(call, body, given)
    maker = call.services.tools(call.principal.project)
    tools = await declared(body.get("tools") or [], maker)
    request = ModelRequest("", instructions, tuple(items), tuple(tools.specs))
    count = estimate(request, 0).input_tokens
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})


async def compact(call: Call) -> Response:
    """POST /responses/compact: the model says in few words what was said in many."""
    body = await call.json()
    if not isinstance(body.get("model"), str):
        raise Wording(400, "Missing required parameter: 'model'.", param="model")
    given = inputs.as_list(body.get("input") or [])
    instructions, given = inputs.with_instructions(given, str(body.get("instructions") or ""))
    items, listed = await _read(call, body, given)
    new_id = call.services.new_id().lower()
    summary, usage = "", Usage()
    if items:
        model = call.services.model(body["model"])
        summary, usage = await _summary(call, f"cmpr_{new_id}", model, instructions, items)
    # What the user said stays word for word. The vendor's types know no message of a user's among
    # the output, so it is in the one item that stands for all.
    said = [inputs.text_of_message(i) for i in listed if i.get("role") == "user"]
    sealed = {
        "id": f"cmp_{new_id}",
        "type": "compaction",
        "encrypted_content": outputs.sealed(summary, said),
    }
    return JSONResponse(
        {
            "id": f"resp_{new_id}",
            "object": "response.compaction",
            "created_at": call.services.seconds(),
            "output": [sealed],
            "usage": usage_json(usage),
        }
    )


async def _read(call: Call, body: Json, given: list[Json]) -> tuple[list[ContextItem], list[Json]]:
    """Return what a model would read of a request, and its own input items."""
    maker = Maker(call)
    if body.get("previous_response_id") and body.get("conversation"):
        said = "Use either previous_response_id or conversation, not both."
        raise Wording(400, said, param="conversation")
    listed = inputs.named(given, call.services.new_id())
    past: list[ContextItem] = []
    previous = await maker.previous(str(body.get("previous_response_id") or ""))
    if previous is not None:
        past = await Session(call.engine, previous.session).context(previous.until)
    elif body.get("conversation"):
        name = conversation_id(body["conversation"])
        if not name.startswith("conv_") or await call.engine.kit.store.session(name) is None:
            raise Wording(404, f"Conversation with id '{name}' not found.")
        past = await Session(call.engine, name).context()
    return [*past, *inputs.read(listed, {}).items], listed


def _unwritten(error: ErrorInfo | None) -> PerdureError:
    """Return why there is no summary: it is the request's fault, or it passes."""
    code, start = "E-MODEL-SUMMARY", "The summary could not be written"
    if error is None:
        return Conflict(code, f"{start}: somebody ended its session. Ask for it again.")
    said = f"{start}: {error.message} [{error.code}]"
    if error.code.startswith("E-LIMIT-"):
        return BudgetReached(code, said)
    if error.code in _THEIRS:
        return InvalidRequest(code, said)
    return Unavailable(code, said, retry_after_s=error.retry_after_s)


async def _summary(
    call: Call, name: str, model: str, instructions: str, items: list[ContextItem]
) -> tuple[str, Usage]:
    """Have the summary written, in a session of its own so that it is in the journal, too."""
    told = compacting.told(items, max(compacting.size(items) // 2, 1000))
    wanted = f"{compacting.INSTRUCTIONS}\n\n{instructions}".strip()
    spec = AgentSpec(
        _NAME,
        model,
        wanted,
        max_output_tokens=compacting.SUMMARY_TOKENS,
        compaction=Compaction(on_overflow=False),
    )
    await call.engine.create(e.SessionCreated(name, spec))
    session = Session(call.engine, name)
    state: State = await session.send(told, by=call.principal.id)
    if state.turn is not None or state.last_status != "completed":
        raise _unwritten(state.last_error)
    replies = [item for item in await session.context() if isinstance(item, ModelItem)]
    words = [part.text for part in replies[-1].items if isinstance(part, Text)]
    usage = Usage(state.spent.input_tokens, state.spent.output_tokens)
    return f"{compacting.HEAD}\n{''.join(words)}", usage
